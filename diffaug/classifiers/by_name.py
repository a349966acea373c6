"""The classifier and the training recipe that the settings name."""

from pathlib import Path

from diffaug.classifiers.encoders import Encoder
from diffaug.classifiers.fit import NetworkClassifier
from diffaug.classifiers.library import backbone_by_name
from diffaug.classifiers.training_set import Classifier, TrainingRecipe, default_updates
from diffaug.configuration.settings import EvaluationSettings
from diffaug.errors import UsageError
from diffaug.files import storage


def classifier_by_name(settings: EvaluationSettings, encoder: Encoder | None = None) -> Classifier:
    """The classifier that the settings name; `features` needs an encoder, trained on real training images only.

    A UsageError if it is unknown or its file is missing, a MissingExtraError if it needs timm, which is not installed.
    """
    if settings.classifier != "features":
        checkpoint = None if settings.checkpoint is None else Path(settings.checkpoint)
        backbone = backbone_by_name(settings.classifier, checkpoint)
        suffix = "" if checkpoint is None else f" {storage.sha256_file(checkpoint)[:12]}"
        return NetworkClassifier(backbone, settings.classifier + suffix)
    if encoder is None:
        raise UsageError("the classifier 'features' needs an encoder", where="evaluation.classifier")
    if settings.checkpoint is not None:
        raise UsageError(
            "logistic regression on features has no initial weights",
            where="evaluation.checkpoint",
            fix="remove evaluation.checkpoint, or choose a network in evaluation.classifier",
        )
    from diffaug.classifiers.features import FeatureClassifier

    return FeatureClassifier(encoder)


def recipe_from_settings(settings: EvaluationSettings, num_train_images: int) -> TrainingRecipe:
    """The recipe of every arm, given the number of real training images."""
    return TrainingRecipe(
        updates=settings.max_steps or default_updates(num_train_images),
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        optimizer=settings.optimizer,
        horizontal_flip=settings.horizontal_flip,
    )
