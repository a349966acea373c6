"""Dynamic thresholding: guidance must not push an image out of the range of pixels."""

import torch
from torch import Tensor

PERCENTILE = 0.995
"""Share of an image's values that stay below the threshold. Imagen leaves the choice open; by hand."""


def thresholded(pixels: Tensor) -> Tensor:
    """Brings images (N, C, H, W) back to [-1, 1] (Saharia et al. 2022, arXiv 2205.11487, section 2.3).

    Each image is clipped to [-s, s] and divided by s, where s is the percentile of its absolute values, at least 1. So
    an image whose contrast grew loses contrast, and not the shape of its brightest parts.
    """
    limits = torch.quantile(pixels.float().abs().flatten(1), PERCENTILE, dim=1).clamp_min(1)[:, None, None, None]
    return torch.minimum(torch.maximum(pixels, -limits), limits) / limits
