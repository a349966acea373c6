"""Classifiers that each leave a part of the real images out, to judge every real image as a new one is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.classifiers.encoders import ClassifierEncoder, Description, Encoder
from diffaug.data.images import LabeledImages
from diffaug.runtime.threads import one_thread_each
from diffaug.synthesis.filters.scores import class_distances

NEVER = -1e4  # logit of a class without an image


class FoldModels(Protocol):
    """One classifier a fold."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that `load_fold_models` needs, on the CPU, by name."""
        ...

    def describe(self, pixels: NDArray[np.uint8]) -> list[Description]:
        """What each classifier says of uint8 (N, H, W, C)."""
        ...


@dataclass(frozen=True)
class ClassifierFolds:
    """Classifiers trained on pixels."""

    encoders: tuple[ClassifierEncoder, ...]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weights of all, each name led by the fold's number."""
        return {f"{k}.{name}": value for k, one in enumerate(self.encoders) for name, value in one.weights.items()}

    def describe(self, pixels: NDArray[np.uint8]) -> list[Description]:
        """What each classifier says of uint8 (N, H, W, C)."""
        return [encoder.describe(pixels) for encoder in self.encoders]


@dataclass(frozen=True)
class ProbeFolds:
    """Linear classifiers on the features of one given encoder.

    Attributes:
        encoder: What all share.
        weights: float32 (folds, D, K).
        biases: float32 (folds, K).
    """

    encoder: Encoder
    weights: NDArray[np.float32]
    biases: NDArray[np.float32]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Weights and biases."""
        return {"weights": torch.from_numpy(self.weights), "biases": torch.from_numpy(self.biases)}

    def describe(self, pixels: NDArray[np.uint8]) -> list[Description]:
        """What each classifier says of uint8 (N, H, W, C), which are encoded once."""
        features = self.encoder.features(pixels)
        logits = (features @ weights + bias for weights, bias in zip(self.weights, self.biases, strict=True))
        return [Description(features, torch.from_numpy(one).log_softmax(dim=1).numpy()) for one in logits]


@dataclass(frozen=True)
class Seen:
    """The real images as the models describe them that were trained with them.

    Attributes:
        features: For each fold float32 (M, D) of the images that its model was trained on.
        labels: For each fold int64 (M,).
    """

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
    updates: int | None = None,
) -> FoldModels:
    """Trains a classifier for each fold on the images outside it, as if all classes were equally frequent.

    Args:
        images: Real training images.
        folds: int64 (N,), of `assign_folds`.
        seed: Decides weights and batches.
        device: Where to train.
        encoder: Gives the features of linear classifiers; none: networks are trained on the pixels.
        updates: Length of the networks' training; none: by the number of images.
    """
    parts = [np.flatnonzero(folds != fold) for fold in range(count_folds(folds))]
    if encoder is None:

        def fit(fold: int) -> ClassifierEncoder:
            known = images.select(parts[fold])
            return ClassifierEncoder.fit(known, seed=seed, purpose=f"fold {fold}", device=device, updates=updates)

        return ClassifierFolds(tuple(_side_by_side(fit, len(parts), device)))
    features = encoder.features(images.pixels)
    probes = [_probe(features[part], images.labels[part], len(images.classes)) for part in parts]
    return ProbeFolds(encoder, np.stack([weights for weights, _ in probes]), np.stack([bias for _, bias in probes]))


def _side_by_side(fit: Callable[[int], ClassifierEncoder], folds: int, device: str) -> list[ClassifierEncoder]:
    """Trains each on one thread of the CPU, as many at once as there are threads, or one after another on a GPU.

    Weights that were trained on another number of threads differ, and with them which images a pool holds.
    """
    if device != "cpu":
        return [fit(fold) for fold in range(folds)]  # the current GPU is only that of this thread
    with one_thread_each() as threads:
        workers = ThreadPoolExecutor(threads, thread_name_prefix="diffaug-fold")
        try:
            return list(workers.map(fit, range(folds)))
        finally:
            workers.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for none


def load_fold_models(
    tensors: Mapping[str, Tensor], images: LabeledImages, folds: int, *, device: str, encoder: Encoder | None = None
) -> FoldModels:
    """Rebuilds what `fit_fold_models` made from its tensors; all else as there."""
    if encoder is not None:
        return ProbeFolds(encoder, tensors["weights"].numpy(), tensors["biases"].numpy())
    height, width, channels = images.pixels.shape[1:]
    weights: Sequence[dict[str, Tensor]] = [
        {name.removeprefix(f"{fold}."): value for name, value in tensors.items() if name.startswith(f"{fold}.")}
        for fold in range(folds)
    ]
    return ClassifierFolds(
        tuple(ClassifierEncoder.load(one, (height, width, channels), len(images.classes), device) for one in weights)
    )


def count_folds(folds: NDArray[np.int64]) -> int:
    """Number of models; one where no image can be left out."""
    return max(1, int(folds.max(initial=0)) + 1)


def _probe(
    features: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (D, K) and biases (K,) of a class-balanced logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    present = np.unique(labels)
    weights = np.zeros((features.shape[1], num_classes), np.float32)
    biases = np.full(num_classes, NEVER, np.float32)
    biases[present] = 0
    if len(present) > 1:
        model = LogisticRegression(class_weight="balanced", max_iter=1000).fit((features - mean) / scale, labels)
        # With two classes scikit-learn keeps the log-odds of the second alone.
        columns = present if len(present) > 2 else present[1:]
        weights[:, columns] = model.coef_.T / scale[:, None]
        biases[columns] = model.intercept_ - (mean / scale) @ model.coef_.T
    return weights, biases
