"""How near generated images are to real ones: kernel and Frechet distance between a classifier's features.

The classifier is diffaug's own, trained once on real training images, none of them among the test images that the
distances refer to. Inception's features, which these distances are usually taken in, are of photographs of 299 px.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diffaug.classifiers.fit import fit_network
from diffaug.classifiers.training_set import TrainingRecipe, TrainingSet, default_updates
from diffaug.data.images import LabeledImages
from diffaug.runtime import seeding
from diffaug.synthesis.audit.quality import kernel_distance

Features = NDArray[np.float64]
SUBSETS = 3
SUBSET_SHARE = 0.8
MAX_SUBSET = 1000
BATCH = 256


@dataclass(frozen=True)
class Extractor:
    """The penultimate layer of a classifier of real images.

    Attributes:
        layers: The classifier without its last layer: float NCHW in [-1, 1] to (N, D).
        device: Where it is.
    """

    layers: nn.Module
    device: str

    @classmethod
    def fit(cls, images: LabeledImages, device: str, updates: int | None = None) -> Extractor:
        """Trains the classifier with balanced softmax, always with the same seed.

        Args:
            images: Real images, none of the test set.
            device: `cpu` or `cuda`.
            updates: Length of the training; none: by the number of images.
        """
        model = fit_network(
            TrainingSet.real_only(images, np.log(np.maximum(images.class_counts, 1))),
            recipe=TrainingRecipe(updates=updates or default_updates(len(images))),
            seed=0,
            purpose="features",
            device=device,
            exact=True,
        )
        return cls(nn.Sequential(*list(model.children())[:-1]), device)

    def features(self, pixels: NDArray[np.uint8]) -> Features:
        """uint8 (N, H, W, C) to (N, D)."""
        with torch.inference_mode():
            batches = [
                self.layers(batch.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1).cpu()
                for batch in torch.split(torch.from_numpy(np.array(pixels)), BATCH)
            ]
        return torch.cat(batches).double().numpy()


def frechet_distance(real: Features, other: Features) -> float:
    """FID's distance: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two Gaussians (Heusel et al. 2017, eq. 6).

    Biased upward for few images, so only sets of equal size compare.

    Args:
        real: (N, D).
        other: (M, D).
    """
    covariances = [np.cov(features, rowvar=False) for features in (real, other)]
    between = np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)
    shift = np.square(real.mean(axis=0) - other.mean(axis=0)).sum()
    return float(shift + sum(map(np.trace, covariances)) - 2 * np.sqrt(between).sum())


@dataclass(frozen=True)
class Distances:
    """How far generated images are from real ones.

    Attributes:
        kid: Kernel distance, mean over three random subsets.
        kid_sd: Its standard deviation over the subsets.
        frechet: Frechet distance.
        class_kid: Kernel distance of each class, by name.
        class_frechet: Frechet distance of each class, by name.
    """

    kid: float
    kid_sd: float
    frechet: float
    class_kid: dict[str, float]
    class_frechet: dict[str, float]


def measure_distances(extractor: Extractor, real: LabeledImages, other: LabeledImages) -> Distances:
    """Compares two sets with the same classes, each class weighing the same; at least three images a class in both."""
    real, other = equal_classes(real), equal_classes(other)
    pairs = extractor.features(real.pixels), extractor.features(other.pixels)
    kid = _over_subsets(*pairs)
    by_class = {
        name: (pairs[0][real.labels == index], pairs[1][other.labels == index])
        for index, name in enumerate(real.classes)
    }
    return Distances(
        kid=float(np.mean(kid)),
        kid_sd=float(np.std(kid, ddof=1)),
        frechet=frechet_distance(*pairs),
        class_kid={name: float(np.mean(_over_subsets(*pair))) for name, pair in by_class.items()},
        class_frechet={name: frechet_distance(*pair) for name, pair in by_class.items()},
    )


def equal_classes(images: LabeledImages) -> LabeledImages:
    """The first images of each class, as many as the smallest class has."""
    count = int(images.class_counts.min())
    return images.select(
        np.concatenate([np.flatnonzero(images.labels == index)[:count] for index in range(len(images.classes))])
    )


def _over_subsets(real: Features, other: Features) -> list[float]:
    size = min(MAX_SUBSET, max(2, round(SUBSET_SHARE * min(len(real), len(other)))))
    distances = []
    for number in range(SUBSETS):
        random = seeding.numpy_generator(0, "kernel distance", number)
        chosen = [features[random.choice(len(features), size, replace=False)] for features in (real, other)]
        distances.append(kernel_distance(*chosen))
    return distances
