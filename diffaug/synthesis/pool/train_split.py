"""The real training images, parted by whether the generator was trained on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.files import HELD_OUT
from diffaug.diffusion.generator.generator import Generator


@dataclass(frozen=True)
class TrainSplit:
    """The train split of a catalog, as a generator knows it.

    Attributes:
        images: All of them.
        groups: int64 (N,); images of one group or of equal pixels have the same number.
        held: Whether each was held out from the generator's training, bool (N,).
    """

    images: LabeledImages
    groups: NDArray[np.int64]
    held: NDArray[np.bool_]

    @classmethod
    def of(cls, catalog: Catalog, generator: Generator) -> TrainSplit:
        """An image counts as held out where the generator says so of its pixels, under whatever name."""
        rows = generator.rows()
        hashes = set() if rows is None else set(rows.loc[rows["part"] == HELD_OUT, "pixel_sha256"])
        held = [item.pixel_sha256 in hashes for item in catalog.items("train")]
        return cls(catalog.images("train"), catalog.groups("train"), np.array(held, dtype=bool))

    def part(self, held: bool) -> LabeledImages:
        """The images that were held out, or those that were not."""
        return self.images.select(np.flatnonzero(self.held == held))
