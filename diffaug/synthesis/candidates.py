"""What passes between the makers of samples, the filters that judge them, and the pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLED, VARIATION = "sampled", "variation"  # origins


@dataclass(frozen=True)
class Candidates:
    """Samples of one class before any filter."""

    pixels: NDArray[np.uint8]  # (N, H, W, C)
    finite: NDArray[np.bool_]  # (N,), whether the sampler's output was finite
    class_index: int  # the class they were made for


@dataclass(frozen=True)
class Judgement:
    """What the filters say of candidates."""

    reasons: tuple[str, ...]  # the first reason for rejection of each; empty where kept
    scores: dict[
        str, NDArray[np.float32]
    ]  # (N,) each; columns of the manifest, the same keys always: Judge.score_names
    nearest: NDArray[np.int64]  # (N,) position of the nearest training image among the judge's images
    descriptors: NDArray[np.float32]  # (N, F) what duplicates inside the pool are found by


class Judge(Protocol):
    """Filters and what they know of the training images."""

    score_names: tuple[str, ...]
    image_ids: tuple[str, ...]  # names of the training images that `nearest` points to
    fingerprint: str  # changes with data, seed and settings of the filters

    def __call__(self, candidates: Candidates) -> Judgement:
        """Judges candidates of one class."""

    def duplicates(self, descriptors: NDArray[np.float32], class_index: int) -> NDArray[np.bool_]:
        """(N,) True where an EARLIER row of the same class, itself not a duplicate, shows the same image."""
