"""Membership inference: can the denoising error separate trained from held-out images?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.runtime.seeding import numpy_generator
from diffaug.similarity.intervals import Estimate, wilson_interval

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]

MAX_HELD_OUT, TRAINED_PER_HELD_OUT = 128, 2


def pair(held: Labels, trained: Labels, *, seed: int) -> tuple[Labels, Labels]:
    """Positions of at most 128 held-out images and, for each, of one or two trained ones of its class."""
    draws = numpy_generator(seed, "membership pairs")
    chosen = draws.permutation(len(held))[:MAX_HELD_OUT]
    pairs = []
    for index in np.unique(held[chosen]):
        own, others = chosen[held[chosen] == index], draws.permutation(np.flatnonzero(trained == index))
        own = own[: len(others)]
        pairs.append((own, others[: TRAINED_PER_HELD_OUT * len(own)]))
    none = np.empty(0, np.int64)
    return np.concatenate([none, *(own for own, _ in pairs)]), np.concatenate([none, *(chosen for _, chosen in pairs)])


@dataclass(frozen=True)
class MembershipErrors:
    """Denoising errors of the held-out and trained images that `pair` chose, with their classes."""

    held: Floats
    held_labels: Labels
    trained: Floats
    trained_labels: Labels

    def score(self, index: int | None = None) -> Estimate | None:
        """Area under the ROC curve of telling held-out from trained images by their error; `index`: of one class.

        It is the probability that a held-out image has the larger error, in pairs of one class; 0.5 is chance. Its
        variance is at most A (1 - A) / H for H held-out images and at least as many trained ones (Birnbaum and Klose
        1957), which is that of a fraction of H: hence Wilson's interval, which is conservative.
        """
        shares = [
            (np.mean(self.trained[own] < error) + np.mean(self.trained[own] <= error)) / 2
            for error, label in zip(self.held, self.held_labels, strict=True)
            if index in (None, label) and (own := self.trained_labels == label).any()
        ]
        if not shares:
            return None
        area = float(np.mean(shares))
        return Estimate(area, *wilson_interval(area, len(shares)))
