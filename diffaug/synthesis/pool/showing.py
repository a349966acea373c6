"""A pool as a figure and in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.data.labels import class_of
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.runtime.console import printable
from diffaug.runtime.notebook import html_picture, html_table

if TYPE_CHECKING:
    from diffaug.runtime.figures import NotebookFigure

ROW_INCHES, GAP = 0.8, 0.08  # of a row of images; between them, as a fraction of their width
TABLE_CLASSES, TABLE_IMAGES, TABLE_PX = 20, 6, 64


class Shown(Protocol):
    """What is shown of a `Pool`."""

    @property
    def root(self) -> Path: ...  # noqa: D102
    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def image_size(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def dataset_class_to_idx(self) -> Mapping[str, int] | None: ...  # noqa: D102
    @property
    def counts_by_name(self) -> dict[str, int]: ...  # noqa: D102
    def __len__(self) -> int: ...
    def indices_of(self, class_index: int) -> NDArray[np.int64]: ...  # noqa: D102
    def read(self, index: int) -> NDArray[np.uint8]: ...  # noqa: D102


class ShowsImages:
    """Gives a `Pool` what a person looks at."""

    def show(self: Shown, per_class: int = 8, classes: Sequence[Any] | None = None) -> NotebookFigure:
        """A figure with a row of images per class, of all classes or of those named by name or label."""
        return pool_figure(self, per_class, classes)

    def _repr_html_(self: Shown) -> str:
        return pool_html(self)


def pool_figure(pool: Shown, per_class: int, classes: Sequence[Any] | None) -> NotebookFigure:
    """A row of images per class that has any; see `Pool.show`."""
    from diffaug.runtime.figures import NotebookFigure

    if not (isinstance(per_class, int) and per_class > 0):
        raise UsageError(f"per_class must be a whole number above 0, not {per_class!r}", where="Pool.show")
    names = pool.classes
    if classes is not None:
        names = tuple(class_of(label, pool.classes, pool.dataset_class_to_idx, where="Pool.show") for label in classes)
    rows = {name: _spread(pool, name, per_class) for name in names if pool.counts_by_name[name]}
    if not rows:
        raise UsageError("the pool has no images of these classes", where=pool.root, fix="generate some of them")
    height, width = pool.image_size
    columns = max(map(len, rows.values()))
    size = (2 + columns * ROW_INCHES * width / height * (1 + GAP), ROW_INCHES * len(rows) + 0.2)
    figure = NotebookFigure(figsize=size, layout="constrained")
    for axes, name in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, strict=True):
        axes.imshow(_strip([pool.read(int(index)) for index in rows[name]], columns), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        label = f"{printable(name)} ({pool.counts_by_name[name]})"
        axes.text(-0.02, 0.5, label, transform=axes.transAxes, ha="right", va="center", parse_math=False)
    return figure


def pool_html(pool: Shown) -> str:
    """Counts per class with some images, for a notebook."""
    rows = []
    for number, (name, count) in enumerate(pool.counts_by_name.items()):
        shown = _spread(pool, name, TABLE_IMAGES if number < TABLE_CLASSES else 0)
        pictures = [html_picture(_thumbnail(pool.read(int(index))), name) for index in shown]
        rows.append([name, count, *pictures, *[""] * (TABLE_IMAGES - len(pictures))])
    height, width = pool.image_size
    title = html_table(["pool", "images", "size"], [[pool.root, len(pool), f"{width} x {height} px"]])
    return title + html_table(["class", "images", *[""] * TABLE_IMAGES], rows)


def _spread(pool: Shown, name: str, count: int) -> NDArray[np.int64]:
    """Positions of up to `count` images of a class, evenly spread over it."""
    own = pool.indices_of(pool.classes.index(name))
    places = np.unique(np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int))
    return np.asarray(own[places], np.int64)


def _strip(images: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """The images side by side on white, (H, W) or (H, W, 3), as wide as `columns` of them."""
    height, width, channels = images[0].shape
    cell = width + max(1, round(GAP * width))
    strip = np.full((height, columns * cell, channels), 255, np.uint8)
    for number, pixels in enumerate(images):
        strip[:, number * cell : number * cell + width] = pixels
    return strip[..., 0] if channels == 1 else strip


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((TABLE_PX, TABLE_PX))
    array = np.asarray(image)
    return storage.png_bytes(array if array.ndim == 3 else array[..., None])
