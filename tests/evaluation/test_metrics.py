"""Metrics agree with scikit-learn's own functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import metrics as sk

from diffaug.evaluation.metrics import METRICS, class_recall, classification_metrics, confusion


@given(st.lists(st.integers(0, 3), min_size=4, max_size=40), st.randoms(use_true_random=False))
def test_metrics_are_scikit_learns(predicted, random):
    labels = np.array([0, 1, 2, 3] + [random.randrange(4) for _ in predicted[4:]])
    predicted = np.array(predicted)
    values = classification_metrics(labels, predicted, 4)
    expected_recall = sk.recall_score(labels, predicted, labels=range(4), average=None, zero_division=0)
    assert tuple(values) == METRICS
    assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert values["macro_f1"] == pytest.approx(
        sk.f1_score(labels, predicted, labels=range(4), average="macro", zero_division=0)
    )
    assert values["worst_class_recall"] == pytest.approx(expected_recall.min())
    assert_allclose(class_recall(confusion(labels, predicted, 4)), expected_recall)


def test_confusion_has_the_true_class_in_the_row():
    counts = confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert_array_equal(counts, [[1, 1, 0], [0, 1, 0], [1, 0, 0]])
