import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as sklearn

from diffaug.errors import DataError
from diffaug.evaluation.statistics import metrics
from diffaug.evaluation.statistics.calibration import true_class_probabilities
from diffaug.evaluation.statistics.metrics import expected_calibration_error, probability_metrics


def softmaxes(seed=0, counts=(30, 12, 5)):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    logits = random.normal(size=(len(labels), len(counts))) + 1.5 * np.eye(len(counts))[labels]
    values = np.exp(logits)
    return labels, (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


def test_metrics_are_scikit_learns():
    random = np.random.default_rng(0)
    labels, predicted = np.repeat([0, 1, 2], [30, 10, 3]), random.integers(0, 3, 43)
    expected = {
        "balanced_accuracy": sklearn.balanced_accuracy_score(labels, predicted),
        "macro_f1": sklearn.f1_score(labels, predicted, average="macro"),
        "worst_class_recall": min(sklearn.recall_score(labels, predicted, average=None)),
        "accuracy": sklearn.accuracy_score(labels, predicted),
    }
    assert metrics.classification_metrics(labels, predicted, 3) == pytest.approx(expected)


def test_a_class_that_is_never_predicted_counts_as_missed():
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 0, 0, 0])
    assert metrics.confusion(labels, predicted, 3).tolist() == [[2, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert metrics.class_recall(metrics.confusion(labels, predicted, 3)).tolist() == [1, 0, 0]
    assert metrics.classification_metrics(labels, predicted, 3)["macro_f1"] == pytest.approx((2 * 2 / 6) / 3)


@pytest.mark.parametrize("seed", range(3))
def test_probability_metrics_are_scikit_learns(seed):
    labels, probabilities = softmaxes(seed)
    one_hot = np.eye(3)[labels]
    expected = {
        "auroc": sklearn.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"),
        "auprc": sklearn.average_precision_score(one_hot, probabilities, average="macro"),
        "ece": expected_calibration_error(labels, probabilities),
        "nll": sklearn.log_loss(labels, probabilities.astype(float)),
    }
    assert probability_metrics(labels, probabilities) == pytest.approx(expected, rel=1e-5)
    labels, of_two = softmaxes(seed, counts=(20, 9))
    assert probability_metrics(labels, of_two)["auroc"] == pytest.approx(sklearn.roc_auc_score(labels, of_two[:, 1]))


def test_calibration_error_and_the_loss_of_a_mistake_by_hand():
    probabilities = np.array([[0.62, 0.38], [0.62, 0.38], [0.08, 0.92]])  # two bins: one of two right; one right
    assert expected_calibration_error(np.array([0, 1, 1]), probabilities) == pytest.approx((2 * 0.12 + 0.08) / 3)
    assert [expected_calibration_error(labels, np.eye(2)) for labels in (np.array([0, 1]), np.array([1, 0]))] == [0, 1]
    # 0.6 = 9/15 belongs to the bin below it, 0.61 to the next: apart they can't cancel.
    apart = np.array([[0.6, 0.4], [0.61, 0.39]])
    assert expected_calibration_error(np.array([0, 1]), apart) == pytest.approx((0.4 + 0.61) / 2)
    # A certain mistake costs much but not infinitely.
    assert metrics.negative_log_likelihood(np.array([1]), np.array([[1.0, 0.0]])) == pytest.approx(15.94, abs=0.01)


def test_undefined_figures_are_errors_and_not_nan():
    labels, probabilities = softmaxes(counts=(9, 4))
    with pytest.raises(DataError, match="index 2"):
        metrics.classification_metrics(labels, labels, 3)
    wider, diverged = np.pad(probabilities, ((0, 0), (0, 1))), np.where(probabilities == probabilities[3], np.nan, 0)
    for problem, values in {"index 2": wider, "single": probabilities[:, :1], "finite": diverged}.items():
        with pytest.raises(DataError, match=problem):
            probability_metrics(labels, values)


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
    assert " ".join(metrics.class_groups(counts)) == groups


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12))
def test_groups_follow_the_counts(counts):
    rank = {"few": 0, "medium": 1, "many": 2}
    ranked = sorted(zip(counts, (rank[group] for group in metrics.class_groups(counts)), strict=True))
    assert all(one[1] <= other[1] for one, other in itertools.pairwise(ranked))
    assert len(dict(ranked)) == len(set(ranked))  # equal counts, equal groups
    assert len({group for _, group in ranked}) > 1 or len(set(counts)) == 1


def test_group_recall_is_the_mean_of_its_classes_and_leaves_empty_groups_out():
    recall = metrics.group_recall(np.array([0.9, 0.5, 0.2]), ("many", "many", "few"))
    assert recall == pytest.approx({"many": 0.7, "few": 0.2})


def answers(random, quality, labels, num_classes=3):
    """Class probabilities of the classifier that is right by a margin of `quality` on average, well calibrated."""
    evidence = random.normal(0, 1, (len(labels), num_classes)) + quality * np.eye(num_classes)[labels]
    return softmax(quality * evidence, axis=1)  # the posterior under equal priors


def test_how_sure_a_classifier_says_it_is_makes_no_difference() -> None:
    random, labels = np.random.default_rng(0), np.arange(6000) % 3
    honest = answers(random, 1.5, labels)
    (expected,) = true_class_probabilities([honest], [labels])
    for factor in (0.3, 3.0):
        stretched = softmax(factor * np.log(honest), axis=1)
        assert true_class_probabilities([stretched], [labels])[0] == pytest.approx(expected, abs=1e-3)
    assert expected.mean() == pytest.approx((honest**2).sum(axis=1).mean(), abs=0.02)  # it draws its answer


def test_trainings_share_one_temperature_and_impossible_answers_are_taken() -> None:
    random, parts = np.random.default_rng(1), [np.arange(90) % 3, np.arange(30) % 3]
    given = [answers(random, 1.0, labels) for labels in parts]
    both = true_class_probabilities(given, parts)
    assert [len(one) for one in both] == [90, 30]
    (together,) = true_class_probabilities([np.concatenate(given)], [np.concatenate(parts)])
    assert np.concatenate(both) == pytest.approx(together)
    (certain,) = true_class_probabilities([np.eye(3)[[0, 1, 2, 0]]], [np.array([0, 1, 2, 1])])
    assert np.isfinite(certain).all() and certain[:3].min() > certain[3]


def test_the_better_of_two_classifiers_is_found_more_often_than_by_accuracy() -> None:
    random, labels = np.random.default_rng(2), np.repeat([0, 1, 2], 8)
    found = []
    for _ in range(400):
        both = [answers(random, quality, labels) for quality in (1.3, 1.0)]
        accuracies = [(one.argmax(axis=1) == labels).mean() for one in both]
        scores = [true_class_probabilities([one], [labels])[0].mean() for one in both]
        found.append([(np.sign(better - worse) + 1) / 2 for better, worse in (accuracies, scores)])
    by_accuracy, by_score = np.mean(found, axis=0)
    assert by_score > by_accuracy + 0.02
