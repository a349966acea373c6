"""Metrics of a classifier's predictions, by scikit-learn's definitions where it has them."""

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
    """Recall per class, (K,); a class without images is a DataError."""
    images = confusion_counts.sum(axis=1)
    _require_images(images)
    return np.asarray(np.diag(confusion_counts) / images)


def classification_metrics(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> dict[str, float]:
    """The figures named in `PREDICTION_METRICS`, fractions; a class without images is a DataError."""
    recall = class_recall(confusion(labels, predicted, num_classes))
    f1 = f1_score(labels, predicted, labels=np.arange(num_classes), average="macro", zero_division=0)
    values = (recall.mean(), f1, recall.min(), accuracy_score(labels, predicted))
    return {name: float(value) for name, value in zip(PREDICTION_METRICS, values, strict=True)}


def probability_metrics(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> dict[str, float]:
    """The figures named in `PROBABILITY_METRICS`, of true classes (N,) and class probabilities (N, K).

    AUROC and AUPRC (average precision) are one class against all others, averaged over classes; NLL is in nats. A class
    without images, a single class or a probability that is not finite is a DataError.
    """
    num_classes = probabilities.shape[1]
    if num_classes < 2:
        raise DataError("probabilities of a single class can't be scored", fix="give at least two classes")
    if not np.isfinite(probabilities).all():
        raise DataError("a predicted probability is not a finite number", fix="check whether the training diverged")
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
    """Mean gap between confidence and accuracy over 15 bins of equal width, (a, b] (Guo et al. 2017, equation 3)."""
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
    """
    groups = [GROUPS[0 if count > MANY else 1 if count >= FEW else 2] for count in train_counts]
    if len(set(groups)) < 2 and groups:
        place = (rankdata(train_counts) - 0.5) / len(train_counts)
        groups = [GROUPS[0 if p > 2 / 3 else 1 if p >= 1 / 3 else 2] for p in place]
    return tuple(groups)


def group_recall(recall: Sequence[float], groups: Sequence[Group]) -> dict[Group, float]:
    """Mean recall of each group that has a class, of the recall and the group of each class."""
    members = {name: [r for r, group in zip(recall, groups, strict=True) if group == name] for name in GROUPS}
    return {name: float(np.mean(values)) for name, values in members.items() if values}


def _require_images(counts: NDArray[np.int64]) -> None:
    if not counts.all():
        missing = ", ".join(str(number) for number in np.flatnonzero(counts == 0))
        raise DataError(
            f"no test image of class index {missing}: averages over classes are undefined",
            fix="add test images of the class, or remove the class",
        )
