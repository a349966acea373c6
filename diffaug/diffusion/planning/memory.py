"""How much memory a training needs, estimated from its network."""

import torch

from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig

KEPT_PER_BLOCK, KEPT_PER_PIXEL, COPIES_OF_WEIGHTS = 8, 2.5, 6
"""Values kept for the backward pass: of a residual block per channel and position, and per pixel. Weights, gradient,
average, two moments and the guide."""


def training_bytes(network: NetworkConfig, batch_size: int) -> int:
    """Bytes of the weights, with all that is kept of each, and of what a batch keeps for the backward pass, in float32.

    Of a `LocalNetwork` too, all of whose blocks are of one level.
    """
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Denoiser(network).parameters())
    height, width = (-(-side // network.patch) for side in network.image_size)
    kept = KEPT_PER_PIXEL * network.channels * network.patch**2 * height * width
    widths = [network.base_channels * multiplier for multiplier in network.channel_multipliers]
    for level, channels in enumerate(widths):
        blocks = 2 * network.blocks + 1 + 2 * (level == len(widths) - 1)
        kept += KEPT_PER_BLOCK * blocks * channels * height * width / 4**level
    return round(4 * (batch_size * kept + COPIES_OF_WEIGHTS * parameters))
