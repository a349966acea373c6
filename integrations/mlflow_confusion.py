"""The confusion matrix as a picture."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST_LABEL = 18
CLASSES_WITH_NUMBERS = 20
INCHES_PER_CLASS = 0.3
DOTS_PER_INCH = 110


def confusion_png(counts: Sequence[Sequence[float]], classes: Sequence[str]) -> bytes:
    """Draws a confusion matrix, (K, K) counts by true class (row) and predicted class (column), as PNG.

    Each row is drawn as shares of its true class; equal input gives equal bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = row_shares(counts)
    side = 2.6 + INCHES_PER_CLASS * max(len(classes), 6)
    figure = Figure(figsize=(side + 0.6, side), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, shrink=0.7, label="images of the true class, %")
    _label(axes, classes)
    if len(classes) <= CLASSES_WITH_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                color = "white" if share > 0.6 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=color)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about letters that the font lacks: they are drawn as boxes
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def row_shares(counts: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Each row divided by its sum; a class without images stays zero."""
    matrix = np.asarray(counts, np.float64)
    return np.asarray(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-12), np.float64)


def _label(axes: Axes, classes: Sequence[str]) -> None:
    # A dollar sign would begin a formula, and most fonts can't draw what isn't printable.
    printable = ["".join(char if char.isprintable() else "?" for char in name).replace("$", r"\$") for name in classes]
    short = [name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…" for name in printable]
    axes.set_xticks(range(len(short)), short, rotation=90, fontsize=8)
    axes.set_yticks(range(len(short)), short, fontsize=8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
