"""The arms of the experiment: ways to train one classifier on the real images, with and without synthetic ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.settings import ARM_NAMES


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: One of `config.ARM_NAMES`.
        draw: Whether all images or all classes are equally likely in a batch.
        balanced_softmax: Whether the log class prior is added to the logits in the training loss.
        uses_synthetic: Whether synthetic images are trained on.
    """

    name: str
    draw: Literal["images", "classes"] = "images"
    balanced_softmax: bool = False
    uses_synthetic: bool = False


ARMS = {
    arm.name: arm
    for arm in (
        Arm("real only"),
        Arm("oversampling", draw="classes"),
        Arm("balanced softmax", balanced_softmax=True),
        Arm("real + synthetic", uses_synthetic=True),
        Arm("balanced softmax + synthetic", balanced_softmax=True, uses_synthetic=True),
    )
}
assert tuple(ARMS) == ARM_NAMES


@dataclass(frozen=True)
class TrainingInputs:
    """What `fit_classifier` is given; each field is its argument of the same name."""

    images: LabeledImages
    draw_probabilities: NDArray[np.float64] | None = None
    loss_weights: NDArray[np.float64] | None = None
    log_prior: NDArray[np.float64] | None = None


def training_inputs(
    arm: Arm, train: LabeledImages, synthetic: LabeledImages, synthetic_weight: float
) -> TrainingInputs:
    """The images, draws, weights and prior of an arm.

    Args:
        arm: How to train.
        train: Real images, at least one a class.
        synthetic: Synthetic images; may be empty.
        synthetic_weight: Loss weight of a synthetic image; a real one has 1.

    Raises:
        DataError: Real and synthetic images differ in classes or shape.
    """
    if not arm.uses_synthetic:
        synthetic = synthetic.select(np.empty(0, np.int64))
    images = concatenate(train, synthetic)
    effective_counts = train.class_counts + synthetic_weight * synthetic.class_counts
    by_class = 1 / (len(images.classes) * images.class_counts[images.labels])
    return TrainingInputs(
        images,
        draw_probabilities=by_class if arm.draw == "classes" else None,
        loss_weights=np.repeat([1.0, synthetic_weight], [len(train), len(synthetic)]) if arm.uses_synthetic else None,
        log_prior=np.log(effective_counts / effective_counts.sum()) if arm.balanced_softmax else None,
    )


def concatenate(first: LabeledImages, second: LabeledImages) -> LabeledImages:
    """Both sets in one, `first` leading.

    Raises:
        DataError: They differ in classes or, both having images, in shape.
    """
    if first.classes != second.classes:
        raise DataError(f"two sets of images have different classes: {first.classes} and {second.classes}")
    if not len(second):
        return first
    shapes = first.pixels.shape[1:], second.pixels.shape[1:]
    if shapes[0] != shapes[1]:
        raise DataError(f"two sets of images have different shapes (H, W, C): {shapes[0]} and {shapes[1]}")
    return LabeledImages(
        np.concatenate([first.pixels, second.pixels]),
        np.concatenate([first.labels, second.labels]),
        first.classes,
        first.ids + second.ids,
    )
