"""What fit will do: network, batch, budget and learning rate, chosen from the images and the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from diffaug.config import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.unet import NetworkConfig
from diffaug.narration import duration

DEFAULT_MINUTES = 10.0


@dataclass(frozen=True)
class Plan:
    """A training that is decided down to the number of images, so that a resumed one ends where it would have.

    Attributes:
        network: The shape of the UNet.
        batch_size: Images a step.
        images: Length of the training in images seen.
        learning_rate: Peak, of AdamW.
        images_per_second: Measured on this device; 0 where the length was given in images.
        reasons: One sentence for each choice.
    """

    network: NetworkConfig
    batch_size: int
    images: int
    learning_rate: float
    images_per_second: float
    reasons: tuple[str, ...]

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
        network = dict(stored["network"])
        for name in ("image_size", "channel_multipliers"):
            network[name] = tuple(network[name])
        return cls(
            **{**stored, "network": NetworkConfig(**network), "reasons": tuple(stored["reasons"])},
        )


def make_plan(images: LabeledImages, settings: DiffusionSettings, device: str) -> Plan:
    """Decides everything except the length, which needs a measured speed when given in minutes.

    Args:
        images: The training images.
        settings: What the user fixed.
        device: `cpu` or `cuda`.
    """
    height, width, channels = images.pixels.shape[1:]
    gpu = device == "cuda"
    patch = _patch(max(height, width), limit=32 if gpu else 16)
    grid = max(height, width) / patch
    multipliers = (1, 2) if grid <= 16 else (1, 2, 2)
    base = settings.base_channels or (128 if gpu else 48)
    network = NetworkConfig(
        image_size=(height, width),
        channels=channels,
        num_classes=len(images.classes),
        patch=patch,
        base_channels=base,
        channel_multipliers=multipliers,
        blocks=2 if gpu else 1,
        dropout=settings.dropout,
    )
    batch_size = settings.batch_size or (256 if gpu else 64)
    learning_rate = settings.learning_rate or (4e-4 if gpu else 1e-3)
    reasons = (
        f"images {width} x {height} px, {'RGB' if channels == 3 else 'grey'}, "
        f"{len(images)} for training in {len(images.classes)} classes",
        f"UNet of width {base} on a {round(grid)} px grid (patch {patch}), sized for {'a GPU' if gpu else 'a CPU'}",
        f"batch {batch_size}, learning rate {learning_rate:g} with warm-up, falling to 0 at the end",
        f"rare classes drawn more often, in proportion to n^{settings.class_temperature:g}, "
        f"but no image more than {settings.max_repeats} times or its equal share",
    )
    return Plan(network, batch_size, settings.images or 0, learning_rate, 0.0, reasons)


def set_length(plan: Plan, settings: DiffusionSettings, images_per_second: float) -> Plan:
    """Turns the time budget into images at the measured speed; a budget in images stays as it is."""
    if settings.images is not None:
        reason = f"{settings.images} images seen, as set"
        if images_per_second:
            reason += f": about {duration(settings.images / images_per_second)} at {images_per_second:.0f} images/s"
        plan = replace(plan, images=settings.images, images_per_second=images_per_second)
        return replace(plan, reasons=(*plan.reasons, reason))
    minutes = settings.minutes or DEFAULT_MINUTES
    count = max(plan.batch_size, round(minutes * 60 * images_per_second))
    origin = "as set" if settings.minutes else "the default"
    reason = f"{count} images seen: {minutes:g} minutes ({origin}) at {images_per_second:.0f} images/s measured here"
    return replace(plan, images=count, images_per_second=images_per_second, reasons=(*plan.reasons, reason))


def _patch(size: int, limit: int) -> int:
    patch = 1
    while size / patch > limit:
        patch *= 2
    return patch
