"""Which samples are kept. Each filter gives a reason for every image that it rejects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NON_FINITE = "non-finite"
CONSTANT = "constant"
OFF_CLASS = "off-class"
DUPLICATE = "duplicate"
REASONS = (NON_FINITE, CONSTANT, OFF_CLASS)

ClassScorer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 (N, H, W, C) to class probabilities float32 (N, K)."""


@dataclass(frozen=True)
class Judgement:
    """What the filters say of a batch of samples.

    Attributes:
        reasons: The first reason for rejection of each image; empty where it is kept.
        own_class_probability: float32 (N,), the scorer's probability of the class it was made for.
    """

    reasons: tuple[str, ...]
    own_class_probability: NDArray[np.float32]

    @property
    def accepted(self) -> NDArray[np.int64]:
        """Positions of the kept images, in order."""
        return np.flatnonzero([not reason for reason in self.reasons]).astype(np.int64)


def judge(
    pixels: NDArray[np.uint8],
    finite: NDArray[np.bool_],
    class_index: int,
    scorer: ClassScorer,
    off_class_confidence: float,
) -> Judgement:
    """Judges samples of one class.

    Args:
        pixels: uint8 (N, H, W, C).
        finite: bool (N,), whether the sampler's output was finite.
        class_index: The class that the samples were made for.
        scorer: A class-balanced classifier of the real images.
        off_class_confidence: A sample is off-class when the scorer gives another class at least this much. A
            sample that it is unsure of is kept: rare classes are where the scorer knows least.
    """
    constant = (pixels.min(axis=(1, 2)) == pixels.max(axis=(1, 2))).all(axis=1)
    probabilities = scorer(pixels)
    others = np.delete(probabilities, class_index, axis=1).max(axis=1, initial=0)
    verdicts = ((NON_FINITE, ~finite), (CONSTANT, constant), (OFF_CLASS, others >= off_class_confidence))
    reasons = tuple(
        next((reason for reason, rejected in verdicts if rejected[position]), "") for position in range(len(pixels))
    )
    return Judgement(reasons, probabilities[:, class_index])
