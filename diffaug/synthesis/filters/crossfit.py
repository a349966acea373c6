"""Classifiers that each leave out a fold of the real images, so that every real image is scored like a new one."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.classifiers.encoders import ClassifierEncoder, ClassifierOutput, Encoder
from diffaug.data.images import LabeledImages
from diffaug.runtime.parallel import backend_is_registered, one_thread_each, run_unordered
from diffaug.synthesis.filters.scores import class_distances

ABSENT_CLASS_LOGIT = -1e4


@dataclass(frozen=True)
class ClassifierFolds:
    """Classifiers trained on pixels."""

    encoders: tuple[ClassifierEncoder, ...]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Weights by name, prefixed with the fold's number."""
        return {f"{k}.{name}": value for k, one in enumerate(self.encoders) for name, value in one.weights.items()}

    def predict(self, pixels: NDArray[np.uint8]) -> list[ClassifierOutput]:
        """Output of each classifier for uint8 (N, H, W, C)."""
        return [encoder.predict(pixels) for encoder in self.encoders]


@dataclass(frozen=True)
class ProbeFolds:
    """Linear classifiers on the features of one encoder, with weights (folds, D, K) and biases (folds, K)."""

    encoder: Encoder
    weights: NDArray[np.float32]
    biases: NDArray[np.float32]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Weights and biases."""
        return {"weights": torch.from_numpy(self.weights), "biases": torch.from_numpy(self.biases)}

    def predict(self, pixels: NDArray[np.uint8]) -> list[ClassifierOutput]:
        """Output of each classifier for uint8 (N, H, W, C), which are encoded once."""
        features = self.encoder.features(pixels)
        logits = (features @ weights + bias for weights, bias in zip(self.weights, self.biases, strict=True))
        return [ClassifierOutput(features, torch.from_numpy(one).log_softmax(dim=1).numpy()) for one in logits]


FoldModels = ClassifierFolds | ProbeFolds
"""One classifier per fold."""


@dataclass(frozen=True)
class ReferenceFeatures:
    """Features (M, D) and labels (M,) of the images that each fold's model was trained on."""

    features: tuple[NDArray[np.float32], ...]
    labels: tuple[NDArray[np.int64], ...]

    def distances(self, fold: int, features: NDArray[np.float32], class_index: int) -> NDArray[np.float32]:
        """`class_distances` of features (N, D) of the fold's model; 0 for a class without images."""
        references = self.features[fold][self.labels[fold] == class_index]
        if not len(references):
            return np.zeros(len(features), np.float32)
        return class_distances(features, references)


def fit_fold_models(
    images: LabeledImages,
    folds: NDArray[np.int64],
    *,
    seed: int,
    device: str,
    encoder: Encoder | None = None,
    max_steps: int | None = None,
) -> FoldModels:
    """Trains a class-balanced classifier for each fold on the images outside it.

    Without an encoder networks are trained on the pixels, by default for a number of steps that the number of images
    decides. With one, linear classifiers are trained on its features.
    """
    count = folds.max(initial=0) + 1  # one if no image can be left out
    parts = [np.flatnonzero(folds != fold) for fold in range(count)]
    if encoder is None:
        return ClassifierFolds(tuple(_fit_networks(images, parts, seed, device, max_steps)))
    features = encoder.features(images.pixels)
    probes = [_probe(features[part], images.labels[part], len(images.classes)) for part in parts]
    return ProbeFolds(encoder, np.stack([weights for weights, _ in probes]), np.stack([bias for _, bias in probes]))


def _fit_networks(
    images: LabeledImages, parts: list[NDArray[np.int64]], seed: int, device: str, max_steps: int | None
) -> list[ClassifierEncoder]:
    """Trains one network per part, through joblib.

    On a CPU each training uses one thread, since weights depend on the number of threads in their last bits, and with
    them the images that a pool holds. Without a registered backend the trainings share this process: starting others
    would take longer than most of these trainings. A GPU trains one network after another.
    """
    tasks = {
        fold: partial(_fit_network, images, part, seed=seed, purpose=f"fold {fold}", device=device, max_steps=max_steps)
        for fold, part in enumerate(parts)
    }
    if device == "cpu" and backend_is_registered():
        trained = dict(run_unordered(tasks))
        return [trained[fold] for fold in tasks]
    with one_thread_each() as threads:
        side_by_side = joblib.Parallel(n_jobs=threads if device == "cpu" else 1, prefer="threads")
        return list(side_by_side(joblib.delayed(task)() for task in tasks.values()))


def _fit_network(
    images: LabeledImages, part: NDArray[np.int64], *, seed: int, purpose: str, device: str, max_steps: int | None
) -> ClassifierEncoder:
    with one_thread_each():
        return ClassifierEncoder.fit(images.select(part), seed=seed, purpose=purpose, device=device, updates=max_steps)


def load_fold_models(
    tensors: Mapping[str, Tensor], images: LabeledImages, folds: int, *, device: str, encoder: Encoder | None = None
) -> FoldModels:
    """Rebuilds the result of `fit_fold_models` from its tensors."""
    if encoder is not None:
        return ProbeFolds(encoder, tensors["weights"].numpy(), tensors["biases"].numpy())
    height, width, channels = images.pixels.shape[1:]
    encoders = []
    for fold in range(folds):
        weights = {name.removeprefix(f"{fold}."): t for name, t in tensors.items() if name.startswith(f"{fold}.")}
        encoders.append(ClassifierEncoder.load(weights, (height, width, channels), len(images.classes), device))
    return ClassifierFolds(tuple(encoders))


def _probe(
    features: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (D, K) and biases (K,) of a class-balanced logistic regression on standardized features."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    present = np.unique(labels)
    weights = np.zeros((features.shape[1], num_classes), np.float32)
    biases = np.full(num_classes, ABSENT_CLASS_LOGIT, np.float32)
    biases[present] = 0
    if len(present) > 1:
        model = LogisticRegression(class_weight="balanced", max_iter=1000).fit((features - mean) / scale, labels)
        # With two classes scikit-learn keeps the log-odds of the second alone.
        columns = present if len(present) > 2 else present[1:]
        weights[:, columns] = model.coef_.T / scale[:, None]
        biases[columns] = model.intercept_ - (mean / scale) @ model.coef_.T
    return weights, biases
