"""Labels of unlabeled images by a classifier's confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PseudoLabels:
    """What a classifier says about U unlabeled images.

    Attributes:
        labels: The most likely class of each, int64 (U,).
        weights: How far to trust it, float64 (U,) in [0, 1]: its probability, or 0 where the label is not used.
    """

    labels: NDArray[np.int64]
    weights: NDArray[np.float64]

    @property
    def used(self) -> NDArray[np.bool_]:
        """Whether the label of each image is used, bool (U,)."""
        return self.weights > 0


def pseudo_labels(
    probabilities: NDArray[np.floating[Any]], threshold: float, class_balanced: bool = False
) -> PseudoLabels:
    """The labels that a classifier is sure of (Lee 2013, "Pseudo-label").

    Args:
        probabilities: Of the classes for each image, (U, K), rows summing to 1.
        threshold: Least probability in [0, 1] of a label that is used.
        class_balanced: Use the same share of the labels of each class, the surest first, rounded up. The share is that
            of all labels at or above the threshold. So a rare class, of which a classifier is seldom sure, is not left
            out (Zou et al. 2018, arXiv 1810.07911, algorithm 2). Equally sure labels are used together.
    """
    if not len(probabilities):
        return PseudoLabels(np.empty(0, np.int64), np.empty(0, np.float64))
    labels = probabilities.argmax(axis=1).astype(np.int64)
    confidences = np.clip(probabilities.max(axis=1), 0, 1).astype(np.float64)
    used = confidences >= threshold
    if class_balanced:
        used = confidences >= _thresholds_by_rank(labels, confidences, probabilities.shape[1], used.mean())[labels]
    return PseudoLabels(labels, np.where(used, confidences, 0.0))


def _thresholds_by_rank(
    labels: NDArray[np.int64], confidences: NDArray[np.float64], num_classes: int, share: float
) -> NDArray[np.float64]:
    """The confidence that a share of the labels of each class reaches, float64 (K,)."""
    thresholds = np.full(num_classes, np.inf)
    for label in np.unique(labels) if share else ():
        own = np.sort(confidences[labels == label])[::-1]
        thresholds[label] = own[int(np.ceil(share * len(own) - 1e-9)) - 1]
    return thresholds
