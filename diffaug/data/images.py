"""Labeled pixels, the form in which images pass between the stages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_LABEL = -1


@dataclass(frozen=True)
class LabeledImages:
    """Images of one size with their classes."""

    pixels: NDArray[np.uint8]  # (N, H, W, C), C being 1 or 3; may be memory-mapped
    labels: NDArray[np.int64]  # (N,), positions in `classes`
    classes: tuple[str, ...]  # a class may have no image here
    ids: tuple[str, ...]  # N paths relative to the data folder or to the pool
    boxes: NDArray[np.int64] | None = None  # (N, 2), see `resize.boxes_of`; None: true proportions do not matter
    origins: tuple[str, ...] | None = None  # of N synthetic images, see `synthesis.pool.origins`

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
        origins = None if self.origins is None else tuple(self.origins[position] for position in positions)
        pixels = np.asarray(self.pixels[positions])
        return LabeledImages(pixels, self.labels[positions], self.classes, ids, boxes, origins)


@dataclass(frozen=True)
class ObjectMasks:
    """Where in some labeled images the object of their class is."""

    ids: tuple[str, ...]  # of the M images, as in `LabeledImages`
    pixels: NDArray[np.bool_]  # bool (M, H, W), true at the object; may be memory-mapped. None is empty

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, ids: Iterable[str]) -> ObjectMasks:
        """The masks of these images, in the order of `ids`; images without one are left out."""
        position = {name: number for number, name in enumerate(self.ids)}
        kept = [name for name in ids if name in position]
        if tuple(kept) == self.ids:  # still on the disk
            return self
        return ObjectMasks(tuple(kept), self.pixels[[position[name] for name in kept]])


@dataclass(frozen=True)
class UnlabeledImages:
    """Images of one size without labels."""

    pixels: NDArray[np.uint8]  # uint8 (U, H, W, C), may be memory-mapped
    ids: tuple[str, ...]  # paths relative to the data folder
    weights: NDArray[np.float64]  # how far each looks like the labeled images, float64 (U,) in (0, 1]
    boxes: NDArray[np.int64] | None = None  # int64 (U, 2), see `LabeledImages`
    # int64 (U,), numbered as the groups of the training images, of which each may show one; None: none does
    groups: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, positions: NDArray[np.int64]) -> UnlabeledImages:
        """The images at `positions`, in that order."""
        ids = tuple(self.ids[position] for position in positions)
        boxes, groups = (None if of is None else of[positions] for of in (self.boxes, self.groups))
        return UnlabeledImages(np.asarray(self.pixels[positions]), ids, self.weights[positions], boxes, groups)


@dataclass(frozen=True)
class SeenImages:
    """Images that a generator is trained on or was watched with, the labeled ones first."""

    pixels: NDArray[np.uint8]  # uint8 (N + U, H, W, C)
    ids: tuple[str, ...]  # paths relative to the data folder
    labels: NDArray[np.int64]  # int64 (N + U,), positions in the classes; `NO_LABEL` for unlabeled images
    groups: NDArray[np.int64]  # int64 (N + U,); images of one group, with equal pixels or of one picture share a number

    def __len__(self) -> int:
        return len(self.ids)


def count_by_name(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    """Images of each class by name, in class order, of class indices int64 (N,)."""
    counts = np.bincount(labels, minlength=len(classes))
    return {name: int(count) for name, count in zip(classes, counts, strict=True)}


def hash_of(images: LabeledImages) -> str:
    """The sha256 of classes, labels, origins and pixels."""
    about = (images.classes, images.pixels.shape, *([] if images.origins is None else [images.origins]))
    digest = hashlib.sha256(repr(about).encode())
    digest.update(np.ascontiguousarray(images.labels).data)
    digest.update(np.ascontiguousarray(images.pixels).data)
    return digest.hexdigest()
