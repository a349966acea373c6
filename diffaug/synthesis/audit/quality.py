"""Fidelity and diversity of a pool per class in the features of an encoder, and label agreement.

The figures compare pools and classes of one study, not studies, and don't say whether a pool helps: only training does.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from diffaug.runtime.seeding import numpy_generator

Features = NDArray[np.floating[Any]]
QUALITY = "quality.json"
MANIFOLD_NEIGHBORS, DENSITY_NEIGHBORS = 3, 5  # as in the papers
MAX_IMAGES = 2000


@dataclass(frozen=True)
class ClassQuality:
    """The synthetic images of one class against its real ones, at most 2000 each.

    A figure is None if there are too few images; `missing` says what it needs. `label_agreement` is the fraction of all
    synthetic images that a classifier of the real ones assigns to their class. The filter 'wrong class' uses the same
    classifiers, so for a filtered pool it says little about the labels.
    """

    real: int
    synthetic: int
    kid: float | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    label_agreement: float | None = None
    missing: str = ""


@dataclass(frozen=True)
class PoolQuality:
    """The quality of the classes of a pool, by name, in the features of an encoder."""

    encoder: str
    classes: dict[str, ClassQuality]

    @property
    def label_agreement(self) -> float | None:
        """Mean over the classes with synthetic images: balanced accuracy of training on real, testing on synthetic."""
        values = [one.label_agreement for one in self.classes.values() if one.label_agreement is not None]
        return float(np.mean(values)) if values else None

    @property
    def metrics(self) -> dict[str, float]:
        """The measured figures, named measure/class, and the mean label agreement."""
        overall = {} if self.label_agreement is None else {"label_agreement": self.label_agreement}
        of_classes = {
            f"{name}/{label}": value
            for label, quality in self.classes.items()
            for name, value in asdict(quality).items()
            if isinstance(value, float)
        }
        return overall | of_classes


POOL_QUALITY = TypeAdapter(PoolQuality)


@dataclass(frozen=True)
class LabeledFeatures:
    """Features of labeled images, float (N, D), and their class indices, int64 (N,)."""

    features: Features
    labels: NDArray[np.int64]

    def of_class(self, index: int, seed: int) -> Features:
        """The features of a class as float64; a random 2000 of them if there are more."""
        own = np.flatnonzero(self.labels == index)
        if len(own) > MAX_IMAGES:
            own = np.sort(numpy_generator(seed, "quality", index).choice(own, MAX_IMAGES, replace=False))
        return self.features[own].astype(np.float64)


def measure_quality(
    real: LabeledFeatures,
    synthetic: LabeledFeatures,
    log_probabilities: NDArray[np.floating[Any]],
    classes: Sequence[str],
    *,
    encoder: str,
    seed: int = 0,
) -> PoolQuality:
    """Measures every class; the log-probabilities (N, K) are of synthetic images by a classifier of the real ones.

    The seed decides which images are compared in classes of more than 2000.
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
    figures: dict[str, float] = {"label_agreement": float(agreed.mean())} if len(agreed) else {}
    missing = []
    for names, measure, least_real, least_synthetic in (
        (("kid",), lambda *sets: [kernel_distance(*sets)], 2, 2),
        (("precision", "recall"), precision_recall, MANIFOLD_NEIGHBORS + 1, MANIFOLD_NEIGHBORS + 1),
        (("density", "coverage"), density_coverage, DENSITY_NEIGHBORS + 1, 1),
    ):
        if len(real) >= least_real and len(synthetic) >= least_synthetic:
            figures |= zip(names, measure(real, synthetic), strict=True)
        else:
            missing.append(f"{' and '.join(names)}: at least {least_real} real and {least_synthetic} synthetic images")
    return ClassQuality(len(real), len(synthetic), **figures, missing="; ".join(missing))


def kernel_distance(real: Features, other: Features) -> float:
    """KID: the unbiased squared maximum mean discrepancy (Binkowski et al. 2018, arXiv 1801.01401, section 4).

    The kernel is (x y / D + 1)^3. For equal distributions the mean is 0. Each set has at least two rows.
    """
    return _mean_kernel_within(real) + _mean_kernel_within(other) - 2 * float(_kernel(real, other).mean())


def _kernel(left: Features, right: Features) -> Features:
    return np.asarray((left @ right.T / left.shape[1] + 1) ** 3)


def _mean_kernel_within(features: Features) -> float:
    kernel, count = _kernel(features, features), len(features)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))


def precision_recall(real: Features, synthetic: Features, k: int = MANIFOLD_NEIGHBORS) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2).

    The fractions of `synthetic` in the manifold of `real`, and of `real` in that of `synthetic`. The manifold of a set
    is the union of balls around its points that reach to their k-th neighbor in the set.
    """
    between = _distances(real, synthetic)
    precision = (between <= _reach(real, k)[:, None]).any(axis=0).mean()
    recall = (between <= _reach(synthetic, k)[None, :]).any(axis=1).mean()
    return float(precision), float(recall)


def density_coverage(real: Features, synthetic: Features, k: int = DENSITY_NEIGHBORS) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, arXiv 2002.09797, eq. 3 and 4), more robust to outliers.

    Density is the number of real balls around a synthetic image over k, about 1 for equal distributions and not bounded
    by it; coverage is the fraction of real balls with a synthetic image in them.
    """
    inside = _distances(real, synthetic) <= _reach(real, k)[:, None]
    return float(inside.sum(axis=0).mean() / k), float(inside.any(axis=1).mean())


def _reach(features: Features, k: int) -> Features:
    """Distance of each point to its k-th neighbor, itself not counted, (N,)."""
    distances = _distances(features, features)
    np.fill_diagonal(distances, np.inf)
    return np.asarray(np.partition(distances, k - 1, axis=1)[:, k - 1])


def _distances(left: Features, right: Features) -> Features:
    exact = "donot_use_mm_for_euclid_dist"  # a matrix product would lose small distances to cancellation
    return np.asarray(torch.cdist(torch.from_numpy(left), torch.from_numpy(right), compute_mode=exact).numpy())
