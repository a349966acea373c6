"""Metrics: against scikit-learn, by hand, and where they are undefined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    recall_score,
    roc_auc_score,
)

from diffaug.errors import DataError
from diffaug.evaluation.statistics.metrics import (
    METRICS,
    PREDICTION_METRICS,
    PROBABILITY_METRICS,
    class_groups,
    class_recall,
    classification_metrics,
    confusion,
    expected_calibration_error,
    group_recall,
    negative_log_likelihood,
    probability_metrics,
)


def softmaxes(seed=0, counts=(30, 12, 5)):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    logits = random.normal(size=(len(labels), len(counts))) + 1.5 * np.eye(len(counts))[labels]
    values = np.exp(logits)
    return labels, (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


def test_metrics_are_scikit_learns():
    random = np.random.default_rng(0)
    labels, predicted = np.repeat([0, 1, 2], [30, 10, 3]), random.integers(0, 3, 43)
    metrics = classification_metrics(labels, predicted, 3)
    assert tuple(metrics) == PREDICTION_METRICS
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert metrics["worst_class_recall"] == pytest.approx(min(recall_score(labels, predicted, average=None)))


def test_a_class_that_is_never_predicted_counts_as_missed():
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 0, 0, 0])
    assert confusion(labels, predicted, 3).tolist() == [[2, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert class_recall(confusion(labels, predicted, 3)).tolist() == [1, 0, 0]
    assert classification_metrics(labels, predicted, 3)["macro_f1"] == pytest.approx((2 * 2 / 6) / 3)


@pytest.mark.parametrize("seed", range(3))
def test_probability_metrics_are_scikit_learns(seed):
    labels, probabilities = softmaxes(seed)
    metrics = probability_metrics(labels, probabilities)
    assert tuple(metrics) == PROBABILITY_METRICS
    assert metrics["auroc"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))
    one_hot = np.eye(3)[labels]
    assert metrics["auprc"] == pytest.approx(average_precision_score(one_hot, probabilities, average="macro"))
    assert metrics["nll"] == pytest.approx(log_loss(labels, probabilities.astype(float)), rel=1e-5)


def test_two_classes_are_ranked_like_any_other_number():
    labels, probabilities = softmaxes(counts=(20, 9))
    expected = roc_auc_score(labels, probabilities[:, 1])
    assert probability_metrics(labels, probabilities)["auroc"] == pytest.approx(expected)


def test_calibration_error_by_hand():
    """Two bins: two images of confidence .62, one of them right; one of .92, right."""
    probabilities = np.array([[0.62, 0.38], [0.62, 0.38], [0.08, 0.92]])
    labels = np.array([0, 1, 1])
    assert expected_calibration_error(labels, probabilities) == pytest.approx(2 / 3 * 0.12 + 1 / 3 * 0.08)
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert expected_calibration_error(np.array([0, 1]), sure) == 0
    assert expected_calibration_error(np.array([1, 0]), sure) == 1


def test_bins_include_their_upper_end():
    """Confidence 0.6 = 9/15 belongs to the bin below it, 0.61 to the next: apart they can't cancel."""
    probabilities = np.array([[0.6, 0.4], [0.61, 0.39]])
    assert expected_calibration_error(np.array([0, 1]), probabilities) == pytest.approx((0.4 + 0.61) / 2)


def test_a_certain_mistake_costs_much_but_not_infinitely():
    assert negative_log_likelihood(np.array([1]), np.array([[1.0, 0.0]])) == pytest.approx(15.94, abs=0.01)


def test_undefined_figures_are_errors_and_not_nan():
    labels, probabilities = softmaxes(counts=(9, 4))
    wider = np.pad(probabilities, ((0, 0), (0, 1)))
    with pytest.raises(DataError, match="class number 2"):
        classification_metrics(labels, labels, 3)
    with pytest.raises(DataError, match="class number 2"):
        probability_metrics(labels, wider)
    with pytest.raises(DataError, match="single class"):
        probability_metrics(np.zeros(3, int), np.ones((3, 1)))
    probabilities[3, 0] = np.nan
    with pytest.raises(DataError, match="not a finite number"):
        probability_metrics(labels, probabilities)
    assert len(set(METRICS)) == len(METRICS) == 8


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ((500, 101, 100, 20, 19), "many many medium medium few"),
        ((500, 10), "many few"),
        ((900, 300, 150), "many medium few"),  # all of them many: thirds instead
        ((9, 5, 5, 2), "many medium medium few"),
        ((30, 40), "few many"),
        ((50, 50, 50), "medium medium medium"),
        ((7,), "medium"),
        ((), ""),
    ],
)
def test_groups(counts, groups):
    assert " ".join(class_groups(counts)) == groups


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12))
def test_groups_follow_the_counts(counts):
    rank = {"few": 0, "medium": 1, "many": 2}
    ranks = [rank[group] for group in class_groups(counts)]
    for count, other in zip(counts, ranks, strict=True):
        assert all(r <= other for c, r in zip(counts, ranks, strict=True) if c <= count)
    assert len(set(ranks)) > 1 or len(set(counts)) == 1


def test_group_recall_is_the_mean_of_its_classes_and_leaves_empty_groups_out():
    recall = group_recall(np.array([0.9, 0.5, 0.2]), ("many", "many", "few"))
    assert recall == pytest.approx({"many": 0.7, "few": 0.2})
