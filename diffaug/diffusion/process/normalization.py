"""Between pixels and what the network sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.diffusion.process.process import SIGMA_DATA

MIN_STD = 1 / 255
CHUNK = 64


@dataclass(frozen=True)
class Normalization:
    """Shifts and scales each channel so that the training images have mean 0 and deviation `SIGMA_DATA`.

    EDM's loss is 1 at the start only if the data's second moment is sigma_data squared; images with a dark
    background are far from that in [-1, 1].

    Attributes:
        mean: Of each channel, pixels in [-1, 1].
        std: Of each channel, pixels in [-1, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Normalization:
        """Measures uint8 (N, H, W, C)."""
        counts, levels = _level_counts(pixels), np.arange(256) / 127.5 - 1
        shares = counts / counts.sum(axis=1, keepdims=True)
        mean = shares @ levels
        std = np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(axis=1))
        return cls(tuple(mean.tolist()), tuple(np.maximum(std, MIN_STD).tolist()))

    def to_network(self, pixels: Tensor) -> Tensor:
        """uint8 (N, H, W, C) to normalised float32 (N, C, H, W)."""
        scaled = pixels.float() / 127.5 - 1
        mean, std = (
            torch.tensor(values).to(scaled.device, non_blocking=True)  # no step waits for the device
            for values in (self.mean, self.std)
        )
        return ((scaled - mean) * (SIGMA_DATA / std)).permute(0, 3, 1, 2)

    def to_pixels(self, images: Tensor) -> NDArray[np.uint8]:
        """Normalised (N, C, H, W) to uint8 (N, H, W, C); an image with a non-finite value becomes all zero."""
        finite = torch.isfinite(images).flatten(1).all(dim=1)[:, None, None, None]
        kept = torch.where(finite, images, torch.zeros_like(images)).float().permute(0, 2, 3, 1)
        mean, std = kept.new_tensor(self.mean), kept.new_tensor(self.std)
        scaled = kept * (std / SIGMA_DATA) + mean
        pixels = ((scaled + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        result: NDArray[np.uint8] = torch.where(finite, pixels, torch.zeros_like(pixels)).cpu().numpy()
        return result


def _level_counts(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each of the 256 levels occurs in each channel, (C, 256), counted in a few images at a time."""
    counts = np.zeros((pixels.shape[-1], 256), np.int64)
    for start in range(0, len(pixels), CHUNK):
        channels = pixels[start : start + CHUNK].reshape(-1, pixels.shape[-1]).T
        counts += [np.bincount(channel, minlength=256) for channel in channels]
    return counts
