"""The ways to learn: each trains on a training set and answers for other examples."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.encoders.module import ModuleEncoder
from diffaug.classifiers.training_set import Classifier, TrainingRecipe, TrainingSet
from diffaug.evaluation.experiment.training_sets import Examples

TrainFunction = Callable[[TrainingSet, NDArray[np.uint8], int], Any]
"""The user's own training: (training set, test pixels uint8 (N, H, W, C), seed) to labels (N,) or probabilities.

Labels are class names or positions in the training set's `images.classes`."""


def train_network(
    training: TrainingSet, others: Examples, *, seed: int, classifier: Classifier, recipe: TrainingRecipe, device: str
) -> Any:
    """Trains a classifier; class probabilities of the others (N, K)."""
    return classifier.fit_predict(training, _pixels(others), recipe=recipe, seed=seed, device=device)


def train_regression(training: TrainingSet, others: Examples, *, seed: int, regularization: float) -> Any:
    """Fits a logistic regression on features; class probabilities of the others (N, K). The seed has no effect."""
    if training.features is None or others.features is None:
        raise ValueError("a regression on features needs features")
    from diffaug.classifiers.feature_regression import FeatureRegression  # scikit-learn takes a second to import

    worth = training.worth or len(training.images)
    targets = training.soft_labels * (worth / len(training.images) * training.importances)[:, None]
    regression = FeatureRegression(regularization)  # not class-weighted: importances hold the weights of classes
    return regression.fit_predict(training.features, targets, training.log_prior, others.features)


def fine_tune(
    training: TrainingSet, others: Examples, *, seed: int, encoder: ModuleEncoder, updates: int, device: str
) -> Any:
    """Trains a pretrained encoder further; class probabilities of the others (N, K)."""
    from diffaug.classifiers.encoders.fine_tuning import fine_tune_predict

    pictures = _pixels(others) if others.pictures is None else others.pictures
    return fine_tune_predict(
        training,
        pictures,
        encoder=encoder,
        updates=updates,
        seed=seed,
        device=device,
        images=training.pictures,
    )


def call_train_function(training: TrainingSet, others: Examples, *, seed: int, train_fn: TrainFunction) -> Any:
    """Calls the user's own training."""
    return train_fn(training, _pixels(others), seed)


def _pixels(examples: Examples) -> NDArray[np.uint8]:
    return np.asarray(examples.images.pixels)
