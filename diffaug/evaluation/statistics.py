"""Paired differences of recall between two arms, with intervals that know what may vary.

Correctness is an array (S, N): seed by test image. A difference is averaged over the images of each class and then
over the classes, which makes it a difference of balanced accuracies, or of one class's recalls.

Another training seed changes it, and so does another test set. Seeds and images are crossed random effects (Searle,
Casella & McCulloch 1992). V_seeds, the variance of the mean over seeds, and V_images, the stratified variance of the
seed-averaged differences over images, both contain V_noise, the variance that neither explains; therefore

    Var = V_seeds + V_images - V_noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and the ends of its 95 % interval, fractions."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """A mean paired difference and what its uncertainty is made of.

    Attributes:
        mean: The difference, a fraction.
        seed_variance: Variance of the mean over seeds, the test images being fixed.
        image_variance: Variance of the mean over test images.
        noise_variance: The part that both contain: images on which the seeds disagree.
        seeds: S.
        degrees_of_freedom: Satterthwaite's, of the total variance.
    """

    mean: float
    seed_variance: float
    image_variance: float
    noise_variance: float
    seeds: int
    degrees_of_freedom: float

    @property
    def variance(self) -> float:
        """Variance over other seeds and another test set of the same size."""
        total = self.seed_variance + self.image_variance - self.noise_variance
        return max(total, self.seed_variance, self.image_variance)

    @property
    def p_value(self) -> float:
        """Two-sided, of a true difference of zero."""
        return float(2 * stats.t.sf(abs(self.mean) / math.sqrt(self.variance), self.degrees_of_freedom))

    def quantile(self, confidence: float = CONFIDENCE) -> float:
        """Half-width of the interval in standard errors."""
        return float(stats.t.isf((1 - confidence) / 2, self.degrees_of_freedom))

    def interval(self, confidence: float = CONFIDENCE) -> Estimate:
        """For another training seed and another test set of the same size and class mix."""
        return _around(self.mean, self.quantile(confidence) * math.sqrt(self.variance))

    def seeds_only_interval(self, confidence: float = CONFIDENCE) -> Estimate:
        """For another training seed on this very test set; of no width where all seeds agree."""
        quantile = float(stats.t.isf((1 - confidence) / 2, self.seeds - 1))
        return _around(self.mean, quantile * math.sqrt(self.seed_variance))


def paired_difference(
    first: NDArray[np.bool_], second: NDArray[np.bool_], labels: NDArray[np.int64], num_classes: int
) -> PairedDifference:
    """Balanced accuracy of `first` minus that of `second`.

    Args:
        first: Whether seed s was right on test image i, (S, N), S >= 2.
        second: The same of the other arm, with the same seeds and images.
        labels: True classes (N,), each of the K at least once.
        num_classes: K.
    """
    classes = _class_differences(first, second, labels, num_classes)
    return _combine(classes, np.full(num_classes, 1 / num_classes))


def paired_recall_differences(
    first: NDArray[np.bool_], second: NDArray[np.bool_], labels: NDArray[np.int64], num_classes: int
) -> list[PairedDifference]:
    """Recall of `first` minus that of `second`, class by class; arguments as `paired_difference`."""
    classes = _class_differences(first, second, labels, num_classes)
    return [_combine(classes, weights) for weights in np.eye(num_classes)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p-values, in the order given."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, position in enumerate(sorted(range(count), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (count - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted


@dataclass(frozen=True)
class _ClassDifferences:
    """Differences by class and their variance components."""

    by_seed: NDArray[np.float64]  # (S, K)
    image_variance: NDArray[np.float64]  # (K,), of the class mean
    noise_variance: NDArray[np.float64]  # (K,), of the class mean
    image_counts: NDArray[np.int64]  # (K,)


def _class_differences(
    first: NDArray[np.bool_], second: NDArray[np.bool_], labels: NDArray[np.int64], num_classes: int
) -> _ClassDifferences:
    difference = first.astype(np.float64) - second.astype(np.float64)
    seeds = len(difference)
    counts = np.bincount(labels, minlength=num_classes)
    membership = np.eye(num_classes)[labels]
    by_seed = difference @ membership / counts
    image_mean = difference.mean(axis=0)
    residuals = difference - image_mean - (by_seed - by_seed.mean(axis=0))[:, labels]
    noise = (residuals**2).sum(axis=0) @ membership / ((seeds - 1) * np.maximum(counts - 1, 1))
    return _ClassDifferences(
        by_seed, _steadied_variance(image_mean, labels, counts) / counts, noise / (seeds * counts), counts
    )


def _steadied_variance(
    image_mean: NDArray[np.float64], labels: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Variance between the images of each class, (K,), never zero.

    A class counts as if it had one more image of the variance pooled over all classes, so that a class of one test
    image has a variance; such classes enter the pool as one collapsed stratum (Cochran 1977, section 5A.12). To that
    is added what a single test image that changes sides would cause, in the spirit of Agresti & Min (2005): where no
    image changed sides among N, another one still may.
    """
    num_classes = len(counts)
    stratum = np.where(counts > 1, np.arange(num_classes), num_classes)[labels]
    sizes = np.bincount(stratum, minlength=num_classes + 1)
    means = np.bincount(stratum, image_mean, num_classes + 1) / np.maximum(sizes, 1)
    squares = np.bincount(stratum, (image_mean - means[stratum]) ** 2, num_classes + 1)
    pooled = squares.sum() / max(len(labels) - np.count_nonzero(sizes), 1)
    return np.asarray((squares[:num_classes] + pooled) / counts + 1 / len(labels))


def _combine(classes: _ClassDifferences, weights: NDArray[np.float64]) -> PairedDifference:
    """A weighted sum over classes; degrees of freedom after Satterthwaite (1946)."""
    by_seed = classes.by_seed @ weights
    seeds = len(by_seed)
    image_parts = weights**2 * classes.image_variance
    result = PairedDifference(
        mean=float(by_seed.mean()),
        seed_variance=float(by_seed.var(ddof=1) / seeds),
        image_variance=float(image_parts.sum()),
        noise_variance=float(weights**2 @ classes.noise_variance),
        seeds=seeds,
        degrees_of_freedom=math.inf,
    )
    spread = result.seed_variance**2 / (seeds - 1) + (image_parts**2 / classes.image_counts).sum()
    return replace(result, degrees_of_freedom=float(max(1.0, result.variance**2 / spread)))


def _around(mean: float, half_width: float) -> Estimate:
    return Estimate(mean, mean - half_width, mean + half_width)
