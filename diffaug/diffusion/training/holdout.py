"""The part of the training images that the generator is not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.data.splits import choose_holdout

SMALLEST_CLASS = 20


@dataclass(frozen=True)
class Holdout:
    """The train split in two parts.

    Attributes:
        trained: What the generator is trained on.
        held: What it is not.
        groups: int64, one for each trained image; images of one group or of equal pixels have the same number.
    """

    trained: LabeledImages
    held: LabeledImages
    groups: NDArray[np.int64]


def hold_out(catalog: Catalog, *, fraction: float, limit: int, seed: int) -> Holdout:
    """Takes images off the train split, per class and only from classes of at least 20; groups stay whole.

    Args:
        catalog: Where the images are.
        fraction: Share of each class.
        limit: Largest number in all.
        seed: Decides which.
    """
    images = catalog.images("train")
    items = catalog.items("train")
    chosen = choose_holdout(items, fraction=fraction, limit=limit, smallest=SMALLEST_CLASS, seed=seed)
    held = np.array([path in chosen for path in images.ids], dtype=bool)
    groups = catalog.groups("train")[~held]
    return Holdout(images.select(np.flatnonzero(~held)), images.select(np.flatnonzero(held)), groups)
