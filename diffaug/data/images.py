"""Labelled pixels, the form in which images travel between the stages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabeledImages:
    """Images of one size with their classes.

    Attributes:
        pixels: uint8 (N, H, W, C), C being 1 or 3; may be memory-mapped.
        labels: int64 (N,), positions in `classes`.
        classes: Class names; a class may have no image here.
        ids: N strings that name the images: paths relative to the data folder or to the pool.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Images of each class, int64 (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    @property
    def counts_by_name(self) -> dict[str, int]:
        """Images of each class by name, in class order."""
        return {name: int(count) for name, count in zip(self.classes, self.class_counts, strict=True)}

    def select(self, positions: NDArray[np.int64]) -> LabeledImages:
        """The images at `positions`, in that order."""
        return LabeledImages(
            np.asarray(self.pixels[positions]),
            self.labels[positions],
            self.classes,
            tuple(self.ids[i] for i in positions),
        )


def hash_of(images: LabeledImages) -> str:
    """A name for the pixels and labels."""
    digest = hashlib.sha256(repr((images.classes, images.pixels.shape)).encode())
    digest.update(np.ascontiguousarray(images.labels).data)
    digest.update(np.ascontiguousarray(images.pixels).data)
    return digest.hexdigest()
