"""One training of one classifier: what it learns from, and the interface of everything that can be trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffaug.data.images import LabeledImages
from diffaug.settings import EvaluationSettings
from diffaug.synthesis.classifier import TrainingRecipe, default_updates, fit_classifier, predict_probabilities

PURPOSE = "evaluation"


@dataclass(frozen=True)
class TrainingSet:
    """What a classifier learns from.

    Attributes:
        images: Real ones first, then synthetic ones.
        is_synthetic: (N,).
        draw_probabilities: (N,), chance of each image in a draw; none: all alike.
        loss_weights: (N,); none: 1.
        log_prior: (K,), added to the logits in the training loss only.
        soft_labels: (N, K), instead of the labels.
        strong_augmentation: Whether images are augmented strongly.
    """

    images: LabeledImages
    is_synthetic: NDArray[np.bool_]
    draw_probabilities: NDArray[np.float64] | None = None
    loss_weights: NDArray[np.float64] | None = None
    log_prior: NDArray[np.float64] | None = None
    soft_labels: NDArray[np.float32] | None = None
    strong_augmentation: bool = False


class Classifier(Protocol):
    """Something that can be trained from scratch on a `TrainingSet`."""

    @property
    def name(self) -> str:
        """Part of a trial's identity."""
        ...

    def fit_predict(
        self, training: TrainingSet, pixels: NDArray[np.uint8], *, recipe: TrainingRecipe, seed: int, device: str
    ) -> NDArray[np.float32]:
        """Class probabilities (N, K) of `pixels` (N, H, W, C) by a classifier trained from scratch."""
        ...


@dataclass(frozen=True)
class NetworkClassifier:
    """The small CNN."""

    name: str = "small-cnn"

    def fit_predict(
        self, training: TrainingSet, pixels: NDArray[np.uint8], *, recipe: TrainingRecipe, seed: int, device: str
    ) -> NDArray[np.float32]:
        """Class probabilities (N, K) of `pixels` (N, H, W, C) by a network trained from scratch."""
        model = fit_classifier(
            training.images,
            recipe=recipe,
            seed=seed,
            purpose=PURPOSE,
            draw_probabilities=training.draw_probabilities,
            loss_weights=training.loss_weights,
            log_prior=training.log_prior,
            device=device,
        )
        return predict_probabilities(model, pixels, device)


def classifier_of(settings: EvaluationSettings) -> Classifier:
    """The classifier that the settings ask for."""
    return NetworkClassifier()


def recipe_of(settings: EvaluationSettings, num_train_images: int) -> TrainingRecipe:
    """How every arm is trained, given the number of real training images."""
    return TrainingRecipe(
        updates=settings.updates or default_updates(num_train_images),
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
    )
