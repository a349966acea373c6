"""The training set of an arm: which images, in which draws, with which loss.

A batch holds a fixed fraction of synthetic images, whatever their number. Controls copy this fraction from the mix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.classifiers.training_set import Images, TrainingSet
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.evaluation.experiment.arms import Arm, resolve_arm
from diffaug.evaluation.experiment.choice import Mix

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Examples:
    """Labeled images, and, where they are needed, what an encoder makes of them and the same images in more detail."""

    images: LabeledImages
    features: NDArray[np.float32] | None = None  # float32 (N, D)
    pictures: Images | None = None  # N images uint8 (h, w, C) of any size

    def __len__(self) -> int:
        return len(self.images)

    def select(self, positions: NDArray[np.int64]) -> Examples:
        """The examples at `positions`, in that order."""
        features = None if self.features is None else self.features[positions]
        pictures = None if self.pictures is None else [self.pictures[position] for position in positions.tolist()]
        return Examples(self.images.select(positions), features, pictures)

    def joined(self, other: Examples) -> Examples:
        """These examples and then the others, of the same classes and shape."""
        features, pictures = None, None
        if self.features is not None and other.features is not None:
            features = np.concatenate([self.features, other.features])
        if self.pictures is not None and other.pictures is not None:
            pictures = [*self.pictures, *other.pictures]
        return Examples(concatenate(self.images, other.images), features, pictures)


@dataclass(frozen=True)
class PseudoLabeled:
    """Images with labels that a classifier gave them, and how far each is trusted, float64 (N,) in (0, 1]."""

    examples: Examples
    weights: Floats


def training_set(
    arm: Arm,
    train: Examples,
    synthetic: Examples,
    mix: Mix,
    *,
    base: Arm | None = None,
    pseudo: PseudoLabeled | None = None,
) -> TrainingSet:
    """The training data of an arm: real images, at least one per class, and synthetic ones, which may lack classes."""
    allowed = synthetic.select(allowed_positions(train.images, synthetic.images, mix))
    arm = resolve_arm(arm, mix.fraction if len(allowed) else 0.0, base)
    if not arm.real:
        if not len(allowed):
            raise DataError(
                "there is no synthetic image to train on",
                where="synthetic only",
                fix="remove this arm, or generate images: diffaug generate",
            )
        is_synthetic = np.ones(len(allowed), np.bool_)
        return TrainingSet(allowed.images, is_synthetic, features=allowed.features, pictures=allowed.pictures)
    real, weights = _with_pseudo_labels(train, pseudo if arm.pseudo_labeling else None)
    examples = real.joined(allowed) if arm.uses_synthetic else real
    images, is_synthetic = examples.images, np.arange(len(examples)) >= len(real)
    extra = _extra_draws(arm, images, is_synthetic, allowed.images, mix.fraction)
    draws = _plain_draws(arm, images, np.append(weights, np.zeros(is_synthetic.sum())), extra) + extra
    loss = draws + (mix.loss_weight - 1) * extra  # weight of each image in the expected loss
    is_plain = arm.draw == "images" and not extra.any() and len(real) == len(train)
    return TrainingSet(
        images,
        is_synthetic,
        draw_probabilities=None if is_plain else draws,
        loss_weights=loss / draws if mix.loss_weight != 1 and extra.any() else None,
        log_prior=_log_prior(arm, images, loss, allowed.images, mix),
        augmentation=arm.augmentation,
        features=examples.features,
        pictures=examples.pictures,
        worth=float(weights.sum() / (1 - draws[is_synthetic].sum()) * loss.sum()),
    )


def allowed_positions(train: LabeledImages, synthetic: LabeledImages, mix: Mix) -> NDArray[np.int64]:
    """Positions of the synthetic images that the mix uses: the first ones of each class."""
    limit = np.full(len(synthetic.classes), np.inf)
    if mix.max_per_real is not None:
        limit = np.floor(mix.max_per_real * train.class_counts)
    limit[[synthetic.classes.index(name) for name in mix.excluded_classes]] = 0
    usable = np.ones(len(synthetic), np.bool_)
    if mix.excluded_origins and synthetic.origins is not None:
        usable = ~np.isin(synthetic.origins, mix.excluded_origins)
    positions = np.flatnonzero(usable)
    labels = synthetic.labels[positions]
    rank = pd.Series(labels).groupby(labels).cumcount().to_numpy()
    return positions[rank < limit[labels]]


def require_same_form(first: LabeledImages, second: LabeledImages) -> None:
    """Raises DataError if two sets differ in classes or, unless the second is empty, in shape."""
    if first.classes != second.classes:
        raise DataError(f"two sets of images have different classes: {first.classes} and {second.classes}")
    shapes = first.pixels.shape[1:], second.pixels.shape[1:]
    if len(second) and shapes[0] != shapes[1]:
        raise DataError(f"two sets of images have different shapes (H, W, C): {shapes[0]} and {shapes[1]}")


def concatenate(first: LabeledImages, second: LabeledImages) -> LabeledImages:
    """Both sets in one, `first` leading; they have the same classes and shape."""
    return LabeledImages(
        np.concatenate([first.pixels, second.pixels]),
        np.concatenate([first.labels, second.labels]),
        first.classes,
        first.ids + second.ids,
    )


def _with_pseudo_labels(train: Examples, pseudo: PseudoLabeled | None) -> tuple[Examples, Floats]:
    """The real examples and the weight of each in a draw; those with pseudo-labels weigh at most as much as the rest.

    Otherwise the errors of the labels would outweigh what is known where there are far more unlabeled images.
    """
    if pseudo is None or not len(pseudo.examples):
        return train, np.ones(len(train))
    scale = min(1.0, len(train) / pseudo.weights.sum())
    return train.joined(pseudo.examples), np.append(np.ones(len(train)), scale * pseudo.weights)


def _plain_draws(arm: Arm, images: LabeledImages, weights: Floats, extra: Floats) -> Floats:
    """Probability of each image in the draws that are not extra, in proportion to the weights.

    Where classes are drawn equally often, the extra draws of a class replace draws of its real images.
    """
    if arm.draw == "images":
        return np.asarray((1 - extra.sum()) * weights / weights.sum())
    num_classes = len(images.classes)
    by_class = np.bincount(images.labels, weights, num_classes)
    of_class = 1 / np.count_nonzero(by_class) - np.bincount(images.labels, extra, num_classes)
    return np.asarray((of_class / by_class)[images.labels] * weights)


def _extra_draws(
    arm: Arm, images: LabeledImages, is_synthetic: NDArray[np.bool_], allowed: LabeledImages, fraction: float
) -> Floats:
    """Probability of each image in the draws of synthetic images, or in those that a control puts in their place."""
    if arm.uses_synthetic and arm.draw == "classes":
        of_class = fraction / (len(allowed.classes) * np.maximum(allowed.class_counts, 1))
        return np.where(is_synthetic, of_class[images.labels], 0.0)
    if arm.uses_synthetic:
        return np.where(is_synthetic, fraction / len(allowed), 0.0)
    if arm.control == "replay":
        return np.asarray(fraction * (_class_fractions(allowed) / images.class_counts)[images.labels])
    return np.zeros(len(images))


def _log_prior(arm: Arm, images: LabeledImages, loss: Floats, allowed: LabeledImages, mix: Mix) -> Floats | None:
    """What is added to the logits in training.

    With log p added, the logits alone become those of a uniform prior (Ren et al. 2020, eq. 4). With log p - log q
    added they become those of the prior q, where p is the prior of the draws.
    """
    if arm.balanced_softmax:
        return np.asarray(np.log(np.bincount(images.labels, loss, len(images.classes)) / loss.sum()))
    if arm.control == "prior":
        real = _class_fractions(images)
        mixed = (1 - mix.fraction) * real + mix.fraction * mix.loss_weight * _class_fractions(allowed)
        return np.asarray(np.log(real) - np.log(mixed / mixed.sum()))
    return None


def _class_fractions(images: LabeledImages) -> Floats:
    return np.asarray(images.class_counts / len(images))
