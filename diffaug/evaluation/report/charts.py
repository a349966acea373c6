"""The report's charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from diffaug.data.resize import SizeChoice
from diffaug.evaluation.experiment.choice import Choice
from diffaug.evaluation.report.choices import curves
from diffaug.evaluation.report.svg import COLORS, both_widths, shortened
from diffaug.evaluation.statistics.crossed import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCURACY = "balanced accuracy, %"
LABEL_PX, LABEL_COLUMNS, NARROW_LABEL_COLUMNS = 230, 30, 44
ROW_PX, NARROW_ROW_PX = 30, 46
AXIS_PX, SCALE_PX, EDGE_PX = 44, 60, 14  # below a chart, left of it, and where no axis is
MIX_PX, SIZE_PX = 270, 220
MARKERS = {  # shape, color and color inside
    "baseline": ("o", "real", "real"),
    "candidate": ("D", "synthetic", "synthetic"),
    "ablation": ("D", "soft", "page"),
}


@dataclass(frozen=True)
class Row:
    """One row of a chart: a mean with a range, of an arm with a role; no role draws a bar from zero."""

    label: str
    range: Estimate
    role: str = ""


def rows_chart(name: str, description: str, axis: str, rows: Sequence[Row], reference: float | None = None) -> Markup:
    """A chart of at least one row: bars of gains from zero, or markers of arms with a dashed line at a reference.

    `axis` says what the figures are, and in which unit.
    """

    def draw(figure: Figure, wide: bool) -> None:
        axes = _axes(figure, wide, left=LABEL_PX if wide else EDGE_PX, bottom=AXIS_PX)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks([])
        axes.grid(axis="x")
        for number, row in enumerate(rows):
            _draw_row(axes, row, number + (0 if wide else 0.2))
            axes.annotate(
                shortened(row.label, LABEL_COLUMNS if wide else NARROW_LABEL_COLUMNS),
                (-EDGE_PX, number) if wide else (0, number - 0.22),
                xycoords=("axes points", "data"),
                ha="right" if wide else "left",
                va="center",
                annotation_clip=False,
            )
        style = "-" if reference is None else "--"
        axes.set_xlabel(axis)
        axes.axvline(100 * (reference or 0), color=COLORS["soft"], linewidth=1, linestyle=style)
        axes.margins(x=0.04)

    heights = (ROW_PX * len(rows) + AXIS_PX, NARROW_ROW_PX * len(rows) + AXIS_PX)
    return both_widths(name, description, heights, draw)


def mix_chart(choice: Choice) -> Markup:
    """Balanced accuracy to expect over the synthetic fraction, a line per real arm, the chosen in color."""
    lines = curves(choice)
    main = (choice.base, choice.base_arm.how)

    def draw(figure: Figure, wide: bool) -> None:
        axes = _axes(figure, wide, left=SCALE_PX, bottom=AXIS_PX)
        axes.grid(axis="y")
        for key, line in sorted(lines.items(), key=lambda item: item[0] == main):
            axes.errorbar(
                [100 * point.mix.fraction for point in line],
                [100 * point.mean for point in line],
                [100 * point.sd for point in line],
                color=COLORS["synthetic" if key == main else "soft"],
                alpha=1 if key == main else 0.5,
                marker="o",
                elinewidth=1,
            )
        for point in (point for line in lines.values() for point in line if choice.is_of(point)):
            place = (100 * point.mix.fraction, 100 * point.mean)
            axes.plot(*place, "o", markersize=15, markerfacecolor="none", markeredgecolor=COLORS["ink"])
        axes.set_xticks(sorted({100 * point.mix.fraction for line in lines.values() for point in line}))
        axes.set_xlabel("synthetic images in each batch, %")
        axes.set_ylabel(ACCURACY)
        axes.margins(x=0.05)

    description = "Balanced accuracy to expect over the synthetic fraction of each batch"
    return both_widths("mix", description, (MIX_PX, MIX_PX), draw)


def size_chart(choice: SizeChoice) -> Markup:
    """Cross-validated balanced accuracy over the short side of the images, the chosen size in a circle."""
    sides = [score.side for score in choice.scores]
    means = [100 * score.balanced_accuracy for score in choice.scores]

    def draw(figure: Figure, wide: bool) -> None:
        axes = _axes(figure, wide, left=SCALE_PX, bottom=AXIS_PX)
        axes.grid(axis="y")
        errors = [100 * score.standard_error for score in choice.scores]
        axes.errorbar(range(len(sides)), means, errors, color=COLORS["real"], marker="o", elinewidth=1)
        if choice.side in sides:
            place = sides.index(choice.side)
            axes.plot(place, means[place], "o", markersize=15, markerfacecolor="none", markeredgecolor=COLORS["ink"])
        axes.set_xticks(range(len(sides)), [str(side) for side in sides])
        axes.set_ylim(top=min(axes.get_ylim()[1], 101))
        axes.set_xlabel("short side, px")
        axes.set_ylabel(ACCURACY)
        axes.margins(x=0.05)

    description = "Cross-validated balanced accuracy in percent over the short side of the images in px"
    return both_widths("size", description, (SIZE_PX, SIZE_PX), draw)


def _axes(figure: Figure, wide: bool, *, left: float, bottom: float) -> Axes:
    """Axes with margins in px, a few ticks and no frame but the bottom line."""
    from matplotlib.ticker import MaxNLocator

    width, height = 72 * figure.get_size_inches()
    right, top = width - EDGE_PX, height - 6
    axes = figure.add_axes((left / width, bottom / height, (right - left) / width, (top - bottom) / height))
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6 if wide else 4))
    return axes


def _draw_row(axes: Axes, row: Row, place: float) -> None:
    low, mean, high = (100 * value for value in (row.range.low, row.range.mean, row.range.high))
    if row.role:
        marker, color, face = MARKERS[row.role]
        axes.plot([low, high], [place, place], color=COLORS[color])
        axes.plot([mean], [place], marker=marker, color=COLORS[color], markerfacecolor=COLORS[face], markersize=8)
        return
    color = COLORS["good" if mean >= 0 else "bad"]
    excludes_zero = low > 0 or high < 0
    axes.barh(place, mean, height=0.42, color=color, edgecolor=color, alpha=1 if excludes_zero else 0.25)
    axes.plot([low, high], [place, place], color=COLORS["ink"], linewidth=1.5)
