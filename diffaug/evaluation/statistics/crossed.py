"""Means over seeds and test images, with intervals for other seeds and other test images.

The input is an array (S, N), seed by test image: the answers of one arm, right 1 and wrong 0, or the paired differences
of two arms. It is averaged over the images of each class and then over classes.

Seeds and images are crossed random effects (Searle, Casella & McCulloch 1992). V_seeds, the variance of the mean over
seeds, and V_images, the stratified variance of the seed-averaged values over images, both contain V_noise, the variance
that neither explains; therefore

    Var = V_seeds + V_images - V_noise.

Seeds that share a generator are correlated. With two generators or more, V_seeds is the larger of the variance over
seeds and the variance over generators, which has one degree of freedom less than there are generators (Cameron, Gelbach
& Miller 2008). With one generator the variance between generators is unknown. With one seed V_seeds is unknown; the
interval then covers other test images only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# Two values often lie close together by chance. For the degrees of freedom, the variance over two seeds is therefore at
# least this share of V_noise, which is estimated from many images. Two generators leave at most this many degrees.
TRUSTED_NOISE = 0.6
TWO_GENERATORS_DF = 3

CONFIDENCE = 0.95


def tail(selected_from: int = 1) -> float:
    """Probability beyond one end of a 95 % interval when the best of m arms was compared.

    The best owes some of its lead to luck, always in the same direction. One end of the interval then takes all of the
    5 %, shared among the m arms by Šidák (1967), where that is less than the usual half of it.
    """
    return float(min((1 - CONFIDENCE) / 2, 1 - CONFIDENCE ** (1 / selected_from)))


def shared(tail_probability: float, among: int) -> float:
    """Probability beyond one end of each of several intervals that hold all at once (Bonferroni; Dunn 1961)."""
    return tail_probability / among


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p-values, in the order given."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for step, position in enumerate(_ascending(p_values)):
        largest = max(largest, min(1.0, (count - step) * p_values[position]))
        adjusted[position] = largest
    return adjusted


def holm_tails(p_values: Sequence[float]) -> list[float]:
    """Probability beyond one end of each interval so that the interval excludes zero exactly if `holm` is below 0.05.

    Step i of k (the smallest p-value first) tests at 5 % / (k - i + 1), half of it on each side. All steps after the
    first that fails keep its level, since Holm's procedure stops there. The p-values are two-sided, of the same
    statistics that the intervals are made of.
    """
    count = len(p_values)
    tails = [0.0] * count
    stopped_at: float | None = None
    for step, position in enumerate(_ascending(p_values)):
        tails[position] = stopped_at or (1 - CONFIDENCE) / 2 / (count - step)
        if p_values[position] >= 2 * tails[position]:
            stopped_at = tails[position]
    return tails


def _ascending(p_values: Sequence[float]) -> list[int]:
    return sorted(range(len(p_values)), key=p_values.__getitem__)


@dataclass(frozen=True)
class Estimate:
    """A mean and the ends of its 95 % interval, fractions."""

    mean: float
    low: float
    high: float

    @classmethod
    def clipped(cls, mean: float, low: float, high: float) -> Self:
        """With both ends in [-1, 1], the range of a difference of two shares."""
        return cls(mean, max(low, -1.0), min(high, 1.0))


@dataclass(frozen=True)
class CrossedMean:
    """A mean over seeds and test images, with its variance components."""

    mean: float
    seed_variance: float  # variance of the mean over seeds, or over generators, for fixed test images; 0 if unknown
    image_variance: float
    noise_variance: float  # the part that seed and image variance both contain: images on which the seeds disagree
    seeds: int
    degrees_of_freedom: float  # Satterthwaite's, of the total variance
    seeds_degrees_of_freedom: int  # of `seed_variance`; 0 with one seed
    by_generator: tuple[float, ...] = ()  # the mean of each generator's seeds, where there are several generators

    @property
    def variance(self) -> float:
        """Variance over other seeds and another test set of the same size."""
        total = self.seed_variance + self.image_variance - self.noise_variance
        return max(total, self.seed_variance, self.image_variance)

    @property
    def p_value(self) -> float:
        """Two-sided, of a true mean of zero."""
        return float(2 * stats.t.sf(abs(self.mean) / math.sqrt(self.variance), self.degrees_of_freedom))

    def quantile(self, probability: float) -> float:
        """Distance, in standard errors, beyond which a normal mean of these degrees of freedom lies on one side."""
        return float(stats.t.isf(probability, self.degrees_of_freedom))

    def interval(self, low_tail: float = tail(), high_tail: float = tail()) -> Estimate:
        """For another training seed and another test set of the same size and class mix.

        The tails are the probabilities that the truth lies below and above the interval, (0, 0.5].
        """
        error = math.sqrt(self.variance)
        low, high = (self.quantile(probability) * error for probability in (low_tail, high_tail))
        return Estimate.clipped(self.mean, self.mean - low, self.mean + high)

    def seeds_only_interval(self) -> Estimate | None:
        """For another training seed on this very test set, of no width where all seeds agree; None with one seed."""
        if not self.seeds_degrees_of_freedom:
            return None
        half = float(stats.t.isf(tail(), self.seeds_degrees_of_freedom)) * math.sqrt(self.seed_variance)
        return Estimate.clipped(self.mean, self.mean - half, self.mean + half)


@dataclass(frozen=True)
class ClassMeans:
    """Means by class, and their variance components."""

    by_seed: NDArray[np.float64]  # (S, K)
    image_variance: NDArray[np.float64]  # of each class mean (K,), like `noise_variance`
    noise_variance: NDArray[np.float64]
    image_counts: NDArray[np.int64]  # test images of each class, (K,)
    generators: NDArray[np.int64]  # number of the generator behind each seed, (S,)

    @classmethod
    def of(
        cls, values: NDArray[np.int8] | NDArray[np.float64], labels: NDArray[np.int64], generators: NDArray[np.int64]
    ) -> Self:
        """Averages values (S, N), each in [-1, 1], over the images of each class; labels (N,) hold all of the K."""
        seeds = len(values)
        counts = np.bincount(labels)
        membership = np.eye(len(counts))[labels]
        by_seed = values @ membership / counts
        image_mean = values.mean(axis=0)
        residuals = values - image_mean - (by_seed - by_seed.mean(axis=0))[:, labels]
        noise = (residuals**2).sum(axis=0) @ membership / (max(seeds - 1, 1) * np.maximum(counts - 1, 1))
        return cls(
            by_seed,
            image_variance=_steadied_variance(image_mean, labels, counts) / counts,
            noise_variance=noise / (seeds * counts),
            image_counts=counts,
            generators=generators,
        )

    def balanced(self) -> CrossedMean:
        """The average over classes."""
        return self.average(np.ones(len(self.image_counts)))

    def each(self) -> list[CrossedMean]:
        """Per class."""
        return [self.average(chosen) for chosen in np.eye(len(self.image_counts))]

    def average(self, weights: NDArray[np.float64] | NDArray[np.bool_]) -> CrossedMean:
        """An average over classes, of weights (K,) of any scale; degrees of freedom after Satterthwaite (1946)."""
        weights = weights / weights.sum()
        by_seed = self.by_seed @ weights
        seed_variance, seed_df = _variance_of_mean(by_seed, self.generators)
        parts = weights**2 * self.image_variance
        noise_variance = float(weights**2 @ self.noise_variance)
        trusted = max(seed_variance, TRUSTED_NOISE * noise_variance) if len(by_seed) == 2 else seed_variance
        spread = trusted**2 / max(seed_df, 1) + (parts**2 / self.image_counts).sum()
        by_generator = [float(by_seed[self.generators == number].mean()) for number in np.unique(self.generators)]
        result = CrossedMean(
            mean=float(by_seed.mean()),
            seed_variance=seed_variance,
            image_variance=float(parts.sum()),
            noise_variance=noise_variance,
            seeds=len(by_seed),
            degrees_of_freedom=math.inf,
            seeds_degrees_of_freedom=seed_df,
            by_generator=tuple(by_generator) if len(by_generator) > 1 else (),
        )
        return replace(result, degrees_of_freedom=float(max(1.0, result.variance**2 / spread)))


def recall_intervals(
    correct: NDArray[np.bool_], labels: NDArray[np.int64], generators: NDArray[np.int64]
) -> list[Estimate]:
    """Recall per class of one arm, with intervals for other seeds and other test images.

    Wilson's (1927) interval, which stays within 0 and 1 and has a width where every answer is right, at the effective
    number of images: as many independent images as would vary like these (Korn & Graubard 1998).
    """
    means = ClassMeans.of(correct.astype(np.int8), labels, generators)
    return [_wilson(mean, int(count)) for mean, count in zip(means.each(), means.image_counts, strict=True)]


def _variance_of_mean(by_seed: NDArray[np.float64], generators: NDArray[np.int64]) -> tuple[float, int]:
    """Variance of the mean over seeds, or over generators where that is larger, and its degrees of freedom."""
    seeds = len(by_seed)
    if seeds == 1:
        return 0.0, 0
    members = np.unique(generators, return_inverse=True)[1]
    clusters = int(members.max()) + 1
    seeds_df = seeds - 1 if clusters != 2 else min(seeds - 1, TWO_GENERATORS_DF)
    candidates = [(float(by_seed.var(ddof=1) / seeds), seeds_df)]
    if clusters > 1:
        shares = np.bincount(members, by_seed - by_seed.mean()) / seeds
        candidates.append((float((shares**2).sum() * clusters / (clusters - 1)), clusters - 1))
    return max(candidates)


def _steadied_variance(
    image_mean: NDArray[np.float64], labels: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Variance between the images of each class, (K,), never zero.

    Each class gets one more image of the variance pooled over all classes, so that a class of one test image has a
    variance; such classes enter the pool as one collapsed stratum (Cochran 1977, section 5A.12). Added is the effect of
    one test image that changes sides, in the spirit of Agresti & Min (2005).
    """
    num_classes = len(counts)
    stratum = np.where(counts > 1, np.arange(num_classes), num_classes)[labels]
    sizes = np.bincount(stratum, minlength=num_classes + 1)
    means = np.bincount(stratum, image_mean, num_classes + 1) / np.maximum(sizes, 1)
    squares = np.bincount(stratum, (image_mean - means[stratum]) ** 2, num_classes + 1)
    pooled = squares.sum() / max(len(labels) - np.count_nonzero(sizes), 1)
    return np.asarray((squares[:num_classes] + pooled) / counts + 1 / len(labels))


def _wilson(recall: CrossedMean, images: int) -> Estimate:
    share = recall.mean
    spread = share * (1 - share)
    size = min(max(spread / recall.variance, 1.0), float(recall.seeds * images)) if spread else float(images)
    squared = recall.quantile(tail()) ** 2 / size
    center = (share + squared / 2) / (1 + squared)
    half = math.sqrt(squared * (spread + squared / 4)) / (1 + squared)
    return Estimate(share, max(min(center - half, share), 0.0), min(max(center + half, share), 1.0))
