"""Logistic regression on frozen features, the fastest classifier."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from diffaug.classifiers.augmentation import strong_augmentation
from diffaug.classifiers.encoders import Encoder
from diffaug.classifiers.training_set import TrainingRecipe, TrainingSet
from diffaug.runtime.seeding import numpy_generator

PURPOSE = "evaluation features"
AUGMENTED_COPIES = 4
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class FeatureClassifier:
    """Logistic regression on frozen features.

    Each image is weighted by its draw probability times its loss weight, as in the expected loss of a network. The
    recipe has no effect, and the seed only affects strong augmentation.
    """

    stateless: ClassVar[bool] = True  # other processes may train copies of it
    encoder: Encoder

    @property
    def name(self) -> str:
        """The encoder's name, which includes a hash of its weights."""
        return f"features of {self.encoder.name}"

    def fit_predict(
        self, training: TrainingSet, pixels: NDArray[np.uint8], *, recipe: TrainingRecipe, seed: int, device: str
    ) -> NDArray[np.float32]:
        """Class probabilities (N, K) of `pixels` (N, H, W, C); 0 for a class without training images."""
        targets = training.soft_labels * training.importances[:, None]
        if training.strong_augmentation:
            copies = _strong_copies(training.images.pixels, targets, seed)
            parts = [(self.encoder.features(mixed), shares) for mixed, shares in copies]
            features, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
        else:
            features = self.encoder.features(training.images.pixels)
        logs = _log_probabilities(features, targets, self.encoder.features(pixels))
        # Intercepts are not penalized, so they absorb whatever is added to the logits in the loss:
        # the fit with a prior equals the fit without, minus the prior, exactly.
        if training.log_prior is not None:
            np.subtract(logs, training.log_prior, out=logs, where=np.isfinite(logs))
        return np.asarray(softmax(logs, axis=1), np.float32)


def _strong_copies(
    pixels: NDArray[np.uint8], targets: NDArray[np.float64], seed: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """All images several times in random order, augmented and mixed, with their targets, in batches."""
    for number in range(AUGMENTED_COPIES):
        order = numpy_generator(seed, f"{PURPOSE} order", number).permutation(len(pixels))
        for start in range(0, len(order), ROWS_AT_ONCE):
            rows = order[start : start + ROWS_AT_ONCE]
            random = numpy_generator(seed, f"{PURPOSE} augmentation", number, start)
            images, mixed = strong_augmentation(torch.from_numpy(pixels[rows]), torch.from_numpy(targets[rows]), random)
            levels = images.add(1).mul(127.5).round().to(torch.uint8)
            yield levels.permute(0, 2, 3, 1).numpy(), mixed.numpy() / AUGMENTED_COPIES


def _log_probabilities(
    features: NDArray[np.float32], targets: NDArray[np.float64], others: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Fits weighted soft labels (N, K) on features (N, D); log-probabilities (M, K) of other features (M, D)."""
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
