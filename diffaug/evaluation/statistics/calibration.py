"""How probable a classifier finds the true classes once its confidence is set right."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

LEAST_PROBABILITY = 1e-12
LOG_TEMPERATURES = (-2.0, 3.0)


def true_class_probabilities(
    probabilities: Sequence[NDArray[np.floating[Any]]], labels: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.float64]]:
    """The probability of the true class of each image, float64 (N,) per training, after temperature scaling.

    All trainings share the one temperature with the lowest cross-entropy, mean over classes (Guo et al. 2017,
    arXiv 1706.04599, section 4.2). So a method that makes networks more or less sure of themselves is not preferred for
    it, and what remains, mean over classes, is the expected accuracy of a classifier that draws its answer. It hardly
    depends on a single image, as accuracy does in a class of four.

    Args:
        probabilities: Of the classes for each image, (N, K), by training.
        labels: True classes (N,), by training.
    """
    logs = np.log(np.maximum(np.concatenate(probabilities).astype(np.float64), LEAST_PROBABILITY))
    true, images = np.concatenate(labels), np.arange(len(logs))
    weights = 1 / np.bincount(true)[true]

    def scaled(log_temperature: float) -> NDArray[np.float64]:
        chosen: NDArray[np.float64] = log_softmax(logs * np.exp(-log_temperature), axis=1)[images, true]
        return chosen

    fitted = minimize_scalar(lambda at: -float(weights @ scaled(at)), bounds=LOG_TEMPERATURES, method="bounded")
    ends = np.cumsum([len(one) for one in labels])[:-1].tolist()
    return np.split(np.exp(scaled(float(fitted.x))), ends)
