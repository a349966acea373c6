"""Logistic regression on frozen features, the quickest of the classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from diffaug.classifiers.augmentation import strong_augmentation
from diffaug.classifiers.encoders import Encoder
from diffaug.runtime.seeding import numpy_generator

if TYPE_CHECKING:
    from diffaug.classifiers.fit import TrainingRecipe
    from diffaug.classifiers.training import TrainingSet

PURPOSE = "evaluation features"
AUGMENTED_COPIES = 4
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class FeatureClassifier:
    """Logistic regression on frozen features: seconds instead of minutes, and no backbone is compared with any other.

    An image counts by its chance in a draw times its weight, since the expected loss of a network counts it so. The
    number of updates plays no part, and the seed none but in strong augmentation.

    Attributes:
        encoder: Makes the features.
    """

    encoder: Encoder

    @property
    def name(self) -> str:
        """The encoder's name, which holds a hash of its weights."""
        return f"features of {self.encoder.name}"

    def fit_predict(
        self, training: TrainingSet, pixels: NDArray[np.uint8], *, recipe: TrainingRecipe, seed: int, device: str
    ) -> NDArray[np.float32]:
        """Class probabilities (N, K) of `pixels` (N, H, W, C); a class that has no training image gets 0."""
        targets = training.label_shares * training.importances[:, None]
        if training.strong_augmentation:
            copies = [self._augmented(training.images.pixels, targets, seed, i) for i in range(AUGMENTED_COPIES)]
            features, targets = (np.concatenate(parts) for parts in zip(*copies, strict=True))
        else:
            features = self.encoder.features(training.images.pixels)
        logs = _log_probabilities(features, targets, self.encoder.features(pixels))
        # The intercepts are not penalised, so they take up whatever is added to the logits in the loss:
        # the fit with a prior is the fit without, minus the prior. This is exact.
        if training.log_prior is not None:
            np.subtract(logs, training.log_prior, out=logs, where=np.isfinite(logs))
        return np.asarray(softmax(logs, axis=1), np.float32)

    def _augmented(
        self, pixels: NDArray[np.uint8], targets: NDArray[np.float64], seed: int, number: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        parts = [
            (self.encoder.features(mixed), shares) for mixed, shares in _strong_copies(pixels, targets, seed, number)
        ]
        features, shares = (np.concatenate(part) for part in zip(*parts, strict=True))
        return features, shares / AUGMENTED_COPIES


def _strong_copies(
    pixels: NDArray[np.uint8], targets: NDArray[np.float64], seed: int, number: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """All images once in random order, augmented and mixed, and their targets; some at a time."""
    order = numpy_generator(seed, f"{PURPOSE} order", number).permutation(len(pixels))
    for start in range(0, len(order), ROWS_AT_ONCE):
        rows = order[start : start + ROWS_AT_ONCE]
        random = numpy_generator(seed, f"{PURPOSE} augmentation", number, start)
        images, mixed = strong_augmentation(torch.from_numpy(pixels[rows]), torch.from_numpy(targets[rows]), random)
        levels = images.add(1).mul(127.5).round().to(torch.uint8)
        yield levels.permute(0, 2, 3, 1).numpy(), mixed.numpy()


def _log_probabilities(
    features: NDArray[np.float32], targets: NDArray[np.float64], others: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Logistic regression of weighted class shares (N, K) on features (N, D), asked about other features (M, D)."""
    scaler = StandardScaler().fit(features, sample_weight=targets.sum(axis=1))
    rows, labels = np.nonzero(targets)
    classes = np.unique(labels)
    logs = np.full((len(others), targets.shape[1]), -np.inf)
    if len(classes) == 1:
        logs[:, classes] = 0.0
        return logs
    regression = LogisticRegression(max_iter=1000)
    regression.fit(scaler.transform(features)[rows], labels, sample_weight=targets[rows, labels])
    logs[:, classes] = regression.predict_log_proba(scaler.transform(others))
    return logs
