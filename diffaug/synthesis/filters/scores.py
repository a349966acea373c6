"""Scores of images, and how unusual a score must be for a rejection.

A score is compared with the scores of real images under a model that was not trained on them. Its rank among the real
images of its class is a p-value (Vovk et al. 2005, conformal prediction), so a filter rejects about the chosen fraction
of good images in every class, however hard the class is. `Calibration.unusual` describes small classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.configuration.settings import FILTER_NAMES

NON_FINITE = "non-finite"
CONSTANT, SATURATED, WRONG_CLASS, OUT_OF_DISTRIBUTION, COPY, DUPLICATE = FILTER_NAMES

NEIGHBORS = 5


@dataclass(frozen=True)
class Calibration:
    """Scores (M,) of real images under models not trained on them, and their classes (M,); a higher score is worse."""

    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    def p_values(self, scores: NDArray[np.float32], class_index: int) -> NDArray[np.float32]:
        """Fraction of the images of the class that score as badly, itself included, float32 (N,) in (0, 1]."""
        return _p_values(self.scores[self.labels == class_index], scores)

    def unusual(self, scores: NDArray[np.float32], class_index: int, false_rejection_rate: float) -> NDArray[np.bool_]:
        """Marks the scores that reject an image, bool (N,).

        In a class too small to estimate its own quantile, an image is rejected only if (a) it scores worse than every
        real image of the class and (b) it lies in the worst `false_rejection_rate / 2` of all classes pooled.
        """
        own = self.scores[self.labels == class_index]
        if (len(own) + 1) * false_rejection_rate >= 2:
            return _p_values(own, scores) <= false_rejection_rate
        worst = own.max() if len(own) else np.inf
        return np.asarray((_p_values(self.scores, scores) <= false_rejection_rate / 2) & (scores > worst))


def _p_values(calibration: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    as_bad = len(calibration) - np.searchsorted(np.sort(calibration), scores, side="left")
    return ((1 + as_bad) / (len(calibration) + 1)).astype(np.float32)


def wrong_class_log_odds(log_probabilities: NDArray[np.float32], class_index: int) -> NDArray[np.float32]:
    """Log-odds of the most likely other class against `class_index`, float32 (N,); -inf if there is no other.

    The log-probabilities (N, K) are those of equally frequent classes.
    """
    others = np.delete(log_probabilities, class_index, axis=1).max(axis=1, initial=-np.inf)
    return np.asarray(others - log_probabilities[:, class_index], dtype=np.float32)


def class_distances(features: NDArray[np.float32], references: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean distance in [0, 2] of the directions of features (N, D) to the five nearest of a class (M, D), or to all."""
    return _to_nearest(2 - 2 * unit_vectors(features) @ unit_vectors(references).T)


def absolute_distances(features: NDArray[np.float32], references: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean distance of features (N, D) to the five nearest of a class (M, D), or to all, float32 (N,).

    Unlike `class_distances` it sees how long features are: for noise they can have a usual direction at any length.
    """
    lengths = np.square(features).sum(axis=1)[:, None] + np.square(references).sum(axis=1)
    return _to_nearest(lengths - 2 * features @ references.T)


def _to_nearest(squared: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean distance to the five nearest, or to all, float32 (N,), of squared distances (N, M)."""
    count = min(NEIGHBORS, squared.shape[1])
    nearest = np.partition(squared, count - 1, axis=1)[:, :count].clip(0)
    return np.asarray(np.sqrt(nearest).mean(axis=1), dtype=np.float32)


def unit_vectors(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), dtype=np.float32)


def constant(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Marks the images of uint8 (N, H, W, C) with a single value per channel, bool (N,)."""
    return np.asarray((pixels.min(axis=(1, 2)) == pixels.max(axis=(1, 2))).all(axis=1))


def saturation(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Fraction of the values of uint8 (N, H, W, C) that are 0 or 255, float32 (N,)."""
    return np.asarray(((pixels == 0) | (pixels == 255)).mean(axis=(1, 2, 3)), dtype=np.float32)


def saturation_limits(
    saturations: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int
) -> NDArray[np.float32]:
    """The saturation above which an image is rejected, (K,): half-way from the class's worst real image to 1.

    A class without images uses those of all classes.
    """
    of_classes = (saturations[labels == label] for label in range(num_classes))
    worst = [(own if len(own) else saturations).max() for own in of_classes]
    return np.asarray((1 + np.array(worst)) / 2, dtype=np.float32)


def first_reasons(rejected: Mapping[str, NDArray[np.bool_]], count: int) -> tuple[str, ...]:
    """The first reason, in order, for rejecting each of `count` images; empty if no bool (N,) mask is set."""
    return tuple(next((reason for reason, mask in rejected.items() if mask[i]), "") for i in range(count))
