"""A plan in sentences."""

import math
from collections.abc import Iterator

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.planning.planning import Plan, affordable_images, longest_minutes
from diffaug.diffusion.planning.presets import PRESETS, fold
from diffaug.diffusion.planning.sources import explain_sources
from diffaug.diffusion.process.process import UNSCALED_SIDE
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


def expected_quality(plan: Plan) -> str:
    """What to expect of a network that is trained on pixels, by the number of images seen."""
    levels = QUALITY_GRAY if plan.channels == 1 else QUALITY_RGB
    return next(text for least, text in levels if _expected_length(plan) >= least)


def explain(plan: Plan, settings: DiffusionSettings, images: LabeledImages, quality: str) -> tuple[str, ...]:
    """One sentence per choice of a plan whose length is set; `quality` says what to expect."""
    if not plan.recommended_images:
        return (*explain_sources(None, None, plan.pretrained), f"nothing is trained; expect {quality}")
    return (
        *_data_and_network(plan, settings, images),
        *explain_sources(plan.unlabeled, plan.initial, plan.pretrained),
        *_methods(plan, settings),
        *_length(plan, settings, images, quality),
    )


def cost_of_size(plan: Plan) -> str | None:
    """What the size costs on a CPU, in one sentence, if details are folded away that smaller images would keep."""
    if plan.route != "pixels":
        return None
    network, speed = plan.network, plan.images_per_second
    kept = fold(FINE_SIDE**2, PRESETS[plan.preset].grid)
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
    (height, width), network = plan.image_size, plan.unet
    yield (
        f"images: {width} x {height} px, {'RGB' if plan.channels == 3 else 'gray'}, "
        f"{len(images)} for training in {len(images.classes)} classes"
    )
    if network is not None:
        yield from _network(plan, network, settings)
    yield (
        f"a class of n images is drawn in proportion to n^{defaults.CLASS_TEMPERATURE:g}, and no image more than "
        f"{defaults.MAX_REPEATS_PER_IMAGE / defaults.EXPECTED_VIEWS:g} times as often as the average one"
    )


def _network(plan: Plan, network: NetworkConfig, settings: DiffusionSettings) -> Iterator[str]:
    height, width = network.image_size
    unit = plan.unit if plan.unit == "px" else f"{plan.unit} of {network.channels} channels"
    grid = f"{math.ceil(width / network.patch)} x {math.ceil(height / network.patch)} {unit} (patch {network.patch})"
    why = "as set"
    if not settings.preset:
        minutes = f" and {settings.minutes:g} minutes" if settings.minutes else ""
        why = f"chosen for a {'GPU' if plan.device == 'cuda' else 'CPU'}{minutes}"
    yield f"network: UNet '{plan.preset}' of width {network.base_channels}, working on {grid}, {why}"
    if network.noise_scale > 1:
        yield f"noise levels are {network.noise_scale:.3g} times those of {UNSCALED_SIDE} px, since images are larger"


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


def _length(plan: Plan, settings: DiffusionSettings, images: LabeledImages, quality: str) -> Iterator[str]:
    yield f"computed in {plan.precision}{', compiled' if plan.compiled else ''}"
    yield f"batch size {plan.batch_size}, learning rate {plan.learning_rate:g} with warm-up and cosine decay to 0"
    speed, most = plan.images_per_second, "at most " if plan.pilot else ""
    timed = f": {most}{duration(plan.images_seen / speed)} at {speed:.0f} images/s, measured here" if speed else ""
    yield f"{most}{plan.images_seen} images seen ({_why_this_length(plan, settings)}){timed}"
    if pilot := plan.pilot:
        longest = f", in at most {duration(pilot.images_seen / speed)}" if speed else ""
        yield (
            f"first a pilot: a generator trained without {pilot.judged} of the images, which chooses the length, and "
            f"later the amount of synthetic images, on images that it has not seen; it sees at most "
            f"{pilot.images_seen} images{longest}"
        )
    if plan.seconds_besides:
        yield f"what this route does besides takes at most {duration(plan.seconds_besides)}, measured here"
    if plan.seconds is not None:
        yield f"it ends after {duration(plan.seconds)} even if the machine becomes slower; --minutes sets another limit"
    length, which = _expected_length(plan), "labeled image" if plan.unlabeled else "image"
    views = plan.labeled_share * length / len(images)
    yield f"after {length} images seen, about {views:.0f} times every {which}, expect {quality}"


def _expected_length(plan: Plan) -> int:
    """What a training is expected to see; a pilot may find that more or less is better."""
    return min(plan.images_seen, plan.recommended_images) if plan.pilot else plan.images_seen


def _why_this_length(plan: Plan, settings: DiffusionSettings) -> str:
    if settings.images_seen is not None:
        rounded = "" if plan.images_seen == settings.images_seen else ", in whole batches"
        return f"as set{rounded}"
    limit = "as set" if settings.minutes else "the limit unless you set --minutes"
    allowed = f"what {longest_minutes(settings):g} minutes allow, {limit}"
    if affordable_images(plan, settings, with_pilot=plan.pilot is not None) < plan.recommended_images:
        return f"{allowed}; {plan.recommended_images} {'are usual' if settings.minutes else 'would be better'}"
    if plan.pilot:
        return allowed
    return "usual for this many images and classes"
