"""What the filters are given, what they answer, and the interface between both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLED, VARIATION = "sampled", "variation"


@dataclass(frozen=True)
class Candidates:
    """Samples of one class before any filter.

    Attributes:
        pixels: uint8 (N, H, W, C).
        finite: bool (N,), whether the sampler's output was finite.
        class_index: The class that they were made for.
    """

    pixels: NDArray[np.uint8]
    finite: NDArray[np.bool_]
    class_index: int


@dataclass(frozen=True)
class Judgement:
    """What the filters say of candidates.

    Attributes:
        reasons: The first reason for rejection of each; empty where it is kept.
        scores: float32 (N,) each, by name; the same names always: `Judge.score_names`.
        nearest: int64 (N,), position of the nearest training image in `Judge.image_ids`.
        descriptors: float32 (N, F), what `Judge.duplicates` compares.
    """

    reasons: tuple[str, ...]
    scores: dict[str, NDArray[np.float32]]
    nearest: NDArray[np.int64]
    descriptors: NDArray[np.float32]


class Judge(Protocol):
    """Decides which candidates become images of the pool; the same candidates get the same judgement always.

    Attributes:
        score_names: Names of the scores that it gives.
        image_ids: Names of the training images that `Judgement.nearest` points to.
        fingerprint: Changes with the data, the seed and the settings of the filters.
    """

    @property
    def score_names(self) -> tuple[str, ...]:
        """Columns of the manifest."""
        ...

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Of the training images."""
        ...

    @property
    def fingerprint(self) -> str:
        """A short stable name."""
        ...

    def __call__(self, candidates: Candidates) -> Judgement:
        """Judges candidates of one class, each by itself."""
        ...

    def duplicates(self, descriptors: NDArray[np.float32], class_index: int, known: int = 0) -> NDArray[np.bool_]:
        """Which images show the same as an earlier one of the same class that is not a duplicate itself.

        Args:
            descriptors: float32 (N, F) of images in order, as in `Judgement.descriptors`.
            class_index: Their class.
            known: So many of the first ones are known to be no duplicates.

        Returns:
            bool (N,).
        """
        ...
