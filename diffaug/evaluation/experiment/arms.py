"""The arms of the experiment: ways to train one classifier on the real images, with and without synthetic ones.

A batch holds a fixed share of synthetic images, whatever their number: the dose decides it. Arms that are to be
compared with one that uses synthetic images take their numbers from the same dose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.training import TrainingSet
from diffaug.configuration.settings import ARM_NAMES, ARM_ROLES
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError

Floats = NDArray[np.float64]
Role = Literal["real", "claim", "diagnosis"]
NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True, order=True)
class Dose:
    """How much of a pool a training uses.

    Attributes:
        share: Of each batch that is synthetic, 0 to 1; where classes are drawn equally often, of the draws of each
            class that has synthetic images.
        weight: Loss weight of a synthetic image; a real one has 1.
        max_ratio: Synthetic images used of a class, at most, for each real one of it.
        without: Names of the classes that get no synthetic images.
    """

    share: float
    weight: float = 1.0
    max_ratio: float = math.inf
    without: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: `max_ratio` is None where there is no limit."""
        return asdict(self) | {"max_ratio": _finite(self.max_ratio), "without": list(self.without)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        ratio = content["max_ratio"]
        return cls(
            **{**content, "max_ratio": math.inf if ratio is None else ratio, "without": tuple(content["without"])}
        )


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: One of `settings.ARM_NAMES`.
        draw: Whether all real images or all classes are equally likely in a draw.
        strong_augmentation: Whether images are augmented strongly.
        balanced_softmax: Whether the log class prior is added to the logits in the training loss.
        control: What it copies from "real + synthetic" without its images: the classes of the extra draws from real
            images ("replay"), or the class prior alone ("prior").
        synthetic: Which synthetic images it uses.
        real: Whether it uses real images.
        on_best: Whether draw, loss and augmentation are those of the real arm that was chosen on validation.
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
        """`real`: a baseline; `claim`: what the verdict is about; `diagnosis`: only shown."""
        return ARM_ROLES[self.name]

    @property
    def uses_synthetic(self) -> bool:
        """Whether synthetic images are trained on."""
        return self.synthetic != "none"

    @property
    def follows_dose(self) -> bool:
        """Whether its training depends on the synthetic images, be it only on their classes."""
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
assert tuple(ARMS) == ARM_NAMES


def resolved(arm: Arm, share: float, base: Arm | None = None) -> Arm:
    """The arm as it is really trained: on its base, and at a share of zero without synthetic images or their control.

    Args:
        arm: Any arm.
        share: Synthetic share of a batch.
        base: The real arm that was chosen on validation; only for an arm `on_best`.
    """
    if arm.on_best:
        if base is None:
            raise ValueError(f"'{arm.name}' needs the real arm that it builds on")
        arm = replace(base, name=arm.name, synthetic=arm.synthetic)
    return replace(arm, synthetic="none", control="none") if arm.real and not share else arm


def training_set(
    arm: Arm, train: LabeledImages, synthetic: LabeledImages, dose: Dose, base: Arm | None = None
) -> TrainingSet:
    """What a classifier of this arm learns from.

    Args:
        arm: How to train.
        train: N real images, at least one a class.
        synthetic: Synthetic images, those that the arm asks for; may be empty or lack classes.
        dose: How much of them.
        base: The real arm that was chosen on validation; only for an arm `on_best`.

    Raises:
        DataError: Real and synthetic images differ in classes or shape, or there is nothing to train on.
    """
    allowed = synthetic.select(allowed_positions(train, synthetic, dose))
    share = dose.share if len(allowed) else 0.0
    arm = resolved(arm, share, base)
    if not arm.real:
        return _synthetic_only(allowed)
    images = concatenate(train, allowed if arm.uses_synthetic else allowed.select(NOTHING))
    is_synthetic = np.arange(len(images)) >= len(train)
    extra = _extra_draws(arm, images, is_synthetic, allowed, share)
    draws = np.where(is_synthetic, 0.0, _real_draws(arm, train, images, extra)) + extra
    loss = draws + (dose.weight - 1) * extra  # each image's part in the expected loss
    return TrainingSet(
        images,
        is_synthetic,
        draw_probabilities=draws if arm.draw == "classes" or extra.any() else None,
        loss_weights=loss / draws if dose.weight != 1 and extra.any() else None,
        log_prior=_log_prior(arm, images, loss, allowed, share=share, weight=dose.weight),
        strong_augmentation=arm.strong_augmentation,
    )


def allowed_positions(train: LabeledImages, synthetic: LabeledImages, dose: Dose) -> NDArray[np.int64]:
    """Positions of the synthetic images in use: the first ones of each class that the dose gives some to."""
    most = np.floor(dose.max_ratio * train.class_counts)
    most[[synthetic.classes.index(name) for name in dose.without]] = 0
    order = np.argsort(synthetic.labels, kind="stable")
    starts = np.cumsum(synthetic.class_counts) - synthetic.class_counts
    rank = np.empty(len(synthetic), np.int64)
    rank[order] = np.arange(len(synthetic)) - starts[synthetic.labels[order]]
    return np.flatnonzero(rank < most[synthetic.labels]).astype(np.int64)


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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _synthetic_only(allowed: LabeledImages) -> TrainingSet:
    if not len(allowed):
        raise DataError(
            "there is no synthetic image to train on alone",
            where="synthetic only",
            fix="leave the arm out, or generate images: diffaug generate",
        )
    return TrainingSet(allowed, np.ones(len(allowed), np.bool_))


def _real_draws(arm: Arm, train: LabeledImages, images: LabeledImages, extra: Floats) -> Floats:
    """Chance of each image, real ones leading, in a plain draw of a real one; meaningless for the others.

    Where classes are drawn equally often, synthetic draws of a class take the place of its real ones.
    """
    if arm.draw == "images":
        return np.full(len(images), (1 - extra.sum()) / len(train))
    counts = train.class_counts
    of_class = 1 / np.count_nonzero(counts) - np.bincount(images.labels, extra, len(counts))
    return np.asarray((of_class / counts)[images.labels])


def _extra_draws(
    arm: Arm, images: LabeledImages, is_synthetic: NDArray[np.bool_], allowed: LabeledImages, share: float
) -> Floats:
    """Chance of each image in the draws that are no plain draws of a real one."""
    if arm.uses_synthetic and arm.draw == "classes":
        of_class = share / (len(allowed.classes) * np.maximum(allowed.class_counts, 1))
        return np.where(is_synthetic, of_class[images.labels], 0.0)
    if arm.uses_synthetic:
        return np.where(is_synthetic, share / len(allowed), 0.0)
    if arm.control == "replay":
        return np.asarray(share * (_shares(allowed) / images.class_counts)[images.labels])
    return np.zeros(len(images))


def _log_prior(
    arm: Arm, images: LabeledImages, loss: Floats, allowed: LabeledImages, *, share: float, weight: float
) -> Floats | None:
    """What is added to the logits in training.

    With log p added, the logits alone become those of a uniform prior (Ren et al. 2020, eq. 4). With log p - log q
    added they become those of the prior q, p being the prior that is drawn.
    """
    if arm.balanced_softmax:
        return np.asarray(np.log(np.bincount(images.labels, loss, len(images.classes)) / loss.sum()))
    if arm.control == "prior":
        real = _shares(images)
        mixed = (1 - share) * real + share * weight * _shares(allowed)
        return np.asarray(np.log(real) - np.log(mixed / mixed.sum()))
    return None


def _shares(images: LabeledImages) -> Floats:
    """Share of each class in the images, (K,)."""
    return np.asarray(images.class_counts / len(images))
