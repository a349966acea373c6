"""Sizes of networks, and which one fits device, time and images."""

from dataclasses import dataclass

from diffaug.configuration.settings import DiffusionSettings
from diffaug.diffusion.planning import defaults


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
    "fine": Preset(32, 32, (1, 2, 3), 1, 64, 2e-3),
    "medium": Preset(16, 96, (1, 2), 2, 128, 5e-4),
    "large": Preset(32, 128, (1, 2, 2), 3, 256, 4e-4),
    "huge": Preset(32, 192, (1, 2, 2), 3, 256, 3e-4),
}

FINE_IMAGES_SEEN = 50_000
"""On gray images a fine network is better than a small one of equal time if it sees so many, half of them by its pilot.

Measured by the denoising error of held-out training images of neu-lt and fashion-lt.
"""


def fold(pixels: int, grid: int) -> int:
    """Side of the squares, a power of 2, that images of so many pixels fold into channels, see `Preset.grid`."""
    patch = 1
    while pixels > (grid * patch) ** 2:
        patch *= 2
    return patch


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
