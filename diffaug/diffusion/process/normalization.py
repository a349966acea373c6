"""Between pixels and what the network sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.diffusion.process.process import SIGMA_DATA

MIN_STD = 1 / 255
CHUNK = 64


class Decoded(NamedTuple):
    """Pixels uint8 (N, H, W, C), all zero where `finite`, bool (N,), is false for a non-finite value."""

    pixels: NDArray[np.uint8]
    finite: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Iterable[Decoded], shape: tuple[int, int, int]) -> Decoded:
        """Several as one; without any, no images of the shape (H, W, C)."""
        none = cls(np.zeros((0, *shape), np.uint8), np.zeros(0, np.bool_))
        return cls(*(np.concatenate(columns) for columns in zip(none, *parts, strict=True)))


@dataclass(frozen=True)
class Normalization:
    """Shifts and scales each channel so that the training images have mean 0 and deviation `SIGMA_DATA`.

    EDM's loss is 1 at the start only if the data's second moment is sigma_data squared; images with a dark
    background are far from that in [-1, 1]. `mean` and `std` are those of each channel for pixels in [-1, 1], or of
    whatever else the network sees.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Normalization:
        """Measures uint8 (N, H, W, C), a few images at a time."""
        counts, levels = np.zeros((pixels.shape[-1], 256), np.int64), np.arange(256) / 127.5 - 1
        for start in range(0, len(pixels), CHUNK):
            channels = pixels[start : start + CHUNK].reshape(-1, pixels.shape[-1]).T
            counts += [np.bincount(channel, minlength=256) for channel in channels]
        shares = counts / counts.sum(axis=1, keepdims=True)
        mean = shares @ levels
        std = np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(axis=1))
        return cls(tuple(mean.tolist()), tuple(np.maximum(std, MIN_STD).tolist()))

    def to_network(self, pixels: Tensor) -> Tensor:
        """uint8 (N, H, W, C) to normalized float32 (N, C, H, W)."""
        scaled = pixels.float() / 127.5 - 1
        mean, std = (
            torch.tensor(values).to(scaled.device, non_blocking=True)  # no step waits for the device
            for values in (self.mean, self.std)
        )
        return ((scaled - mean) * (SIGMA_DATA / std)).permute(0, 3, 1, 2)

    def normalize(self, values: Tensor) -> Tensor:
        """Values (N, C, H, W), such as latents, to mean 0 and deviation `SIGMA_DATA` per channel."""
        mean, std = self._columns(values)
        return (values - mean) * (SIGMA_DATA / std)

    def denormalize(self, normalized: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        mean, std = self._columns(normalized)
        return normalized * (std / SIGMA_DATA) + mean

    def to_pixels(self, images: Tensor) -> Decoded:
        """Normalized (N, C, H, W) to uint8 (N, H, W, C); an image with a non-finite value becomes all zero."""
        finite = torch.isfinite(images).flatten(1).all(dim=1)
        per_image = finite[:, None, None, None]
        kept = torch.where(per_image, images, torch.zeros_like(images)).float().permute(0, 2, 3, 1)
        mean, std = kept.new_tensor(self.mean), kept.new_tensor(self.std)
        scaled = kept * (std / SIGMA_DATA) + mean
        pixels = ((scaled + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        pixels = torch.where(per_image, pixels, torch.zeros_like(pixels))
        return Decoded(pixels.cpu().numpy(), finite.cpu().numpy())

    def _columns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (C, 1, 1) on the device of `like`, without waiting for it."""
        mean, std = (
            torch.tensor(numbers)[:, None, None].to(like.device, non_blocking=True) for numbers in (self.mean, self.std)
        )
        return mean, std
