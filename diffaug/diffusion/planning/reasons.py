"""A plan in sentences."""

import math
from collections.abc import Iterator

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.planning.planning import (
    PRESETS,
    Plan,
    choose_preset,
    fold,
    min_minutes,
    planned_minutes,
)
from diffaug.runtime.console import duration

FINE_SIDE = 64
"""The largest square in px, short side, that a CPU's network sees in folds of 4 px. Time grows with the positions."""
QUALITY_GRAY = (
    (100_000, "clear simple shapes, torn where patterns are fine"),
    (30_000, "recognizable shapes with speckles and holes"),
    (0, "blurred shapes; train longer before you judge"),
)
"""Least images seen and what to expect. Seen on fashion-lt."""
QUALITY_RGB = (
    (1_000_000, "recognizable objects with soft details"),
    (200_000, "colors and rough shapes, few details"),
    (0, "colors and textures, no objects yet; train longer or choose a smaller --image-size"),
)
"""The same for RGB. Only the lowest level was seen, on flowers."""


def explain(plan: Plan, settings: DiffusionSettings, images: LabeledImages) -> tuple[str, ...]:
    """One sentence per choice of a plan whose length is set."""
    return (*_data_and_network(plan, settings, images), *_methods(plan, settings), *_length(plan, settings, images))


def cost_of_size(plan: Plan, settings: DiffusionSettings, num_images: int) -> str | None:
    """What the size costs on a CPU, in one sentence, if details are folded away that smaller images would keep."""
    network, speed = plan.network, plan.images_per_second
    kept = fold(FINE_SIDE**2, PRESETS[choose_preset(num_images, settings, plan.device)].grid)
    if plan.device != "cpu" or not speed or network.patch <= kept:
        return None
    height, width = network.image_size
    seconds = plan.recommended_images / speed
    return (
        f"{width} x {height} px is more than a CPU learns well: with details as fine as at {FINE_SIDE} px a training "
        f"takes about {duration(seconds * (network.patch / kept) ** 2)}; --image-size {FINE_SIDE} takes "
        f"{duration(seconds)}, and this training shows coarse patches"
    )


def _data_and_network(plan: Plan, settings: DiffusionSettings, images: LabeledImages) -> Iterator[str]:
    network, (height, width) = plan.network, plan.network.image_size
    name = choose_preset(len(images), settings, plan.device)
    grid = f"{math.ceil(width / network.patch)} x {math.ceil(height / network.patch)} px (patch {network.patch})"
    why = "as set"
    if not settings.preset:
        minutes = f" and {settings.minutes:g} minutes" if settings.minutes else ""
        why = f"chosen for a {'GPU' if plan.device == 'cuda' else 'CPU'}{minutes}"
    yield (
        f"images: {width} x {height} px, {'RGB' if network.channels == 3 else 'gray'}, "
        f"{len(images)} for training in {len(images.classes)} classes"
    )
    yield (f"network: UNet '{name}' of width {network.base_channels}, working on {grid}, {why}")
    yield (
        f"a class of n images is drawn in proportion to n^{defaults.CLASS_TEMPERATURE:g}, and no image of a rare class "
        f"more than {defaults.MAX_REPEATS_PER_IMAGE} times"
    )


def _methods(plan: Plan, settings: DiffusionSettings) -> Iterator[str]:
    if settings.horizontal_flip:
        yield "mirrored images are trained on too, as set"
    else:
        yield (
            "no mirrored images; if left and right mean nothing in your classes, "
            "--set diffusion.horizontal_flip=true gives more to learn from"
        )
    if settings.objective != "edm":
        yield f"objective {settings.objective}, as set"
    if plan.augmentation:
        why = "as set" if settings.augmentation else "because every image is seen often"
        yield f"images are augmented with probability {plan.augmentation:g}, {why}; samples are not"


def _length(plan: Plan, settings: DiffusionSettings, images: LabeledImages) -> Iterator[str]:
    yield f"computed in {plan.precision}{', compiled' if plan.compiled else ''}"
    yield f"batch size {plan.batch_size}, learning rate {plan.learning_rate:g} with warm-up and cosine decay to 0"
    speed = plan.images_per_second
    if settings.images_seen is None:
        minutes, why = planned_minutes(plan, settings), _why_these_minutes(plan, settings)
        yield f"{plan.images_seen} images seen: {minutes:.3g} minutes ({why}) at {speed:.0f} images/s, measured here"
    else:
        rounded = "" if plan.images_seen == settings.images_seen else ", in whole batches"
        expected = f": about {duration(plan.images_seen / speed)} at {speed:.0f} images/s" if speed else ""
        yield f"{plan.images_seen} images seen, as set{rounded}{expected}"
    levels = QUALITY_GRAY if plan.network.channels == 1 else QUALITY_RGB
    quality = next(text for least, text in levels if plan.images_seen >= least)
    yield f"every image is seen about {plan.images_seen / len(images):.0f} times; expect {quality}"


def _why_these_minutes(plan: Plan, settings: DiffusionSettings) -> str:
    if settings.minutes:
        return "as set"
    recommended = plan.recommended_images / plan.images_per_second / 60
    if recommended < min_minutes(plan.device):
        return "the minimum unless you set --minutes"
    if recommended > defaults.MAX_MINUTES:
        return f"the maximum unless you set --minutes; {plan.recommended_images} images would be better"
    return "enough for this many images and classes"
