"""Matplotlib figures as inline SVG that takes its colors and fonts from the page."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {
    name: f"#0000f{number}"
    for number, name in enumerate(("real", "synthetic", "good", "bad", "ink", "soft", "rule", "page"), start=1)
}
"""Placeholders, each replaced by the page's CSS variable of that name, which differs between light and dark."""

WIDE_PX, NARROW_PX = 760, 350
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": COLORS["ink"],
    "axes.edgecolor": COLORS["rule"],
    "axes.labelcolor": COLORS["soft"],
    "xtick.color": COLORS["soft"],
    "ytick.color": COLORS["soft"],
    "grid.color": COLORS["rule"],
    "lines.linewidth": 2,
}


def both_widths(name: str, description: str, heights: tuple[int, int], draw: Callable[[Figure, bool], None]) -> Markup:
    """A chart for wide and one for narrow screens, of which the style sheet shows one; equal figures, equal bytes.

    Args:
        name: Distinguishes the chart from the page's others, an identifier.
        description: Text for screen readers.
        heights: Of the wide and the narrow chart in px; one point is one px.
        draw: Draws into a figure, the wide one if the second argument is true.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    charts = []
    for kind, width, height in zip(("wide", "narrow"), (WIDE_PX, NARROW_PX), heights, strict=True):
        with mpl.rc_context({**_SETTINGS, "svg.hashsalt": f"{name}-{kind}"}):
            figure = Figure(figsize=(width / 72, height / 72))
            draw(figure, kind == "wide")
            root = _svg(figure)
        _adapt_to_page(root, f"{name}-{kind}")
        attributes = {"class": f"chart {kind}", "role": "img", "aria-label": description}
        root.attrib = {"viewBox": root.attrib["viewBox"], **attributes}
        charts.append(ElementTree.tostring(root, encoding="unicode"))
    return Markup("".join(charts))  # noqa: S704  (ElementTree escapes)


def shortened(text: str, width: int) -> str:
    """Printable text of at most `width` columns; East Asian characters take two."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    used = 0
    for position, character in enumerate(printable):
        used += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if used > width:
            return printable[: max(position - 1, 1)] + "…"
    return printable


def _svg(figure: Figure) -> ElementTree.Element:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that DejaVu lacks: the page's fonts draw them
        figure.savefig(buffer, format="svg", transparent=True, dpi=72, metadata={"Date": None})
    return ElementTree.fromstring(buffer.getvalue())  # noqa: S314  (matplotlib's output)


def _adapt_to_page(root: ElementTree.Element, name: str) -> None:
    """Makes ids unique in the page, colors variables, and the font the page's; drops what the page does not need."""
    for element in list(root.iter()):
        for child in [c for c in element if c.tag.endswith(("}metadata", "}style"))]:
            element.remove(child)
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: value for key, value in element.items()}
        if element.tag == "g":
            attributes.pop("id", None)  # nothing refers to it
        element.attrib = {key: _attribute(name, key, value) for key, value in attributes.items()}


def _attribute(name: str, key: str, value: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    value = re.sub(r"^#|url\(#", lambda match: f"{match[0]}{name}-", value)
    value = re.sub(r"font-family: [^;]*;?", "", re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", value))
    for variable, color in COLORS.items():
        value = value.replace(color, f"var(--{variable})")
    return value
