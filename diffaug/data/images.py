"""Labeled pixels, the form in which images pass between the stages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabeledImages:
    """Images of one size with their classes."""

    pixels: NDArray[np.uint8]  # (N, H, W, C), C being 1 or 3; may be memory-mapped
    labels: NDArray[np.int64]  # (N,), positions in `classes`
    classes: tuple[str, ...]  # a class may have no image here
    ids: tuple[str, ...]  # N paths relative to the data folder or to the pool
    boxes: NDArray[np.int64] | None = None  # (N, 2), see `resize.boxes_of`; None: true proportions do not matter

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Images of each class, int64 (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    @property
    def counts_by_name(self) -> dict[str, int]:
        """Images of each class by name, in class order."""
        return count_by_name(self.labels, self.classes)

    def select(self, positions: NDArray[np.int64]) -> LabeledImages:
        """The images at `positions`, in that order."""
        ids = tuple(self.ids[position] for position in positions)
        boxes = None if self.boxes is None else self.boxes[positions]
        return LabeledImages(np.asarray(self.pixels[positions]), self.labels[positions], self.classes, ids, boxes)


def count_by_name(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    """Images of each class by name, in class order, of class indices int64 (N,)."""
    counts = np.bincount(labels, minlength=len(classes))
    return {name: int(count) for name, count in zip(classes, counts, strict=True)}


def hash_of(images: LabeledImages) -> str:
    """The sha256 of classes, labels and pixels."""
    digest = hashlib.sha256(repr((images.classes, images.pixels.shape)).encode())
    digest.update(np.ascontiguousarray(images.labels).data)
    digest.update(np.ascontiguousarray(images.pixels).data)
    return digest.hexdigest()
