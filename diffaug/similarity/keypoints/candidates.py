"""For each image a few others that may show the same, and a few that lie farther off and serve as a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.similarity.keypoints.table import KeypointTable

ROWS_AT_ONCE = 64
CANDIDATES = 16
BEYOND = (40, 43)  # ranks of the images to compare with: beyond any usual number of copies of one image


@dataclass(frozen=True)
class Candidates:
    """What rows of keypoints are compared with; -1 where there is nothing more."""

    rows: NDArray[np.int64]  # (Q,)
    images: NDArray[np.int64]  # (Q, 16 + 3), first what may show the same, then what to compare with
    mirrored: NDArray[np.bool_]  # (Q, 16 + 3), whether the row looks more like them when it is mirrored

    @property
    def near(self) -> NDArray[np.int64]:
        """What may show the same (Q, 16)."""
        return self.images[:, :CANDIDATES]


def blocks_of_candidates(table: KeypointTable) -> Iterator[Candidates]:
    """The candidates of each row that has keypoints."""
    base = table.signatures[0, : table.count].astype(np.float32).T
    empty = table.numbers[: table.count] == 0
    filled = np.flatnonzero(table.numbers)
    for start in range(0, len(filled), ROWS_AT_ONCE):
        rows = filled[start : start + ROWS_AT_ONCE]
        plain, mirrored = (signatures[rows].astype(np.float32) @ base for signatures in table.signatures)
        likeness = np.maximum(plain, mirrored)
        likeness[:, empty] = -np.inf
        likeness[np.arange(len(rows)), table.images[rows]] = -np.inf
        images = _chosen(likeness)
        yield Candidates(rows, images, np.take_along_axis(mirrored > plain, images, axis=1))


def _chosen(likeness: NDArray[np.float32]) -> NDArray[np.int64]:
    """Images (Q, 16 + 3) by likeness (Q, N): the first 16, then those at the ranks beyond or else the last ones."""
    kept = min(BEYOND[1], likeness.shape[1])
    nearest = np.argpartition(-likeness, kept - 1, axis=1)[:, :kept]
    values = np.take_along_axis(likeness, nearest, axis=1)
    order = np.lexsort((nearest, -values), axis=1)
    nearest, values = np.take_along_axis(nearest, order, axis=1), np.take_along_axis(values, order, axis=1)
    nearest[np.isneginf(values)] = -1
    last = (nearest >= 0).sum(axis=1)[:, None]
    ranks = last - np.arange(1, 1 + BEYOND[1] - BEYOND[0])
    beyond = np.where(ranks >= 0, np.take_along_axis(nearest, ranks.clip(0), axis=1), -1)
    near = np.full((len(nearest), CANDIDATES), -1)
    near[:, : min(CANDIDATES, kept)] = nearest[:, :CANDIDATES]
    return np.concatenate([near, beyond], axis=1)
