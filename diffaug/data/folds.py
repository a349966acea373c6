"""Folds of the training images for cross-fitting; images of one group stay in one fold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffaug.runtime.seeding import numpy_generator

FOLDS = 3
ALWAYS_TRAINED_ON = -1


def assign_folds(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Deals images out to at most three folds, class by class from the rarest, groups kept whole.

    Args:
        labels: int64 (N,).
        groups: int64 (N,); images of one group belong together.
        seed: Decides the order.

    Returns:
        int64 (N,), the fold whose model an image is left out of. `ALWAYS_TRAINED_ON` where that would leave a class
        without any image: where all of it is one group or was dealt to one fold.
    """
    counts = np.bincount(labels)
    fold_of: dict[int, int] = {}
    for label in sorted(np.flatnonzero(counts).tolist(), key=lambda label: (counts[label], label)):
        shuffled = numpy_generator(seed, "folds", label).permutation(np.unique(groups[labels == label]))
        for group in shuffled.tolist():
            fold_of.setdefault(group, len(fold_of) % FOLDS)
    folds = np.array([fold_of[group] for group in groups.tolist()], dtype=np.int64)
    confined = [label for label in np.flatnonzero(counts) if len(set(folds[labels == label].tolist())) == 1]
    folds[np.isin(groups, groups[np.isin(labels, confined)])] = ALWAYS_TRAINED_ON
    return folds
