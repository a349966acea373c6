"""What a classifier's predictions are worth, by scikit-learn's definitions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

PRIMARY_METRIC = "balanced_accuracy"
METRICS = (PRIMARY_METRIC, "macro_f1", "worst_class_recall", "accuracy")


def confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Counts (K, K): row the true class, column the predicted one."""
    return np.asarray(confusion_matrix(labels, predicted, labels=np.arange(num_classes)), np.int64)


def class_recall(confusion_counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each class's images that were recognised, (K,); every class must have an image."""
    return np.asarray(np.diag(confusion_counts) / confusion_counts.sum(axis=1))


def classification_metrics(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> dict[str, float]:
    """The figures named in `METRICS`, fractions.

    Args:
        labels: True classes (N,), each of the K at least once.
        predicted: Predicted classes (N,).
        num_classes: K.
    """
    recall = class_recall(confusion(labels, predicted, num_classes))
    f1 = f1_score(labels, predicted, labels=np.arange(num_classes), average="macro", zero_division=0)
    values = (recall.mean(), f1, recall.min(), accuracy_score(labels, predicted))
    return {name: float(value) for name, value in zip(METRICS, values, strict=True)}
