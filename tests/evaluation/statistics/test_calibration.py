import numpy as np
import pytest
from scipy.special import softmax

from diffaug.evaluation.statistics.calibration import true_class_probabilities


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
