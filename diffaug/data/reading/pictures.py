"""Pictures: each image whole, upright and in its colors, but small, in memory-mapped files."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

MAX_AREA = 16_384  # px; enough to see what an image shows: 128 x 128


class Pictures(Sequence[Pixels]):
    """Images uint8 (h, w, C) of differing shapes, read from the disk one by one.

    Args:
        files: Each uint8 (T,), some images one after another; may be memory-mapped.
        places: For each image the file's position in `files`, and where the image begins in it, int64 (N, 2).
        shapes: Height, width and channels of each, int64 (N, 3).
        max_area: Larger images are reduced to this area, in px.
    """

    def __init__(
        self, files: Sequence[Pixels], places: NDArray[np.int64], shapes: NDArray[np.int64], max_area: float = math.inf
    ) -> None:
        self.files, self.places, self.shapes, self.max_area = files, places, shapes, max_area
        self._lengths = shapes.prod(axis=1)
        self._views = [np.asarray(file) for file in files]  # quicker to index than memory-mapped arrays

    @classmethod
    def in_one_file(cls, values: Pixels, shapes: NDArray[np.int64]) -> Pictures:
        """Images that fill a file one after another."""
        lengths = shapes.prod(axis=1)
        return cls([values], np.column_stack([np.zeros_like(lengths), lengths.cumsum() - lengths]), shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    @overload
    def __getitem__(self, position: int) -> Pixels: ...
    @overload
    def __getitem__(self, position: slice) -> Pictures: ...
    def __getitem__(self, position: int | slice) -> Pixels | Pictures:
        if isinstance(position, slice):
            return self.select(np.arange(len(self))[position])
        file, begin = self.places[position]
        pixels = self._views[file][begin : begin + self._lengths[position]].reshape(self.shapes[position])
        return pixels if pixels.shape[0] * pixels.shape[1] <= self.max_area else reduced(pixels)

    def select(self, positions: NDArray[np.int64]) -> Pictures:
        """The images at `positions`, in that order."""
        return Pictures(self.files, self.places[positions], self.shapes[positions], self.max_area)

    def all_have(self, shape: tuple[int, int, int]) -> bool:
        """Whether each image has this shape."""
        return bool((self.shapes == shape).all())

    def gather(self, positions: NDArray[np.int64]) -> Pixels:
        """The images at `positions` as one array (M, H, W, C), if all images have one shape."""
        length = int(self._lengths[0])
        gathered = np.empty((len(positions), length), np.uint8)
        files, begins = self.places[positions].T
        for file in np.unique(files).tolist():
            chosen = files == file
            gathered[chosen] = self._views[file].reshape(-1, length)[begins[chosen] // length]
        return gathered.reshape(-1, *self.shapes[0])

    def forget(self) -> None:
        """Gives memory back that holds what was read; it is read from the disk again when needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for file in self.files:
                if isinstance(file.base, mmap.mmap):
                    file.base.madvise(mmap.MADV_DONTNEED)

    def small(self) -> Pictures:
        """The same images, none of more than `MAX_AREA` px."""
        return Pictures(self.files, self.places, self.shapes, MAX_AREA)


def reduced(pixels: Pixels, side: int = 0) -> Pixels:
    """An image (H, W, C) made smaller, its proportions kept, to `MAX_AREA` px or to this short side if that is more."""
    height, width = reduced_size(pixels.shape[0], pixels.shape[1], side)
    if (height, width) == pixels.shape[:2]:
        return pixels
    import cv2  # which takes a third of Pillow's time; slow to import

    cv2.setNumThreads(1)  # images are read in parallel
    small = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8).reshape(height, width, -1)


def reduced_size(height: int, width: int, side: int = 0) -> tuple[int, int]:
    """Height and width in px that `reduced` gives; never more than the image has."""
    scale = max(math.sqrt(MAX_AREA / (height * width)), side / min(height, width))
    if scale >= 1:
        return height, width
    h, w = (max(1, math.floor(length * scale + 1e-6)) for length in (height, width))
    return (h, w) if max(h, w) <= MAX_AREA else (min(h, MAX_AREA), min(w, MAX_AREA))
