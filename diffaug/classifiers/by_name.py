"""The classifier and the training recipe that the settings name."""

from pathlib import Path

from diffaug.classifiers.fit import NetworkClassifier
from diffaug.classifiers.library import backbone_by_name
from diffaug.classifiers.training_set import TrainingRecipe, default_updates
from diffaug.configuration.evaluation import EvaluationSettings
from diffaug.files import storage

QUICK_UPDATES = 200
BATCH_SIZE = {"adamw": 64, "sgd": 128}


def classifier_by_name(settings: EvaluationSettings) -> NetworkClassifier:
    """The network that the settings name.

    A UsageError if it is unknown or its file is missing, a MissingExtraError if it needs timm, which is not installed.
    """
    checkpoint = None if settings.checkpoint is None else Path(settings.checkpoint)
    backbone = backbone_by_name(settings.classifier, checkpoint)
    suffix = "" if checkpoint is None else f" {storage.sha256_file(checkpoint)[:12]}"
    return NetworkClassifier(backbone, settings.classifier + suffix)


def recipe_from_settings(settings: EvaluationSettings, num_train_images: int) -> TrainingRecipe:
    """The recipe of every arm, given the number of real training images."""
    default = default_updates(num_train_images)
    return TrainingRecipe(
        updates=settings.max_steps or (min(default, QUICK_UPDATES) if settings.quick else default),
        batch_size=BATCH_SIZE[settings.optimizer],
        optimizer=settings.optimizer,
        horizontal_flip=settings.horizontal_flip,
    )
