"""Classifiers that each leave out a fold of the real images, so that every real image is scored like a new one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from threading import Lock

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.classifiers.encoders.encoder import Encoder
from diffaug.classifiers.encoders.trained import ClassifierEncoder, ClassifierOutput
from diffaug.classifiers.training_set import default_updates
from diffaug.data.images import LabeledImages
from diffaug.runtime.parallel import Progress, backend_is_registered, one_thread_each, run_unordered
from diffaug.synthesis.filters.scores import class_distances

ABSENT_CLASS_LOGIT = -1e4


def nothing(done: int, total: int) -> None:
    """Takes no notice of progress."""


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
Measure = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class ReferenceFeatures:
    """Features (M, D) and labels (M,) of the images that each fold's model was trained on."""

    features: tuple[NDArray[np.float32], ...]
    labels: tuple[NDArray[np.int64], ...]

    def distances(
        self, fold: int, features: NDArray[np.float32], class_index: int, measure: Measure = class_distances
    ) -> NDArray[np.float32]:
        """What is measured from features (N, D) of the fold's model to a class; 0 for a class without images."""
        references = self.features[fold][self.labels[fold] == class_index]
        return measure(features, references) if len(references) else np.zeros(len(features), np.float32)


def fit_fold_models(
    images: LabeledImages,
    folds: NDArray[np.int64],
    *,
    seed: int,
    device: str,
    encoder: Encoder | None = None,
    max_steps: int | None = None,
    progress: Progress = nothing,
) -> FoldModels:
    """Trains a class-balanced classifier for each fold on the images outside it.

    Without an encoder networks are trained on the pixels, by default for a number of steps that the number of images
    decides. With one, linear classifiers are trained on its features. `progress` gets the steps of all networks.
    """
    num_folds = folds.max(initial=0) + 1  # one if no image can be left out
    parts = [np.flatnonzero(folds != fold) for fold in range(num_folds)]
    if encoder is None:
        return ClassifierFolds(
            tuple(_fit_networks(images, parts, seed, device, max_steps=max_steps, progress=progress))
        )
    features = encoder.features(images.pixels)
    probes = [_probe(features[part], images.labels[part], len(images.classes)) for part in parts]
    return ProbeFolds(encoder, np.stack([weights for weights, _ in probes]), np.stack([bias for _, bias in probes]))


def _fit_networks(
    images: LabeledImages,
    parts: list[NDArray[np.int64]],
    seed: int,
    device: str,
    *,
    max_steps: int | None,
    progress: Progress,
) -> list[ClassifierEncoder]:
    """Trains one network per part, through joblib.

    On a CPU each training uses one thread, since weights depend on the number of threads in their last bits, and with
    them the images that a pool holds. Without a registered backend the trainings share this process: starting others
    would take longer than most of these trainings. A GPU trains one network after another.
    """
    steps = [max_steps or default_updates(len(part)) for part in parts]
    tasks = {
        fold: partial(_fit_network, images, part, seed=seed, purpose=f"fold {fold}", device=device, updates=updates)
        for fold, (part, updates) in enumerate(zip(parts, steps, strict=True))
    }
    if device == "cpu" and backend_is_registered():
        trained = {}
        for fold, network in run_unordered(tasks):
            trained[fold] = network
            progress(len(trained), len(tasks))
        return [trained[fold] for fold in tasks]
    done, in_turn = count(1), Lock()

    def report() -> None:
        with in_turn:
            progress(next(done), sum(steps))

    with one_thread_each() as threads:
        side_by_side = joblib.Parallel(n_jobs=threads if device == "cpu" else 1, prefer="threads")
        return list(side_by_side(joblib.delayed(task)(after_step=report) for task in tasks.values()))


def _fit_network(
    images: LabeledImages,
    part: NDArray[np.int64],
    *,
    seed: int,
    purpose: str,
    device: str,
    updates: int,
    after_step: Callable[[], None] = lambda: None,
) -> ClassifierEncoder:
    with one_thread_each():
        return ClassifierEncoder.fit(
            images.select(part), seed=seed, purpose=purpose, device=device, updates=updates, after_step=after_step
        )


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
