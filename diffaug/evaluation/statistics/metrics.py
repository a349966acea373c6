"""What a classifier's predictions are worth, by scikit-learn's definitions where it has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, average_precision_score, confusion_matrix, f1_score, roc_auc_score

from diffaug.errors import DataError

PRIMARY_METRIC = "balanced_accuracy"
PREDICTION_METRICS = (PRIMARY_METRIC, "macro_f1", "worst_class_recall", "accuracy")
PROBABILITY_METRICS = ("auroc", "auprc", "ece", "nll")
METRICS = PREDICTION_METRICS + PROBABILITY_METRICS
CALIBRATION_BINS = 15
MANY, FEW = 100, 20

Group = Literal["many", "medium", "few"]
GROUPS: tuple[Group, ...] = ("many", "medium", "few")


def confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Counts (K, K): row the true class, column the predicted one."""
    return np.asarray(confusion_matrix(labels, predicted, labels=np.arange(num_classes)), np.int64)


def class_recall(confusion_counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each class's images that were recognised, (K,).

    Raises:
        DataError: A class has no image, so that its recall and every average over classes are undefined.
    """
    images = confusion_counts.sum(axis=1)
    _require_images(images)
    return np.asarray(np.diag(confusion_counts) / images)


def classification_metrics(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> dict[str, float]:
    """The figures named in `PREDICTION_METRICS`, fractions.

    Args:
        labels: True classes (N,), each of the K at least once.
        predicted: Predicted classes (N,).
        num_classes: K.

    Raises:
        DataError: A class has no image.
    """
    recall = class_recall(confusion(labels, predicted, num_classes))
    f1 = f1_score(labels, predicted, labels=np.arange(num_classes), average="macro", zero_division=0)
    values = (recall.mean(), f1, recall.min(), accuracy_score(labels, predicted))
    return {name: float(value) for name, value in zip(PREDICTION_METRICS, values, strict=True)}


def probability_metrics(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> dict[str, float]:
    """The figures named in `PROBABILITY_METRICS`.

    AUROC and AUPRC (average precision) rank the images by their probability of one class against all others, averaged
    over classes; ECE and NLL (nats) look at the probabilities themselves.

    Args:
        labels: True classes (N,), each of the K at least once.
        probabilities: Of each class (N, K), K of 2 or more; rows sum to 1.

    Raises:
        DataError: A class has no image, there is only one class, or a probability is not finite.
    """
    num_classes = probabilities.shape[1]
    if num_classes < 2:
        raise DataError("with a single class there is nothing to rank or to be calibrated about")
    if not np.isfinite(probabilities).all():
        raise DataError("a predicted probability is not a finite number", fix="look for a training that diverged")
    _require_images(np.bincount(labels, minlength=num_classes))
    belongs = labels[:, None] == np.arange(num_classes)
    pairs = list(zip(belongs.T, probabilities.T, strict=True))
    values = (
        np.mean([roc_auc_score(truth, score) for truth, score in pairs]),
        np.mean([average_precision_score(truth, score) for truth, score in pairs]),
        expected_calibration_error(labels, probabilities),
        negative_log_likelihood(labels, probabilities),
    )
    return {name: float(value) for name, value in zip(PROBABILITY_METRICS, values, strict=True)}


def expected_calibration_error(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> float:
    """Mean distance of confidence and accuracy over 15 bins of equal width, (a, b] (Guo et al. 2017, equation 3).

    Args:
        labels: True classes (N,).
        probabilities: Of each class (N, K).
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, right - confidence, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def negative_log_likelihood(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> float:
    """Mean of -log p(true class), in nats; a probability counts as at least the resolution of float32, 1.2e-7."""
    of_truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(of_truth, np.finfo(np.float32).eps, 1)).mean())


def class_groups(train_counts: Sequence[int]) -> tuple[Group, ...]:
    """The group of each class: many (over 100 training images), medium (20 to 100) or few (under 20).

    Where all classes would be in one group, thirds of the classes by count instead, equal counts staying together.

    Args:
        train_counts: Real training images of each class (K,).
    """
    groups = [GROUPS[0 if count > MANY else 1 if count >= FEW else 2] for count in train_counts]
    if len(set(groups)) < 2 and groups:
        place = (rankdata(train_counts) - 0.5) / len(train_counts)
        groups = [GROUPS[0 if p > 2 / 3 else 1 if p >= 1 / 3 else 2] for p in place]
    return tuple(groups)


def group_recall(recall: NDArray[np.float64], groups: Sequence[Group]) -> dict[Group, float]:
    """Mean recall of the classes of each group that has a class.

    Args:
        recall: Of each class (K,).
        groups: Of each class (K,).
    """
    members = {name: [r for r, group in zip(recall, groups, strict=True) if group == name] for name in GROUPS}
    return {name: float(np.mean(values)) for name, values in members.items() if values}


def _require_images(counts: NDArray[np.int64]) -> None:
    if not counts.all():
        missing = ", ".join(str(number) for number in np.flatnonzero(counts == 0))
        raise DataError(
            f"no test image of class number {missing}, counted from 0: averages over classes are undefined",
            fix="add test images of the class, or take the class out",
        )
