"""How good a pool is, class by class: fidelity and diversity in an encoder's features, and confirmed labels.

The figures compare synthetic images with the real training images that the encoder knows, so they compare pools and
classes of one study, not studies. They say what a pool looks like, not whether it helps: that is measured by training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffaug.runtime.seeding import numpy_generator

Features = NDArray[np.floating[Any]]
MANIFOLD_NEIGHBOURS = 3
DENSITY_NEIGHBOURS = 5
MAX_IMAGES = 2000
MEASURES = ("kid", "precision", "recall", "density", "coverage", "confirmed")


@dataclass(frozen=True)
class ClassQuality:
    """The synthetic images of one class against its real ones; a figure is None where there are too few images.

    Attributes:
        real: Real images compared, at most 2000.
        synthetic: Synthetic images compared, at most 2000.
        kid: Kernel distance, see `kernel_distance`.
        precision: Share of synthetic images among the real ones, see `precision_recall`.
        recall: Share of real images among the synthetic ones.
        density: How many real images are around a synthetic one, see `density_coverage`.
        coverage: Share of real images with a synthetic one around.
        confirmed: Share of all synthetic images that the classifier of the real ones gives the class they were made
            for: the accuracy of training on real and testing on synthetic. The off-class filter asks the same
            classifiers, so of a filtered pool it tells little about the labels.
        missing: What the figures that are None need, empty where none is.
    """

    real: int
    synthetic: int
    kid: float | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    confirmed: float | None = None
    missing: str = ""


@dataclass(frozen=True)
class PoolQuality:
    """The quality of every class.

    Attributes:
        encoder: Name of what turned pixels into features.
        classes: By name.
    """

    encoder: str
    classes: dict[str, ClassQuality]

    @property
    def confirmed(self) -> float | None:
        """Mean over the classes with synthetic images: balanced accuracy of training on real, testing on synthetic."""
        shares = [quality.confirmed for quality in self.classes.values() if quality.confirmed is not None]
        return float(np.mean(shares)) if shares else None

    @property
    def metrics(self) -> dict[str, float]:
        """The figures there are, as measure/class."""
        figures = {
            f"{measure}/{label}": getattr(quality, measure)
            for label, quality in self.classes.items()
            for measure in MEASURES
        }
        return {name: value for name, value in {"confirmed": self.confirmed, **figures}.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """JSON-like."""
        neighbours = {"precision and recall": MANIFOLD_NEIGHBOURS, "density and coverage": DENSITY_NEIGHBOURS}
        classes = {label: asdict(quality) for label, quality in self.classes.items()}
        return {"encoder": self.encoder, "neighbours": neighbours, "confirmed": self.confirmed, "classes": classes}


@dataclass(frozen=True)
class Encoded:
    """Images as an encoder sees them.

    Attributes:
        features: Float (N, D).
        labels: Class indices, int64 (N,).
    """

    features: Features
    labels: NDArray[np.int64]

    def of_class(self, index: int, seed: int) -> Features:
        """The features of a class as float64, of a random 2000 where there are more."""
        own = np.flatnonzero(self.labels == index)
        if len(own) > MAX_IMAGES:
            own = np.sort(numpy_generator(seed, "quality", index).choice(own, MAX_IMAGES, replace=False))
        return self.features[own].astype(np.float64)


def measure_quality(
    real: Encoded,
    synthetic: Encoded,
    log_probabilities: NDArray[np.floating[Any]],
    classes: Sequence[str],
    *,
    encoder: str,
    seed: int = 0,
) -> PoolQuality:
    """Measures every class.

    Args:
        real: Real training images.
        synthetic: The pool.
        log_probabilities: Of the synthetic images by a classifier of the real ones, (N, K).
        classes: Their K names.
        encoder: Name of the encoder.
        seed: Decides which images are compared in classes of more than 2000.
    """
    agreed = log_probabilities.argmax(axis=1) == synthetic.labels
    return PoolQuality(
        encoder,
        {
            label: _class_quality(
                real.of_class(index, seed), synthetic.of_class(index, seed), agreed[synthetic.labels == index]
            )
            for index, label in enumerate(classes)
        },
    )


def _class_quality(real: Features, synthetic: Features, agreed: NDArray[np.bool_]) -> ClassQuality:
    figures: dict[str, float] = {"confirmed": float(agreed.mean())} if len(agreed) else {}
    missing = []
    for names, measure, least_real, least_synthetic in (
        (("kid",), _kid, 2, 2),
        (("precision", "recall"), precision_recall, MANIFOLD_NEIGHBOURS + 1, MANIFOLD_NEIGHBOURS + 1),
        (("density", "coverage"), density_coverage, DENSITY_NEIGHBOURS + 1, 1),
    ):
        if len(real) >= least_real and len(synthetic) >= least_synthetic:
            figures |= zip(names, measure(real, synthetic), strict=True)
        else:
            missing.append(f"{' and '.join(names)}: at least {least_real} real and {least_synthetic} synthetic images")
    return ClassQuality(len(real), len(synthetic), **figures, missing="; ".join(missing))


def _kid(real: Features, synthetic: Features) -> tuple[float]:
    return (kernel_distance(real, synthetic),)


def kernel_distance(real: Features, other: Features) -> float:
    """KID: the unbiased squared maximum mean discrepancy (Binkowski et al. 2018, arXiv 1801.01401, section 4).

    With the kernel (x y / D + 1)^3. 0 on average for equal distributions, and then as often negative as positive.

    Args:
        real: (N, D), at least two.
        other: (M, D), at least two.
    """
    return _mean_kernel_within(real) + _mean_kernel_within(other) - 2 * float(_kernel(real, other).mean())


def _kernel(left: Features, right: Features) -> Features:
    return np.asarray((left @ right.T / left.shape[1] + 1) ** 3)


def _mean_kernel_within(features: Features) -> float:
    kernel, count = _kernel(features, features), len(features)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))


def precision_recall(real: Features, synthetic: Features, k: int = MANIFOLD_NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2).

    The manifold of a set is the union of balls around its points that reach to their k-th neighbour in the set.

    Args:
        real: (N, D), N > k.
        synthetic: (M, D), M > k.
        k: Neighbours; the paper's 3.

    Returns:
        Shares of `synthetic` in the manifold of `real`, and of `real` in that of `synthetic`.
    """
    between = _distances(real, synthetic)
    precision = (between <= _reach(real, k)[:, None]).any(axis=0).mean()
    recall = (between <= _reach(synthetic, k)[None, :]).any(axis=1).mean()
    return float(precision), float(recall)


def density_coverage(real: Features, synthetic: Features, k: int = DENSITY_NEIGHBOURS) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, arXiv 2002.09797, eq. 3 and 4), less swayed by outliers.

    Args:
        real: (N, D), N > k.
        synthetic: (M, D), M > 0.
        k: Neighbours; the paper's 5.

    Returns:
        Density, the balls of real images that a synthetic one lies in over k, about 1 for equal distributions and
        not bounded by it; and coverage, the share of real balls with a synthetic image in them.
    """
    inside = _distances(real, synthetic) <= _reach(real, k)[:, None]
    return float(inside.sum(axis=0).mean() / k), float(inside.any(axis=1).mean())


def _reach(features: Features, k: int) -> Features:
    """Distance of each point to its k-th neighbour, itself not counted, (N,)."""
    distances = _distances(features, features)
    np.fill_diagonal(distances, np.inf)
    return np.asarray(np.partition(distances, k - 1, axis=1)[:, k - 1])


def _distances(left: Features, right: Features) -> Features:
    exact = "donot_use_mm_for_euclid_dist"  # a matrix product would lose small distances to cancellation
    return np.asarray(torch.cdist(torch.from_numpy(left), torch.from_numpy(right), compute_mode=exact).numpy())
