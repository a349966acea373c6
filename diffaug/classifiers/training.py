"""One training of one classifier: what it learns from, how it ends, and what it then says of other images.

A training on real and synthetic images can end on real ones alone, since synthetic images shift the statistics of
features. Whatever the end, real images are then drawn so that each class weighs what it weighed before: the end
changes where images come from, and not the class prior that the arm is about.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from diffaug.classifiers.batches import Batches, cumulative_chances, network_input
from diffaug.classifiers.encoders import Encoder
from diffaug.classifiers.fit import (
    Augmentation,
    Backbone,
    TrainingRecipe,
    default_updates,
    new_classifier,
    optimize,
    predict_probabilities,
)
from diffaug.classifiers.library import backbone_of
from diffaug.classifiers.weights import last_layer
from diffaug.configuration.settings import EvaluationSettings
from diffaug.data.images import LabeledImages
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.runtime.devices import computes_in_bfloat16, use_fast_kernels
from diffaug.runtime.seeding import numpy_generator, torch_global_seed

PURPOSE = "evaluation"
LAST_LAYER_SHARE = 0.1
BATCH_NORM_BATCHES = 50


@dataclass(frozen=True)
class TrainingSet:
    """What a classifier learns from.

    Attributes:
        images: N images of K classes, real ones first, then synthetic ones.
        is_synthetic: (N,).
        draw_probabilities: (N,), chance of each image in a draw; none: all alike.
        loss_weights: (N,), weight of each image in the loss; none: 1.
        log_prior: (K,), added to the logits in the training loss only.
        strong_augmentation: Whether TrivialAugment and MixUp or CutMix follow the shifts.
    """

    images: LabeledImages
    is_synthetic: NDArray[np.bool_]
    draw_probabilities: NDArray[np.float64] | None = None
    loss_weights: NDArray[np.float64] | None = None
    log_prior: NDArray[np.float64] | None = None
    strong_augmentation: bool = False

    @property
    def label_shares(self) -> NDArray[np.float32]:
        """Class probabilities (N, K) of the images: 1 for the label."""
        return np.eye(len(self.images.classes), dtype=np.float32)[self.images.labels]

    @property
    def chances(self) -> NDArray[np.float64]:
        """Chance of each image in a draw (N,), not normalised."""
        return np.ones(len(self.images)) if self.draw_probabilities is None else self.draw_probabilities

    @property
    def importances(self) -> NDArray[np.float64]:
        """Chance in a draw times loss weight of each image (N,), on average 1: what it counts in the expected loss."""
        importances = self.chances if self.loss_weights is None else self.chances * self.loss_weights
        return np.asarray(importances / importances.mean(), np.float64)

    def draw(self, count: int, seed: int) -> NDArray[np.int64]:
        """Positions of images, int64 (count,), drawn as a network's batches would be, for a training of your own."""
        cumulative = cumulative_chances(self.chances, len(self.images))
        draws = numpy_generator(seed, "draw").random(count)
        return np.searchsorted(cumulative, draws, side="right").astype(np.int64)


def identity_of(function: Callable[..., Any]) -> str:
    """Names a user's function with a hash of its text, so that a changed function is not taken for the same.

    What is bound by `functools.partial` counts; what the function's text calls or captures does not. A function whose
    text is not kept, as one typed into an interpreter, is named by its compiled code, which differs between Pythons.
    """
    if isinstance(function, partial):
        bound = repr((function.args, sorted(function.keywords.items())))
        return f"{identity_of(function.func)} {storage.sha256_bytes(bound.encode())[:8]}"
    text = function if hasattr(function, "__qualname__") else type(function)
    try:
        return f"{text.__qualname__} {storage.sha256_bytes(inspect.getsource(text).encode())[:12]}"
    except (TypeError, OSError):
        code = getattr(text, "__code__", getattr(getattr(function, "__call__", None), "__code__", None))  # noqa: B004
        return f"{text.__qualname__} {_hash_of_code(code)}" if code else text.__qualname__


def _hash_of_code(code: CodeType) -> str:
    inner = [
        _hash_of_code(part)
        if isinstance(part, CodeType)
        else repr(sorted(map(repr, part)))
        if isinstance(part, frozenset)  # which has another order in each process
        else repr(part)
        for part in code.co_consts
    ]
    return storage.sha256_bytes(repr((code.co_code, inner, code.co_names)).encode())[:12]


class Classifier(Protocol):
    """Something that can be trained and asked."""

    @property
    def name(self) -> str:
        """What it is and what it begins with; part of a trial's identity."""
        ...

    def fit_predict(
        self, training: TrainingSet, pixels: NDArray[np.uint8], *, recipe: TrainingRecipe, seed: int, device: str
    ) -> NDArray[np.float32]:
        """Class probabilities (N, K) of `pixels` (N, H, W, C) by a classifier trained from scratch."""
        ...


def classifier_of(settings: EvaluationSettings, encoder: Encoder | None = None) -> Classifier:
    """The classifier that the settings name.

    Args:
        settings: Name and weights.
        encoder: Frozen features for the classifier `features`, of real training images only.

    Raises:
        UsageError: There is no such classifier or file, or features are asked for without an encoder or with what
            only a network has.
        MissingExtraError: It is one of timm's, which is not installed.
    """
    if settings.classifier == "features":
        if encoder is None:
            raise UsageError("the classifier features needs an encoder", where="evaluation.classifier")
        if settings.checkpoint is not None or settings.finish != "none":
            raise UsageError(
                "logistic regression on features has no weights to begin with and no finish",
                where="evaluation.classifier",
                fix="leave out evaluation.checkpoint and evaluation.finish, or name a network",
            )
        from diffaug.classifiers.features import FeatureClassifier

        return FeatureClassifier(encoder)
    weights = None if settings.checkpoint is None else Path(settings.checkpoint)
    backbone = backbone_of(settings.classifier, weights)
    name = settings.classifier if weights is None else f"{settings.classifier} {storage.sha256_file(weights)[:12]}"
    return NetworkClassifier(backbone, name)


def recipe_of(settings: EvaluationSettings, num_train_images: int) -> TrainingRecipe:
    """How every arm is trained, given the number of real training images."""
    return TrainingRecipe(
        updates=settings.max_steps or default_updates(num_train_images),
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        optimizer=settings.optimizer,
        horizontal_flip=settings.horizontal_flip,
        finish=settings.finish,
    )


@dataclass(frozen=True)
class NetworkClassifier:
    """A network that is trained from its first weights.

    Attributes:
        backbone: Makes it.
        name: What to call it; must differ between backbones that differ.
    """

    backbone: Backbone
    name: str

    @classmethod
    def of_factory(cls, factory: Backbone) -> NetworkClassifier:
        """A network of the user's own; see `identity_of` for its name."""
        return cls(factory, identity_of(factory))

    def fit_predict(
        self, training: TrainingSet, pixels: NDArray[np.uint8], *, recipe: TrainingRecipe, seed: int, device: str
    ) -> NDArray[np.float32]:
        """Class probabilities (N, K) of `pixels` (N, H, W, C) by a network trained from scratch."""
        model = fit_network(training, backbone=self.backbone, recipe=recipe, seed=seed, device=device)
        return predict_probabilities(model, pixels, device)


def fit_network(
    training: TrainingSet, *, backbone: Backbone, recipe: TrainingRecipe, seed: int, device: str
) -> nn.Module:
    """Trains a network; initial weights, shifts and random numbers of the draws depend on the seed alone.

    Args:
        training: What to learn from.
        backbone: Makes the network.
        recipe: Length, optimiser and end.
        seed: Where the randomness begins.
        device: Where to train: in bfloat16 where `computes_in_bfloat16`, else in float32.

    Returns:
        The network in evaluation mode, on `device`.

    Raises:
        DataError: There is no image.
        UsageError: Weights to begin with don't fit, or the last layer is to be trained and there is none.
    """
    use_fast_kernels(device)
    batches = _batches(training, recipe, seed, device)
    model = new_classifier(training.images, backbone=backbone, seed=seed, device=device).train()
    is_mixed = bool(training.is_synthetic.any() and not training.is_synthetic.all())
    finish = recipe.finish if is_mixed else "none"
    before_last = recipe.updates - (round(LAST_LAYER_SHARE * recipe.updates) if finish == "last layer" else 0)
    learn = partial(
        optimize,
        model,
        recipe=recipe,
        log_prior=training.log_prior,
        augmentation=_strong_augmentation() if training.strong_augmentation else None,
        mixed_precision=computes_in_bfloat16(device),
    )
    with torch_global_seed(seed, "classifier dropout"):
        learn(model.parameters(), batches, steps=range(before_last))
        if finish != "none":
            batches = replace(batches, cumulative=cumulative_chances(real_draw(training), len(training.images)))
        if finish == "last layer":
            with last_layer_only(model) as head:
                learn(head, batches, steps=range(before_last, recipe.updates))
        elif finish == "batch norm":
            estimate_batch_norm(model, batches, range(recipe.updates, recipe.updates + BATCH_NORM_BATCHES))
    return model.eval()


def real_draw(training: TrainingSet) -> NDArray[np.float64]:
    """Chance of each image in a draw of real images in which each class weighs what it weighs in the whole draw.

    Args:
        training: Real and synthetic images. A class without real images is not drawn.

    Returns:
        (N,), not normalised.
    """
    labels, real = training.images.labels, ~training.is_synthetic
    mass, classes = training.importances, len(training.images.classes)
    whole, of_real = (np.bincount(labels, part, minlength=classes) for part in (mass, mass * real))
    ratio = np.divide(whole, of_real, out=np.zeros_like(whole), where=of_real > 0)
    return np.asarray(training.chances * real * ratio[labels], np.float64)


@contextmanager
def last_layer_only(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Inside the block only the last layer, whose parameters it yields, can learn; the trunk is as in prediction."""
    head = list(last_layer(model).parameters())
    model.eval().requires_grad_(False)
    for parameter in head:
        parameter.requires_grad_(True)
    yield head
    model.requires_grad_(True)


def estimate_batch_norm(model: nn.Module, batches: Batches, steps: range) -> None:
    """Replaces the running statistics of batch normalisation by their averages over batches (Wu and Johnson 2021).

    arXiv 2105.07576, section 3: moving averages lag behind the weights and mix domains; averages do neither.

    Args:
        model: Changed in place; a model without batch normalisation stays as it is.
        batches: Whose statistics to take.
        steps: Numbers of the batches.
    """
    layers = [layer for layer in model.eval().modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the average of all batches
        layer.train()
    with torch.no_grad():
        for step in steps if layers else ():
            model(network_input(batches.draw(step)[0]))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def _strong_augmentation() -> Augmentation:
    """Imports torchvision's transforms, which takes seconds, in the processes that need them."""
    from diffaug.classifiers.augmentation import strong_augmentation

    return strong_augmentation


def _batches(training: TrainingSet, recipe: TrainingRecipe, seed: int, device: str) -> Batches:
    return Batches.of(
        training.images,
        size=recipe.batch_size,
        seed=seed,
        purpose=PURPOSE,
        draw_probabilities=training.draw_probabilities,
        loss_weights=training.loss_weights,
        soft_labels=training.label_shares if training.strong_augmentation else None,
        horizontal_flip=recipe.horizontal_flip,
        device=device,
    )
