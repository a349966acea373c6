"""Which samples are kept: scores of images, and how unusual a score must be for a rejection.

A score is compared with those that real images get of a model that was not trained on them. Its rank among the real
images of its class is a p-value (Vovk et al. 2005, conformal prediction), so a filter rejects about the chosen share of
good images of every class, however hard the class is; where a class has too few
images for that, see `Calibration.unusual`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.configuration.settings import FILTER_NAMES

NON_FINITE = "non-finite"
CONSTANT, SATURATED, OFF_CLASS, OUT_OF_DISTRIBUTION, COPY, DUPLICATE = FILTER_NAMES

NEIGHBOURS = 5


@dataclass(frozen=True)
class Calibration:
    """What real images score when the model has not seen them; a higher score is worse.

    Attributes:
        scores: float32 (M,), of each image for its own class.
        labels: int64 (M,), their classes.
    """

    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    def p_values(self, scores: NDArray[np.float32], class_index: int) -> NDArray[np.float32]:
        """Share of the class's real images that score as badly, the judged one counted in: float32 (N,) in (0, 1]."""
        return _p_values(self.scores[self.labels == class_index], scores)

    def unusual(self, scores: NDArray[np.float32], class_index: int, false_rejection_rate: float) -> NDArray[np.bool_]:
        """Which scores reject an image.

        A class with too few images to tell its own worst share from its single worst image rejects only what is worse
        than each of them and belongs to the worst half of that share of all classes together. With eight images drawn
        from classes that have more, that loses a third of what the share allows, and more than it in 8 % of the draws.

        Args:
            scores: float32 (N,) of images made for the class.
            class_index: The class.
            false_rejection_rate: Largest share of real images of the class to reject, in (0, 1).
        """
        own = self.scores[self.labels == class_index]
        if (len(own) + 1) * false_rejection_rate >= 2:
            return _p_values(own, scores) <= false_rejection_rate
        beyond_all = scores > own.max(initial=-np.inf) if len(own) else np.zeros(len(scores), np.bool_)
        return np.asarray((_p_values(self.scores, scores) <= false_rejection_rate / 2) & beyond_all)


def _p_values(calibration: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    as_bad = len(calibration) - np.searchsorted(np.sort(calibration), scores, side="left")
    return ((1 + as_bad) / (len(calibration) + 1)).astype(np.float32)


def off_class_log_odds(log_probabilities: NDArray[np.float32], class_index: int) -> NDArray[np.float32]:
    """Log-odds of the likeliest other class against `class_index`, (N,); -inf where there is no other.

    Args:
        log_probabilities: float32 (N, K), as if all classes were equally frequent.
        class_index: The class that the images should show.
    """
    others = np.delete(log_probabilities, class_index, axis=1).max(axis=1, initial=-np.inf)
    return np.asarray(others - log_probabilities[:, class_index], dtype=np.float32)


def class_distances(features: NDArray[np.float32], references: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean distance in [0, 2] to the five nearest of a class's images, or to all where there are fewer.

    Args:
        features: float32 (N, D), compared by direction alone.
        references: float32 (M, D) of images of the class; M of at least 1.

    Returns:
        float32 (N,).
    """
    squared = 2 - 2 * unit_vectors(features) @ unit_vectors(references).T
    count = min(NEIGHBOURS, len(references))
    nearest = np.partition(squared, count - 1, axis=1)[:, :count].clip(0)
    return np.asarray(np.sqrt(nearest).mean(axis=1), dtype=np.float32)


def unit_vectors(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), dtype=np.float32)


def constant(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of uint8 (N, H, W, C) have one value in every channel."""
    return np.asarray((pixels.min(axis=(1, 2)) == pixels.max(axis=(1, 2))).all(axis=1))


def saturation(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of the values of uint8 (N, H, W, C) that are 0 or 255, float32 (N,)."""
    return np.asarray(((pixels == 0) | (pixels == 255)).mean(axis=(1, 2, 3)), dtype=np.float32)


def saturation_limits(
    saturations: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int
) -> NDArray[np.float32]:
    """For each class the saturation above which an image is rejected: half-way from the worst real image to 1.

    Where a class has no image, those of all classes count.

    Args:
        saturations: float32 (N,) of real images, N of at least 1.
        labels: int64 (N,).
        num_classes: K.

    Returns:
        float32 (K,).
    """
    of_classes = (saturations[labels == label] for label in range(num_classes))
    worst = [(own if len(own) else saturations).max() for own in of_classes]
    return np.asarray((1 + np.array(worst)) / 2, dtype=np.float32)


def first_reasons(verdicts: Mapping[str, NDArray[np.bool_]], count: int) -> tuple[str, ...]:
    """The first reason that rejects each of `count` images, empty where none does.

    Args:
        verdicts: For each reason, in order, bool (N,) whether it rejects.
        count: N.
    """
    return tuple(next((reason for reason, rejected in verdicts.items() if rejected[i]), "") for i in range(count))
