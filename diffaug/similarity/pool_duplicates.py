"""Which synthetic images of a class show the same."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from diffaug.similarity.thresholds import DUPLICATE_SHARE_OF_DISTANCE, ROUNDING

ROWS_AT_ONCE = 256
Maps = NDArray[np.float32]
"""Descriptors (N, C, h, w), each of length 1."""


def mirrored_distances(queries: Maps, references: Maps) -> NDArray[np.float32]:
    """Distances (N, M) in [0, 2] to references (M, C, h, w) as they are or mirrored, whichever is nearer."""
    rows = queries.reshape(len(queries), -1)
    cosines = [rows @ maps.reshape(len(maps), -1).T for maps in (references, references[..., ::-1])]
    return np.asarray(np.sqrt((2 - 2 * np.maximum(*cosines)).clip(0)), dtype=np.float32)


def duplicate_thresholds(
    maps: Maps, labels: NDArray[np.int64], groups: NDArray[np.int64], num_classes: int, share: float
) -> NDArray[np.float32]:
    """For each class the distance below which two images show the same, float32 (K,).

    Chosen so that at most the share of the real images (N, C, h, w), in all classes and in its own, is as near to
    another group of its class, and then closer by a third, see `DUPLICATE_SHARE_OF_DISTANCE`.
    """
    nearest = np.full(len(maps), np.inf, np.float32)
    for label in range(num_classes):
        own = np.flatnonzero(labels == label)
        for rows in _blocks(own):
            distances = mirrored_distances(maps[rows], maps[own])
            distances[groups[rows][:, None] == groups[own]] = np.inf
            nearest[rows] = distances.min(axis=1, initial=np.inf)
    of_all = _lower_quantile(nearest, share)
    limits = [min(of_all, _lower_quantile(nearest[labels == label], share)) for label in range(num_classes)]
    return np.array(limits, np.float32) * np.float32(DUPLICATE_SHARE_OF_DISTANCE)


def find_duplicates(maps: Maps, threshold: float, known: int = 0) -> NDArray[np.bool_]:
    """Which images show the same as an earlier one that is not a duplicate itself, bool (N,).

    Images nearer than the threshold show the same, and those without any difference always. The first `known` images
    are no duplicates.
    """
    found = np.zeros(len(maps), np.bool_)
    for rows in _blocks(np.arange(known, len(maps))):
        alike = mirrored_distances(maps[rows], maps[: rows[-1] + 1]) < max(threshold, ROUNDING)
        for row, like in zip(rows, alike, strict=True):
            found[row] = bool((like[:row] & ~found[:row]).any())
    return found


def _blocks(positions: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(positions), ROWS_AT_ONCE):
        yield positions[start : start + ROWS_AT_ONCE]


def _lower_quantile(values: NDArray[np.float32], share: float) -> float:
    """The largest value below which at most the share of the finite values lies; 0 without any."""
    finite = np.sort(values[np.isfinite(values)])
    return float(finite[int(share * len(finite))]) if len(finite) else 0.0
