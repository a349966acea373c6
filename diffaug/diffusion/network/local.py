"""A convolutional network behind space-to-depth that sees no further than some positions, for any image size.

It has no attention, no downsampling, and normalizes each position by itself. So its output at a pixel depends on the
pixels within `reach` alone: it can be trained on crops, and run on overlapping tiles with the same result.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import silu

from diffaug.diffusion.network.unet import NetworkConfig, NoiseEmbedding, ResidualBlock, folded, padded, zeroed

LEVEL_FEATURES = 4
MAX_LEVEL = 0.2
"""Largest noise on a condition; a normalized image has a deviation of 0.5. Chosen by hand."""


def reach(config: NetworkConfig) -> int:
    """How many px around a patch the output in it depends on, at most."""
    return config.patch * (2 * config.blocks + 2)


class PositionNorm(nn.Module):
    """Layer normalization over the channels of each position."""

    def __init__(self, channels: int, *, affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same shape."""
        result: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return result


class LocalNetwork(nn.Module):
    """The network: noisy image, noise level, class and condition in; two image-shaped values out, as of a UNet.

    The conditions (N, C + 1, H, W) are an image and, as a last channel, the noise level of it, the same everywhere.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width, embedding, values = config.base_channels, 2 * config.base_channels, config.channels * config.patch**2
        self.embedding = NoiseEmbedding(config.num_classes + 1, LEVEL_FEATURES, embedding)
        self.stem = nn.Conv2d(2 * values, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width, config.dropout, PositionNorm) for _ in range(config.blocks))
        self.film = nn.Linear(embedding, 2 * width * config.blocks)
        self.norm = PositionNorm(width)
        self.head = zeroed(nn.Conv2d(width, 2 * values, 3, padding=1))
        # What noise level and class alone tell: of the variance, and how far to follow noisy image and condition.
        self.offset = zeroed(nn.Linear(embedding, 2 * config.channels))
        self.gain = zeroed(nn.Linear(embedding, 2 * config.channels))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor, conditions: Tensor) -> Tensor:
        """For arguments see `Denoiser`; returns (N, 2C, H, W), 0 for an untrained network."""
        condition, level = conditions[:, :-1], conditions[:, -1, 0, 0]
        embedding = self.embedding(c_noise, labels, level_features(level))
        seen = torch.cat([x, condition], dim=1)
        hidden = self.stem(folded(padded(seen, self.config.patch), self.config.patch))
        films = self.film(embedding)[:, :, None, None].chunk(self.config.blocks, dim=1)
        for block, film in zip(self.blocks, films, strict=True):
            hidden = block(hidden, film)
        height, width = x.shape[-2:]
        hidden = self.head(silu(self.norm(hidden)))
        unfolded = functional.pixel_shuffle(hidden, self.config.patch)[..., :height, :width]
        kept = (self.gain(embedding)[:, :, None, None] * seen).unflatten(1, (2, -1)).sum(dim=1)
        result: Tensor = unfolded + self.offset(embedding)[:, :, None, None]
        return result + functional.pad(kept, (0, 0, 0, 0, 0, x.shape[1]))


def level_features(level: Tensor) -> Tensor:
    """(N,) in [0, MAX_LEVEL] to (N, LEVEL_FEATURES), zero without noise."""
    steps = torch.arange(1, LEVEL_FEATURES + 1, device=level.device, dtype=level.dtype)
    return (level[:, None] * steps * (0.5 * math.pi / MAX_LEVEL)).sin()
