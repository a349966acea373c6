"""What fit will do: network, batch, budget and learning rate, chosen from the images and the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.network.unet import NUM_CONDITIONS, NetworkConfig
from diffaug.diffusion.planning.presets import PRESETS, Preset
from diffaug.runtime.console import duration
from diffaug.runtime.devices import computes_in_bfloat16

DEFAULT_MINUTES = 10.0  # what network and compilation are chosen for, before the speed is known
VIEWS, LEAST_GREY, LEAST_RGB = 150, 102_400, 204_800  # whole batches, so that no rounding ends below QUALITY_*
SHORTEST_MINUTES, LONGEST_MINUTES = {"cpu": 1.0, "cuda": 10.0}, 30.0
LONG_CPU_MINUTES = 120
SHORT_GPU_MINUTES, LONG_GPU_MINUTES = 5, 120
AUGMENTATION, MANY_VIEWS = 0.12, 50
SMALLEST_BATCH, ENOUGH_STEPS = 16, 4_000
FEW_IMAGES, MANY_IMAGES = 2_000, 20_000
QUALITY_GREY = (
    (100_000, "clear simple shapes, torn where patterns are fine"),
    (30_000, "recognisable shapes with speckles and holes"),
    (0, "blurred shapes; train longer before you judge"),
)
QUALITY_RGB = (
    (1_000_000, "recognisable objects with soft details"),
    (200_000, "colours and rough shapes, few details"),
    (0, "colours and textures, no objects yet; train longer or choose a smaller --size"),
)


@dataclass(frozen=True)
class Plan:
    """A training that is decided down to the number of images, so that a resumed one ends where it would have.

    Attributes:
        network: The shape of the UNet.
        batch_size: Images a step.
        images: Length of the training in images seen; before `set_length`, what would be enough.
        learning_rate: Peak, of AdamW.
        images_per_second: Expected on this device, from steps measured there; 0 where the length was given in images.
        reasons: One sentence for each choice.
        precision: `float32`, or `bfloat16` where convolutions and matrix products are rounded to it.
        compiled: Whether the network is compiled.
        device: What it was made for, `cpu` or `cuda`.
        augmentation: Probability of each geometric augmentation.
    """

    network: NetworkConfig
    batch_size: int
    images: int
    learning_rate: float
    images_per_second: float
    reasons: tuple[str, ...]
    precision: str = "float32"
    compiled: bool = False
    device: str = "cpu"
    augmentation: float = 0.0

    @property
    def steps(self) -> int:
        """Length of the training in steps."""
        return max(1, round(self.images / self.batch_size))

    @property
    def expected_seconds(self) -> float | None:
        """How long the training takes, where the speed was measured."""
        return self.images / self.images_per_second if self.images_per_second else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-like content."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Plan:
        """Reads what `to_dict` made, after JSON turned its tuples into lists."""
        network = NetworkConfig.from_dict(stored["network"])
        return cls(**{**stored, "network": network, "reasons": tuple(stored["reasons"])})


def make_plan(images: LabeledImages, settings: DiffusionSettings, device: str) -> Plan:
    """Decides everything except the length, which needs a measured speed when given in minutes.

    Args:
        images: The training images.
        settings: What the user fixed.
        device: `cpu` or `cuda`.
    """
    height, width, channels = images.pixels.shape[1:]
    name = settings.preset or choose_preset(len(images), settings, device)
    preset = PRESETS[name]
    patch = _patch(max(height, width), preset.grid)
    network = NetworkConfig(
        image_size=(height, width),
        channels=channels,
        num_classes=len(images.classes),
        patch=patch,
        base_channels=settings.base_channels or _width(preset, channels * patch**2),
        channel_multipliers=preset.channel_multipliers,
        blocks=preset.blocks,
        dropout=settings.dropout,
        conditions=NUM_CONDITIONS,
        objective=settings.objective,
    )
    batch_size = settings.batch_size or preset.batch_size
    learning_rate = settings.learning_rate or preset.learning_rate
    # DDPM's mean is x - sigma eps, which would multiply the rounding of bfloat16 by up to 80.
    precision = "bfloat16" if settings.objective == "edm" and computes_in_bfloat16(device) else "float32"
    return Plan(
        network,
        batch_size,
        settings.images_seen or enough_images(images, settings.class_temperature),
        learning_rate,
        0.0,
        _reasons(images, network, name, settings, device),
        precision if settings.precision == "auto" else settings.precision,
        settings.compile is True,
        device,
    )


def enough_images(images: LabeledImages, class_temperature: float) -> int:
    """How many images a training should see: each of the commonest class 150 times, which the others exceed.

    Few images are seen more often, until shapes are clear: after 102,400 grey or 204,800 coloured ones. The README's
    trainings were about as long: 87,000 of 8 px digits, 412,000 of fashion-lt, 176,000 of 64 px flowers.

    Args:
        images: The training images.
        class_temperature: Classes of n images are drawn in proportion to n to this power.
    """
    counts = np.bincount(images.labels)
    shares = counts[counts > 0].astype(float) ** class_temperature
    share_of_commonest = float(shares.max() / shares.sum())
    least = LEAST_RGB if images.pixels.shape[-1] >= 3 else LEAST_GREY
    return max(least, round(VIEWS * int(counts.max()) / share_of_commonest))


def _reasons(
    images: LabeledImages, network: NetworkConfig, name: str, settings: DiffusionSettings, device: str
) -> tuple[str, ...]:
    height, width = network.image_size
    grid = math.ceil(max(height, width) / network.patch)
    return (
        f"images {width} x {height} px, {'RGB' if network.channels == 3 else 'grey'}, "
        f"{len(images)} for training in {len(images.classes)} classes",
        f"UNet of size {name}, width {network.base_channels}, working on {grid} px (patch {network.patch}), "
        f"{_why(name, settings, device)}",
        f"classes of n images drawn in proportion to n^{settings.class_temperature:g}; once an image of a rare class "
        f"is seen {settings.max_repeats} times, the rest goes to the other classes",
        _mirroring(settings),
        *_methods(settings),
    )


def choose_preset(num_images: int, settings: DiffusionSettings, device: str) -> str:
    """The size of network that the device can train within the budget, smaller where images are few.

    Small networks learn few images by heart later than large ones do (Gu et al. 2023, arXiv 2310.02664).
    """
    minutes = settings.minutes or DEFAULT_MINUTES
    if device == "cpu":
        return "medium" if minutes >= LONG_CPU_MINUTES and num_images >= FEW_IMAGES else "small"
    if num_images < FEW_IMAGES or minutes < SHORT_GPU_MINUTES:
        return "medium"
    return "huge" if minutes >= LONG_GPU_MINUTES and num_images >= MANY_IMAGES else "large"


def with_more_steps(plan: Plan, settings: DiffusionSettings, device: str, smallest: int = 1) -> Plan:
    """The plan with half the batch where the budget would be spent in fewer steps than a network needs.

    On a CPU an image costs nearly the same in any batch, unless it is tiny; on a GPU small batches leave it idle, so
    there the batch stays. The learning rate stays: on fashion-lt 2e-3 beat 1e-3 with 32, and 4e-3 with 16 by little;
    on digits it beat 1e-3 and 5e-4 after 87,000 images as well, for classifiers.

    Args:
        plan: The plan so far.
        settings: What the user fixed; a batch size is kept.
        device: `cpu` or `cuda`.
        smallest: The batch is not made smaller than this.
    """
    half = plan.batch_size // 2
    fixed = settings.batch_size is not None or device != "cpu" or half < max(SMALLEST_BATCH, smallest)
    if fixed or _count(plan, settings) / plan.batch_size >= ENOUGH_STEPS:
        return plan
    return replace(plan, batch_size=half)


def set_length(plan: Plan, settings: DiffusionSettings, num_images: int) -> Plan:
    """Turns the time budget into images at the measured speed; a budget in images stays as it is.

    Args:
        plan: The plan so far, with its speed if that was measured.
        settings: Holds the budget.
        num_images: Number of training images.
    """
    count, speed = plan.batch_size * max(1, round(_count(plan, settings) / plan.batch_size)), plan.images_per_second
    if settings.images_seen is not None:
        reason = f"{count} images seen, as set{'' if count == settings.images_seen else ', in whole batches'}"
        if speed:
            reason += f": about {duration(count / speed)} at {speed:.0f} images/s"
    else:
        minutes, origin = _minutes(plan, settings)
        reason = f"{count} images seen: {minutes:.3g} minutes ({origin}) at about {speed:.0f} images/s, "
        reason += "from steps measured here"
    more: tuple[str, ...] = (
        f"computed in {plan.precision}{', compiled' if plan.compiled else ''}",
        f"batch {plan.batch_size}, learning rate {plan.learning_rate:g} with warm-up, falling to 0 at the end",
        reason,
        f"every image is seen about {count / num_images:.0f} times; expect {_expected_quality(count, plan)}",
    )
    augmentation = settings.augmentation
    if augmentation is None:
        augmentation = AUGMENTATION if count >= MANY_VIEWS * num_images else 0.0
        if augmentation:
            more += (
                f"augmented with probability {augmentation:g}, since every image is seen so often; samples are not",
            )
    return replace(plan, images=count, augmentation=augmentation, reasons=(*plan.reasons, *more))


def _count(plan: Plan, settings: DiffusionSettings) -> int:
    if settings.images_seen is not None:
        return settings.images_seen
    return max(plan.batch_size, round(_minutes(plan, settings)[0] * 60 * plan.images_per_second))


def _minutes(plan: Plan, settings: DiffusionSettings) -> tuple[float, str]:
    """How long to train at the measured speed, and why."""
    if settings.minutes:
        return settings.minutes, "as set"
    minutes, shortest = plan.images / plan.images_per_second / 60, SHORTEST_MINUTES[plan.device]
    if minutes < shortest:
        return shortest, "never less unless you set --minutes"
    if minutes > LONGEST_MINUTES:
        return LONGEST_MINUTES, f"never more unless you set --minutes; {plan.images} images would be better"
    return minutes, "enough for this many images of this many classes"


def _why(name: str, settings: DiffusionSettings, device: str) -> str:
    if settings.preset:
        return "as set"
    budget = f" and {settings.images_seen} images" if settings.images_seen else ""
    budget = f" and {settings.minutes:g} minutes" if settings.minutes else budget
    return f"sized for {'a GPU' if device == 'cuda' else 'a CPU'}{budget}"


def _mirroring(settings: DiffusionSettings) -> str:
    if settings.horizontal_flip:
        return "mirrored images are trained on too, as set"
    return (
        "no mirrored images; if left and right mean nothing in your classes, "
        "--set diffusion.horizontal_flip=true doubles what there is to learn from"
    )


def _methods(settings: DiffusionSettings) -> tuple[str, ...]:
    """What is not as usual."""
    chosen = {
        f"augmented with probability {settings.augmentation}, of which samples stay free": bool(settings.augmentation),
        f"{settings.long_tail} for rare classes": settings.long_tail != "none",
        f"objective {settings.objective}": settings.objective != "edm",
    }
    return tuple(f"{method}, as set" for method, is_chosen in chosen.items() if is_chosen)


def _expected_quality(images_seen: int, plan: Plan) -> str:
    """A rough guess: grey as seen on fashion-lt, colour beyond its lowest level not yet measured."""
    thresholds = QUALITY_GREY if plan.network.channels == 1 else QUALITY_RGB
    return next(text for least, text in thresholds if images_seen >= least)


def _width(preset: Preset, folded: int) -> int:
    """Width of the first level: that of what images fold into, but at most twice the preset's.

    Cost grows with the square of the width and what is folded with the square of the image's side, so of large images
    the first convolution keeps a part only; see `UNet.gain` for the noise in the rest.
    """
    return max(preset.base_channels, min(folded // 16 * 16, 2 * preset.base_channels))


def _patch(size: int, limit: int) -> int:
    patch = 1
    while size / patch > limit:
        patch *= 2
    return patch
