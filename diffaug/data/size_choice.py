"""The working size by evidence: what was measured, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SizeScore:
    """What the classifier reached at one size.

    Attributes:
        side: Short side in px.
        balanced_accuracy: Cross-validated, in [0, 1].
        standard_error: Of the balanced accuracy.
    """

    side: int
    balanced_accuracy: float
    standard_error: float


@dataclass(frozen=True)
class SizeChoice:
    """The working size by evidence.

    Attributes:
        side: Short side in px, or None if nothing was measured.
        scores: One per size measured, rising; empty if nothing was measured.
        images: Number of images that were compared.
        reason: Why this size, or why none was measured, in sentences.
    """

    side: int | None
    scores: tuple[SizeScore, ...]
    images: int
    reason: str


class MeasureSize(Protocol):
    """Finds the smallest size at which the classes can be told apart, see `classifiers.working_size`."""

    def __call__(
        self,
        load_at: Callable[[NDArray[np.int64], int], NDArray[np.uint8]],
        labels: NDArray[np.int64],
        groups: NDArray[np.int64],
        *,
        median_side: int,
        seed: int,
    ) -> SizeChoice:
        """As `choose_working_size`."""
