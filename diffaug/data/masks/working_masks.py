"""Masks at the working size: brought there as their images are."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from diffaug.data.resize import Resize

Mask = NDArray[np.bool_]


def fit_mask(mask: Mask, image_size: tuple[int, int], resize: Resize) -> Mask:
    """Brings a mask (H, W) to `image_size` as `resize.fit_to_size` brings its image, bool (h, w).

    A pixel belongs to the object if it shows any part of it, so that small objects are not lost.
    """
    height, width = mask.shape
    h, w = image_size
    top = left = 0.0
    if resize == "crop":
        scale = max(h / height, w / width)
        top, left = max(0.0, (height - h / scale) / 2), max(0.0, (width - w / scale) / 2)
    by_row = _touched(mask, h, top, height - top)
    return np.ascontiguousarray(_touched(by_row.T, w, left, width - left).T)


def _touched(mask: Mask, count: int, begin: float, end: float) -> Mask:
    """Whether any row in each of `count` equal parts from `begin` to `end` is set, bool (count, W)."""
    edges = begin + np.arange(count + 1) * ((end - begin) / count)
    rows = np.empty((count, mask.shape[1]), np.bool_)
    for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        first = min(math.floor(low + _ROUNDING), len(mask) - 1)
        rows[number] = mask[first : max(first + 1, math.ceil(high - _ROUNDING))].any(axis=0)
    return rows


_ROUNDING = 1e-6  # px


def looks_inverted(mask: Mask) -> bool:
    """Whether most of a mask (H, W) is set, and all four borders are touched, as around an object."""
    borders = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return bool(mask.mean() > 0.5 and all(border.any() for border in borders))
