import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from diffaug.classifiers.encoders.trained import ClassifierOutput
from diffaug.data.splits import ALWAYS_TRAINED_ON
from diffaug.similarity.intervals import Share
from diffaug.synthesis.filters.held_out import HeldOut, judged_by


def held_out(labels, folds, log_probabilities) -> HeldOut:
    names = tuple(f"{number}.png" for number in range(len(labels)))
    return HeldOut(names, np.array(labels), np.array(folds), np.array(log_probabilities, np.float32))


def test_each_image_is_judged_by_the_classifier_that_left_it_out() -> None:
    outputs = [ClassifierOutput(np.zeros((3, 1)), np.full((3, 2), float(fold))) for fold in range(2)]
    assert judged_by(outputs, np.array([1, 0, ALWAYS_TRAINED_ON])).tolist() == [[1, 1], [0, 0], [0, 0]]


def test_images_that_were_always_trained_on_prove_nothing() -> None:
    right, wrong = [0.0, -5.0], [-5.0, 0.0]
    held = held_out([0, 0, 0, 1], [0, 1, ALWAYS_TRAINED_ON, ALWAYS_TRAINED_ON], [right, wrong, right, wrong])
    assert held.recognized(0) == Share(1, 2)
    assert held.recognized(1) == Share(0, 0)
    assert held.balanced_accuracy == 0.5
    assert held.ranking(1) is held.ranking(0) is None  # there is no held-out image of another class
    folds, recognized = held.of_sources(["1.png", "0.png", "2.png", "", "unknown.png"])
    assert folds.tolist() == [1, 0] + [ALWAYS_TRAINED_ON] * 3
    assert recognized.tolist() == [False, True, False, False, False]


def test_the_ranking_is_the_area_under_the_roc_curve() -> None:
    random = np.random.default_rng(0)
    labels, logs = random.integers(0, 3, 60), random.normal(size=(60, 3))
    logs[np.arange(60), labels] += 1
    held = held_out(labels, np.zeros(60, np.int64), logs)
    for label in range(3):
        estimate, p_value = held.ranking(label)
        odds = logs[:, label] - np.delete(logs, label, axis=1).max(axis=1)
        assert estimate.value == pytest.approx(roc_auc_score(labels == label, odds), abs=1e-6)
        assert estimate.low < estimate.value < estimate.high
        assert p_value < 0.05
