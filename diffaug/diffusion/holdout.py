"""The part of the training images that the generator is not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.data.splits import Item, choose_holdout, unit_names

SMALLEST_CLASS = 20


@dataclass(frozen=True)
class Holdout:
    """The train split in two parts.

    Attributes:
        trained: What the generator is trained on.
        held: What it is not.
        units: int64, one for each trained image; images of one group or of equal pixels have the same number.
    """

    trained: LabeledImages
    held: LabeledImages
    units: NDArray[np.int64]


def hold_out(catalog: Catalog, *, fraction: float, limit: int, seed: int) -> Holdout:
    """Takes images off the train split, per class and only from classes of at least 20; groups stay whole.

    Args:
        catalog: Where the images are.
        fraction: Share of each class.
        limit: Largest number in all.
        seed: Decides which.
    """
    images = catalog.images("train")
    rows = catalog.table[catalog.table["path"].isin(images.ids)]
    items = [Item(*row) for row in rows[["path", "label", "group", "pixel_sha256"]].itertuples(index=False)]
    chosen = choose_holdout(items, fraction=fraction, limit=limit, smallest=SMALLEST_CLASS, seed=seed)
    held = np.array([path in chosen for path in images.ids], dtype=bool)
    names = unit_names(items)
    units = np.unique([names[path] for path in images.ids], return_inverse=True)[1].astype(np.int64)
    return Holdout(images.select(np.flatnonzero(~held)), images.select(np.flatnonzero(held)), units[~held])
