"""Autoencoders that tests write to disk: one that is exact for images of squares, and random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SMALL_GAIN = 0.1  # AutoencoderTiny's decoder squeezes latents by tanh, which is nearly linear at this height


def write_exact(folder: Path, scaling_factor: float = 1.0, channels: int = 3) -> Path:
    """AutoencoderTiny whose latents are the mean colors of squares of 2 px, which its decoder paints again.

    Images that are flat in each of these squares come back as they were, to the bit.
    """
    from diffusers import AutoencoderTiny

    module = AutoencoderTiny(
        in_channels=channels,
        out_channels=channels,
        encoder_block_out_channels=(channels, channels),
        decoder_block_out_channels=(channels, channels),
        num_encoder_blocks=(0, 0),
        num_decoder_blocks=(0, 0),
        latent_channels=channels,
        scaling_factor=scaling_factor,
    )
    centered, squares = torch.zeros(3, 3), torch.zeros(3, 3)
    centered[1, 1], squares[1:, 1:] = 1.0, 0.25
    convolutions = [layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)]
    kernels = (centered, squares, SMALL_GAIN * centered, centered, centered, centered / SMALL_GAIN)
    with torch.no_grad():
        for layer, kernel in zip(convolutions, kernels, strict=True):
            layer.weight.copy_(torch.eye(channels)[:, :, None, None] * kernel)
            if layer.bias is not None:
                layer.bias.zero_()
    module.save_pretrained(folder)
    return folder


def write_random_kl(folder: Path, **changes: Any) -> Path:
    """AutoencoderKL with random weights: stride 2, 4 channels of latents."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    shape = {
        "block_out_channels": (4, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 2,
    }
    AutoencoderKL(**{**shape, **changes}).save_pretrained(folder)
    return folder


def squares(count: int, size: tuple[int, int] = (8, 8), channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Images that are flat in squares of 2 px, uint8 (N, H, W, C); a last odd row or column is flat, too."""
    shape = (count, -(-size[0] // 2), -(-size[1] // 2), channels)
    small = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return small.repeat(2, axis=1).repeat(2, axis=2)[:, : size[0], : size[1]]
