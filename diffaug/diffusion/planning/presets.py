"""Networks from half a million to nearly sixty million parameters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A size of network and how it is trained.

    Attributes:
        grid: Images are folded until neither side of what the UNet works on is longer than this.
        base_channels: Width of the first level; at most twice as wide where images fold into more channels.
        channel_multipliers: Width of each level as a multiple of `base_channels`.
        blocks: Residual blocks a level on the way down; one more on the way up.
        batch_size: Images a step.
        learning_rate: Peak, of AdamW.
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
