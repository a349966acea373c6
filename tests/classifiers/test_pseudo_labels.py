import numpy as np
import pytest
from numpy.typing import NDArray

from diffaug.classifiers.pseudo_labels import pseudo_labels

# Class 0 is predicted surely, class 1 with doubts: confidences .9 .8 .7 .6 and .55 .5.
TWO_CLASSES = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.45, 0.55], [0.5 - 1e-9, 0.5 + 1e-9]])


@pytest.mark.parametrize(
    ("threshold", "class_balanced", "used"),
    [
        (0.0, False, [1, 1, 1, 1, 1, 1]),
        (0.75, False, [1, 1, 0, 0, 0, 0]),
        (0.8, False, [1, 1, 0, 0, 0, 0]),  # the threshold itself is sure enough
        (1.0, False, [0, 0, 0, 0, 0, 0]),
        (0.75, True, [1, 1, 0, 0, 1, 0]),  # a third of all: 4/3 of class 0 and 2/3 of class 1, rounded up
        (0.65, True, [1, 1, 0, 0, 1, 0]),  # half of each class
        (0.0, True, [1, 1, 1, 1, 1, 1]),
        (1.0, True, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_sure_labels_are_used(threshold: float, class_balanced: bool, used: list[int]) -> None:
    found = pseudo_labels(TWO_CLASSES, threshold, class_balanced=class_balanced)
    assert found.used.tolist() == [bool(one) for one in used]
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert found.weights[found.used] == pytest.approx(TWO_CLASSES.max(axis=1)[found.used])


@pytest.fixture
def probabilities() -> NDArray[np.float64]:
    """Long-tailed predictions, of which the rare classes are less sure."""
    draws = np.random.default_rng(0)
    logits = draws.normal(size=(400, 5)) * [3.0, 2.0, 1.5, 1.0, 0.7]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_balanced_shares_are_equal(probabilities: NDArray[np.float64]) -> None:
    found, plain = (pseudo_labels(probabilities, 0.6, class_balanced=balanced) for balanced in (True, False))
    shares = np.array([found.used[found.labels == label].mean() for label in range(5)])
    counts = np.bincount(found.labels, minlength=5)
    assert (np.abs(shares - plain.used.mean()) <= 1 / counts).all()
    plain_shares = [plain.used[plain.labels == label].mean() for label in range(5)]
    assert np.ptp(shares) < np.ptp(plain_shares)


def test_equally_sure_labels_are_used_together() -> None:
    first = np.array([0.7, 0.7, 0.7, 0.6, 0.4, 0.4, 0.4, 0.4])  # 3 of 8 are sure, that is 2 of each class
    found = pseudo_labels(np.column_stack([first, 1 - first]), 0.65, class_balanced=True)
    assert found.used.tolist() == [True, True, True, False, True, True, True, True]


def test_no_images() -> None:
    found = pseudo_labels(np.empty((0, 3)), 0.5, class_balanced=True)
    assert (len(found.labels), len(found.weights)) == (0, 0)
