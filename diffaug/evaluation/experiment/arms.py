"""How each arm trains: which images, in which draws, with which loss.

A batch holds a fixed fraction of synthetic images, whatever their number. Controls copy this fraction from the mix.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.classifiers.training_set import TrainingSet
from diffaug.configuration.arms import ARM_ROLES, Role
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.evaluation.experiment.mix import SyntheticMix

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        draw: Whether all real images or all classes are equally likely in a draw.
        balanced_softmax: Whether the log class prior is added to the logits in the training loss.
        control: What it copies from "real + synthetic" without its images: the classes of the extra draws, taken from
            real images ("replay"), or the class prior alone ("prior").
        on_best: Whether draw, loss and augmentation are those of the baseline that was chosen in cross-validation.
    """

    name: str
    draw: Literal["images", "classes"] = "images"
    strong_augmentation: bool = False
    balanced_softmax: bool = False
    control: Literal["none", "replay", "prior"] = "none"
    synthetic: Literal["none", "filtered", "unfiltered"] = "none"
    real: bool = True
    on_best: bool = False

    @property
    def role(self) -> Role:
        """Baseline, candidate or ablation."""
        return ARM_ROLES[self.name]

    @property
    def uses_synthetic(self) -> bool:
        """Whether synthetic images are trained on."""
        return self.synthetic != "none"

    @property
    def depends_on_mix(self) -> bool:
        """Whether its training depends on the synthetic images, even if only on their classes."""
        return self.uses_synthetic or self.control != "none"


ARMS = {
    arm.name: arm
    for arm in (
        Arm("real only"),
        Arm("strong augmentation", strong_augmentation=True),
        Arm("oversampling", draw="classes"),
        Arm("replay", control="replay"),
        Arm("prior", control="prior"),
        Arm("balanced softmax", balanced_softmax=True),
        Arm("real + unfiltered synthetic", synthetic="unfiltered"),
        Arm("real + synthetic", synthetic="filtered"),
        Arm("best real + synthetic", synthetic="filtered", on_best=True),
        Arm("synthetic only", synthetic="filtered", real=False),
    )
}


def resolve_arm(arm: Arm, fraction: float, base: Arm | None = None) -> Arm:
    """The arm as it is trained: on its base, and without synthetic images and controls at a fraction of zero."""
    if arm.on_best:
        if base is None:
            raise ValueError(f"'{arm.name}' needs a baseline to build on")
        arm = replace(base, name=arm.name, synthetic=arm.synthetic)
    return replace(arm, synthetic="none", control="none") if arm.real and not fraction else arm


def training_set(
    arm: Arm, train: LabeledImages, synthetic: LabeledImages, mix: SyntheticMix, base: Arm | None = None
) -> TrainingSet:
    """The training data of an arm: real images, at least one per class, and synthetic ones, which may lack classes."""
    allowed = synthetic.select(allowed_positions(train, synthetic, mix))
    arm = resolve_arm(arm, mix.fraction if len(allowed) else 0.0, base)
    if not arm.real:
        if not len(allowed):
            raise DataError(
                "there is no synthetic image to train on",
                where="synthetic only",
                fix="remove this arm, or generate images: diffaug generate",
            )
        return TrainingSet(allowed, np.ones(len(allowed), np.bool_))
    images = concatenate(train, allowed) if arm.uses_synthetic else train
    is_synthetic = np.arange(len(images)) >= len(train)
    extra = _extra_draws(arm, images, is_synthetic, allowed, mix.fraction)
    draws = np.where(is_synthetic, 0.0, _plain_draws(arm, train, images, extra)) + extra
    loss = draws + (mix.loss_weight - 1) * extra  # weight of each image in the expected loss
    return TrainingSet(
        images,
        is_synthetic,
        draw_probabilities=draws if arm.draw == "classes" or extra.any() else None,
        loss_weights=loss / draws if mix.loss_weight != 1 and extra.any() else None,
        log_prior=_log_prior(arm, images, loss, allowed, mix),
        strong_augmentation=arm.strong_augmentation,
    )


def allowed_positions(train: LabeledImages, synthetic: LabeledImages, mix: SyntheticMix) -> NDArray[np.int64]:
    """Positions of the synthetic images that the mix uses: the first ones of each class."""
    limit = np.full(len(synthetic.classes), np.inf)
    if mix.max_per_real is not None:
        limit = np.floor(mix.max_per_real * train.class_counts)
    limit[[synthetic.classes.index(name) for name in mix.excluded_classes]] = 0
    rank = pd.Series(synthetic.labels).groupby(synthetic.labels).cumcount().to_numpy()
    return np.flatnonzero(rank < limit[synthetic.labels])


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


def _plain_draws(arm: Arm, train: LabeledImages, images: LabeledImages, extra: Floats) -> Floats:
    """Probability of each image in the draws that are not extra; meaningless for synthetic images.

    Where classes are drawn equally often, the extra draws of a class replace draws of its real images.
    """
    if arm.draw == "images":
        return np.full(len(images), (1 - extra.sum()) / len(train))
    counts = train.class_counts
    of_class = 1 / np.count_nonzero(counts) - np.bincount(images.labels, extra, len(counts))
    return np.asarray((of_class / counts)[images.labels])


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


def _log_prior(
    arm: Arm, images: LabeledImages, loss: Floats, allowed: LabeledImages, mix: SyntheticMix
) -> Floats | None:
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
