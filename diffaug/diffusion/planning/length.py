"""How long to train: the length whose averaged weights denoise new images best without copying the trained ones.

A first generator, the pilot, leaves out a part of the training images. Its averaged weights are measured at lengths
that grow by a constant factor, and the length that is found in views per image holds for the training on all images,
because the number of images seen from which a generator copies grows with the number of images (Bonnaire et al. 2025,
arXiv 2505.17638).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.similarity.intervals import Share

PILOT_SHARE = 1 / 3
"""Share of the whole time that the pilot may take. It then covers three quarters of the longest final training."""
FIRST_VIEWS, FIRST_IMAGES_SEEN = 20, 6_400
"""Where the first length is measured: both are passed. On the training images of digits errors still fall steeply."""
GROWTH = math.sqrt(2)
"""Factor between two measured lengths."""
PATIENCE = 2
"""Measured lengths beyond the chosen one after which the pilot ends: it has seen twice as many images then."""
LEAST_IMAGES_SEEN = 2_000
"""A shorter training is over before anything could be measured."""


@dataclass(frozen=True)
class PilotPlan:
    """The part of a plan that concerns the pilot.

    Attributes:
        images_seen: The most that it sees, in whole batches.
        trained: Images that it is trained on.
        judged: Images that it is measured on.
    """

    images_seen: int
    trained: int
    judged: int


@dataclass(frozen=True)
class Measurement:
    """The pilot at one length.

    Attributes:
        images_seen: By the pilot.
        errors: Denoising error of each judged image, mean over noise levels, relative to what a network that has
            learned nothing makes.
        copies: Copies of trained images among samples of the classes that decide, see `CopyCheck`.
        copying: Whether they are significantly more than among real images.
    """

    images_seen: int
    errors: tuple[float, ...]
    copies: Share
    copying: bool


@dataclass(frozen=True)
class MeasuredLength:
    """A measurement in short: the class-balanced error, and by how much it exceeds the least, with standard error."""

    images_seen: int
    error: float
    excess: float
    standard_error: float
    copies: Share
    copying: bool


@dataclass(frozen=True)
class LengthChoice:
    """The length that the pilot chose.

    Attributes:
        views: Images seen per training image.
        measured: All measured lengths, rising.
        chosen: Position of the chosen one in `measured`.
        is_longest: Whether it is the last that the pilot reached, so that more may be better.
        reason: Why, in one sentence.
        seconds: What the pilot took.
    """

    views: float
    measured: tuple[MeasuredLength, ...]
    chosen: int
    is_longest: bool
    reason: str
    seconds: float


def measured_steps(plan: PilotPlan, batch_size: int) -> tuple[int, ...]:
    """The steps after which the pilot is measured, rising; the last one ends it.

    They don't depend on the most that it may see, so that a larger limit only adds some.
    """
    first, last = max(FIRST_VIEWS * plan.trained, FIRST_IMAGES_SEEN), plan.images_seen
    count = max(0, math.ceil(math.log(max(last / first, 1), GROWTH)))
    lengths = [first * GROWTH**number for number in range(count)]
    inside = [length for length in lengths if length * math.sqrt(GROWTH) <= last]
    return tuple(max(1, round(length / batch_size)) for length in (*inside, last))


def summarized(measured: Sequence[Measurement], labels: NDArray[np.int64]) -> tuple[MeasuredLength, ...]:
    """The measurements in short; labels (N,) are those of the judged images.

    The same images with the same noise are compared, so that only the difference to the least error is uncertain.
    """
    errors = np.array([one.errors for one in measured])
    means = [class_balanced_mean(row, labels)[0] for row in errors]
    free = [number for number, one in enumerate(measured) if not one.copying] or range(len(measured))
    best = min(free, key=means.__getitem__)
    differences = [class_balanced_mean(row - errors[best], labels) for row in errors]
    return tuple(
        MeasuredLength(one.images_seen, mean, *difference, one.copies, one.copying)
        for one, mean, difference in zip(measured, means, differences, strict=True)
    )


def choose_length(measured: Sequence[MeasuredLength]) -> int:
    """Position of the shortest length within one standard error of the least error, among those that don't copy.

    If all copy, the shortest one. For the rule see Breiman et al. 1984, section 3.4.3.
    """
    near = (number for number, one in enumerate(measured) if not one.copying and one.excess <= one.standard_error)
    return next(near, 0)


def is_enough(measured: Sequence[MeasuredLength]) -> bool:
    """Whether a longer pilot would hardly choose another length."""
    return len(measured) - 1 - choose_length(measured) >= PATIENCE


def length_choice(
    measured: Sequence[MeasuredLength], trained: int, seconds: float, *, was_ended: bool = False
) -> LengthChoice:
    """The choice among all measured lengths of a pilot that was trained on so many images in so many seconds.

    If the user ended the pilot, its last length is not taken as a sign that more is better.
    """
    chosen = choose_length(measured)
    views, is_last = measured[chosen].images_seen / trained, chosen == len(measured) - 1
    if all(one.copying for one in measured):
        reason = f"each measured length copies training images; {views:.0f} views per image is the shortest"
    elif is_last and views < FIRST_VIEWS:
        reason = f"the pilot saw {measured[chosen].images_seen} images in its time, too few to find a length"
    elif is_last and was_ended:
        reason = f"the pilot was ended after {views:.0f} views per image"
    elif is_last:
        reason = f"the pilot denoised new images best at its end, after {views:.0f} views per image"
    elif any(one.copying for one in measured):
        reason = f"after {views:.0f} views per image the pilot denoised new images best without copying trained ones"
    else:
        reason = f"after {views:.0f} views per image the pilot denoised new images as well as after more"
    return LengthChoice(views, tuple(measured), chosen, is_last and not was_ended, reason, seconds)


def class_balanced_mean(values: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Mean over classes of the mean over the images of each, of (N,) values, and its standard error.

    The variance within classes is pooled, because a class may have a single image.
    """
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.bincount(index, values) / counts
    freedom = max(1, len(values) - len(classes))
    variance = float(np.square(values - means[index]).sum()) / freedom
    return float(means.mean()), math.sqrt(variance * float((1 / counts).sum())) / len(classes)
