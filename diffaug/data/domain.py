"""How far unlabeled images look like the labeled ones, without any label of theirs.

An image counts as long as it lies as near to a labeled image as these lie to each other. It counts less and less
beyond, and is set aside as foreign in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

USUAL = 0.95  # quantile of the distances between labeled images that is usual; a convention
FEWEST_UNITS = 10  # of labeled images from which that quantile is taken; with fewer, all images count
QUERIES = 1024  # images compared at once
DECIMALS = 3  # of a weight, so that rounding of another machine hardly changes it

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Shown:
    """Images in two forms: whole pictures uint8 (h, w, C), and pixels of the working size, uint8 (N, H, W, C)."""

    pictures: Sequence[NDArray[np.uint8]]
    pixels: NDArray[np.uint8]


class Describe(Protocol):
    """Features in which images of one kind lie near each other."""

    @property
    def name(self) -> str:
        """In a few words."""

    @property
    def limits(self) -> tuple[float, float]:
        """Relative distances up to which an image counts fully, and from which it is foreign."""

    def __call__(self, labeled: Shown, others: Shown) -> tuple[Features, Features]:
        """Features (N, D) of labeled and (M, D) of other images, for Euclidean distances."""


@dataclass(frozen=True)
class DomainReport:
    """What was found about unlabeled images."""

    measured_by: str = ""  # what the distances were taken in; empty if they were not
    weighed_down: int = 0  # images that count less than fully
    foreign: int = 0  # images that are set aside


def domain_weights(
    labeled: Features, units: NDArray[np.int64], others: Features, limits: tuple[float, float]
) -> NDArray[np.float64]:
    """How far each of the other images looks like the labeled ones, float64 (M,) in [0, 1].

    The distance to the nearest labeled image is divided by a usual one: the 95 % quantile of the distances of labeled
    images to the nearest one of another unit.

    Args:
        labeled: Features (N, D) of the labeled images.
        units: Unit of each, int64 (N,), see `splits.units_of`.
        others: Features (M, D).
        limits: Relative distances between which the weight falls from 1 to 0.
    """
    if len(np.unique(units)) < FEWEST_UNITS:
        return np.ones(len(others))
    usual = float(np.quantile(_nearest(labeled, labeled, units, units), USUAL))
    none = np.full(len(others), -1, np.int64)
    relative = _nearest(others, labeled, none, units) / max(usual, 1e-12)
    full, foreign = limits
    return np.asarray(np.clip((foreign - relative) / (foreign - full), 0, 1).round(DECIMALS))


def _nearest(
    queries: Features, references: Features, own: NDArray[np.int64], units: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Distance to the nearest reference of another unit, float64 (Q,)."""
    distances = np.empty(len(queries))
    lengths = np.square(references, dtype=np.float64).sum(axis=1)
    for start in range(0, len(queries), QUERIES):
        part = queries[start : start + QUERIES]
        squared = np.square(part, dtype=np.float64).sum(axis=1)[:, None] + lengths - 2 * (part @ references.T)
        squared[own[start : start + QUERIES, None] == units] = np.inf
        distances[start : start + QUERIES] = np.sqrt(squared.min(axis=1).clip(0))
    return distances
