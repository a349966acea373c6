"""The plan of a training, chosen from the images and the device."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from pydantic import TypeAdapter

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.network.unet import NUM_CONDITIONS, NetworkConfig
from diffaug.diffusion.planning import defaults
from diffaug.runtime.devices import computes_in_bfloat16


@dataclass(frozen=True)
class Preset:
    """A size of network and how it is trained.

    Attributes:
        grid: Images are folded until the UNet works on no more positions than a square of this side has.
        base_channels: Width of the first level; at most twice as wide where images fold into more channels.
    """

    grid: int
    base_channels: int
    channel_multipliers: tuple[int, ...]
    blocks: int
    batch_size: int
    learning_rate: float


PRESETS = {
    "tiny": Preset(16, 32, (1, 2), 1, 64, 2e-3),
    "small": Preset(16, 32, (1, 2, 3), 1, 64, 2e-3),
    "medium": Preset(16, 96, (1, 2), 2, 128, 5e-4),
    "large": Preset(32, 128, (1, 2, 2), 3, 256, 4e-4),
    "huge": Preset(32, 192, (1, 2, 2), 3, 256, 3e-4),
}


@dataclass(frozen=True)
class Plan:
    """A training that is decided down to the number of images, so that a resumed one ends where it would have.

    Attributes:
        recommended_images: Images seen that would be enough for these images.
        images_seen: Length of the training in images seen. 0 until it is decided, see `set_length`.
        images_per_second: Speed measured on this device; 0 if it was not measured.
        augmentation: Probability of each geometric augmentation.
        reasons: One sentence per choice. Two plans that differ in nothing else are equal.
    """

    network: NetworkConfig
    batch_size: int
    learning_rate: float
    recommended_images: int
    images_seen: int = 0
    images_per_second: float = 0.0
    precision: str = "float32"
    compiled: bool = False
    device: str = "cpu"
    augmentation: float = 0.0
    horizontal_flip: bool = False
    reasons: tuple[str, ...] = field(default=(), compare=False)

    @property
    def steps(self) -> int:
        """Length of the training in steps."""
        return max(1, round(self.images_seen / self.batch_size))

    @property
    def expected_seconds(self) -> float | None:
        """Expected duration, or None if the speed was not measured."""
        return self.images_seen / self.images_per_second if self.images_per_second else None


PLAN = TypeAdapter(Plan)
"""Reads and writes plans."""


def make_plan(
    images: LabeledImages, settings: DiffusionSettings, device: str, *, base_channels: int | None = None
) -> Plan:
    """Decides everything except the length, which needs a measured speed."""
    height, width, channels = images.pixels.shape[1:]
    preset = PRESETS[choose_preset(len(images), settings, device)]
    patch = fold(height * width, preset.grid)
    # The width is that of what images fold into, but at most twice the preset's; see `UNet.gain`.
    width_of_fold = min(channels * patch**2 // 16 * 16, 2 * preset.base_channels)
    network = NetworkConfig(
        image_size=(height, width),
        channels=channels,
        num_classes=len(images.classes),
        patch=patch,
        base_channels=base_channels or max(preset.base_channels, width_of_fold),
        channel_multipliers=preset.channel_multipliers,
        blocks=preset.blocks,
        dropout=settings.dropout,
        conditions=NUM_CONDITIONS,
        objective=settings.objective,
    )
    # DDPM's mean is x - sigma eps, which would multiply the rounding of bfloat16 by up to 80.
    precision = "bfloat16" if settings.objective == "edm" and computes_in_bfloat16(device) else "float32"
    return Plan(
        network,
        batch_size=settings.batch_size or preset.batch_size,
        learning_rate=settings.learning_rate or preset.learning_rate,
        recommended_images=enough_images(images),
        images_seen=settings.images_seen or 0,
        precision=precision if settings.precision == "auto" else settings.precision,
        compiled=settings.compile is True,
        device=device,
        horizontal_flip=settings.horizontal_flip,
    )


def fold(pixels: int, grid: int) -> int:
    """Side of the squares, a power of 2, that images of so many pixels fold into channels, see `Preset.grid`."""
    patch = 1
    while pixels > (grid * patch) ** 2:
        patch *= 2
    return patch


def enough_images(images: LabeledImages) -> int:
    """Images that a training should see: the commonest class 150 times each, small data sets more often."""
    counts = np.bincount(images.labels)
    shares = counts[counts > 0].astype(float) ** defaults.CLASS_TEMPERATURE
    share_of_commonest = float(shares.max() / shares.sum())
    rgb = images.pixels.shape[-1] >= 3
    least = defaults.MIN_IMAGES_SEEN_RGB if rgb else defaults.MIN_IMAGES_SEEN_GRAY
    return max(least, round(defaults.VIEWS_OF_COMMONEST_CLASS * int(counts.max()) / share_of_commonest))


def choose_preset(num_images: int, settings: DiffusionSettings, device: str) -> str:
    """The preset that was set, or the size that the device can train in time, smaller for few images.

    Small networks memorize few images later than large ones (Gu et al. 2023, arXiv 2310.02664).
    """
    if settings.preset:
        return settings.preset
    minutes, few = settings.minutes or defaults.ASSUMED_MINUTES, num_images < defaults.FEW_IMAGES
    if device == "cpu":
        return "medium" if minutes >= defaults.LONG_CPU_MINUTES and not few else "small"
    if few or minutes < defaults.SHORT_CUDA_MINUTES:
        return "medium"
    return "huge" if minutes >= defaults.LONG_CUDA_MINUTES and num_images >= defaults.MANY_IMAGES else "large"


def precision_candidates(plan: Plan, settings: DiffusionSettings) -> Iterator[Plan]:
    """The plan in each precision, compiled or not, that may be the fastest here. Measuring decides.

    Whether bfloat16 pays on a CPU depends on its instructions. Compiling is tried only on a GPU and for long trainings:
    on a CPU, where convolutions take most of the time, it was slower.
    """
    precisions: list[str] = [settings.precision]
    if settings.precision == "auto":
        undecided = plan.device == "cpu" and settings.images_seen is None and settings.objective == "edm"
        precisions = ["float32", "bfloat16"] if undecided else [plan.precision]
    plans = [replace(plan, precision=precision, compiled=settings.compile is True) for precision in precisions]
    yield from plans
    if len(plans) > 1 and not plan.compiled:  # again, so that a machine that is busy for a moment does not choose
        yield from plans
    long = (settings.minutes or defaults.ASSUMED_MINUTES) >= defaults.MIN_MINUTES_TO_COMPILE
    if settings.compile == "auto" and plan.device == "cuda" and long:
        yield replace(plans[-1], compiled=True)


def halve_batch_if_too_few_steps(plan: Plan, settings: DiffusionSettings, smallest: int = 1) -> Plan:
    """The plan with half the batch if its length would give fewer steps than a network needs.

    On a CPU an image costs nearly the same in any batch. On a GPU small batches leave it idle, so there the batch
    stays, and so does a batch size that was set. The learning rate is never changed.
    """
    half = plan.batch_size // 2
    fixed = settings.batch_size is not None or plan.device != "cpu" or half < max(defaults.MIN_BATCH_SIZE, smallest)
    if fixed or _wanted_images(plan, settings) / plan.batch_size >= defaults.ENOUGH_STEPS:
        return plan
    return replace(plan, batch_size=half)


def set_length(plan: Plan, settings: DiffusionSettings, num_images: int) -> Plan:
    """Decides the length, in whole batches, and whether images are augmented."""
    images_seen = plan.batch_size * max(1, round(_wanted_images(plan, settings) / plan.batch_size))
    augmentation = settings.augmentation
    if augmentation is None:
        often = images_seen >= defaults.AUGMENTATION_VIEWS * num_images
        augmentation = defaults.AUGMENTATION_PROBABILITY if often else 0.0
    return replace(plan, images_seen=images_seen, augmentation=augmentation)


def planned_minutes(plan: Plan, settings: DiffusionSettings) -> float:
    """Duration of the training in minutes at the measured speed, within limits unless the user set it."""
    if settings.minutes:
        return settings.minutes
    minutes = plan.recommended_images / plan.images_per_second / 60
    return min(max(minutes, min_minutes(plan.device)), defaults.MAX_MINUTES)


def min_minutes(device: str) -> float:
    """The shortest training on a device unless the user sets another."""
    return defaults.MIN_MINUTES_CPU if device == "cpu" else defaults.MIN_MINUTES_CUDA


def _wanted_images(plan: Plan, settings: DiffusionSettings) -> int:
    if settings.images_seen is not None:
        return settings.images_seen
    return max(plan.batch_size, round(planned_minutes(plan, settings) * 60 * plan.images_per_second))
