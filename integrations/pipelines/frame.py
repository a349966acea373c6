"""Between images of the working size and latents of the size that a pipeline works at."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffaug.data.resize import fit_to_size, to_channels
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.process.process import SIGMA_DATA
from diffaug.integrations.pipelines.families import family_of, vae_factor
from diffaug.integrations.pipelines.loading import LoadedPipeline

PIXELS_AT_ONCE = 8 * 512 * 512
"""Of the images that pass through the network together, which bounds memory."""


def inner_size(image_size: tuple[int, int], loaded: LoadedPipeline, side: int | None = None) -> tuple[int, int]:
    """Height and width in px at which a pipeline works on images of this size.

    As many pixels as the square images that it was trained on, or as a square of `side`, in the images' proportions;
    both are multiples of what the pipeline needs. A pipeline of square images works on squeezed ones.
    """
    family = family_of(loaded)
    side, step = side or family.native_side(loaded), family.multiple(loaded)
    scale = sqrt(1.0 if family.is_square else image_size[0] / image_size[1])
    height, width = (max(step, step * round(length / step)) for length in (side * scale, side / scale))
    return height, width


@dataclass(frozen=True)
class Frame:
    """The size and channels of images, and the size that the pipeline works at."""

    image_size: tuple[int, int]
    channels: int
    inner: tuple[int, int]

    @property
    def at_once(self) -> int:
        """Images that are sampled together."""
        return max(1, PIXELS_AT_ONCE // (self.inner[0] * self.inner[1]))

    def latent_shape(self, loaded: LoadedPipeline) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        factor = vae_factor(loaded)
        return int(loaded.vae.config.latent_channels), self.inner[0] // factor, self.inner[1] // factor

    def enlarged(self, images: NDArray[np.uint8]) -> Tensor:
        """Images uint8 (N, H, W, C) as the VAE sees them: RGB float32 (N, 3, h, w) in [-1, 1]."""
        fitted = [fit_to_size(to_channels(image, 3), self.inner) for image in images]
        return torch.from_numpy(np.stack(fitted)).float().permute(0, 3, 1, 2) / 127.5 - 1

    def reduced(self, decoded: Tensor) -> Decoded:
        """The inverse of `enlarged`, antialiased; gray is the luma. An image with a non-finite value is all zero."""
        finite = torch.isfinite(decoded).flatten(1).all(dim=1)
        kept = torch.where(finite[:, None, None, None], decoded, decoded.new_full((), -1.0))
        pixels = ((kept.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        images = [fit_to_size(to_channels(np.ascontiguousarray(one), self.channels), self.image_size) for one in pixels]
        return Decoded(np.stack(images), finite.cpu().numpy())

    def latent_masks(self, masks: NDArray[np.bool_], loaded: LoadedPipeline) -> Tensor:
        """Which latents show some of the masked pixels; masks are bool (N, H, W), the result bool (N, 1, h, w)."""
        given = torch.from_numpy(masks[:, None]).float()
        rows, columns = (torch.arange(size) for size in self.inner)
        enlarged = given[:, :, rows * self.image_size[0] // self.inner[0]]
        enlarged = enlarged[:, :, :, columns * self.image_size[1] // self.inner[1]]
        if any(large > small for large, small in zip(self.image_size, self.inner, strict=True)):
            enlarged = torch.maximum(enlarged, functional.adaptive_max_pool2d(given, self.inner))
        return functional.max_pool2d(enlarged, vae_factor(loaded)) > 0


@torch.no_grad()
def latent_moments(loaded: LoadedPipeline, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents (N, C, h, w) of what `Frame.enlarged` returns, one image at a time."""
    means, deviations = [], []
    for image in pixels.split(1):
        encoded = loaded.vae.encode(image.to(loaded.device, torch.float32))
        if hasattr(encoded, "latent_dist"):
            means.append(encoded.latent_dist.mean)
            deviations.append(encoded.latent_dist.std)
        else:  # the tiny autoencoder
            means.append(encoded.latents)
            deviations.append(torch.zeros_like(encoded.latents))
    scale = SIGMA_DATA * loaded.vae.config.scaling_factor
    return scale * (torch.cat(means) - _latent_shift(loaded)), scale * torch.cat(deviations)


@torch.no_grad()
def decode_latents(loaded: LoadedPipeline, latents: Tensor) -> Tensor:
    """Latents (N, C, h, w) as RGB (N, 3, H, W), about in [-1, 1], one image at a time."""
    scaled = latents.float() / (SIGMA_DATA * loaded.vae.config.scaling_factor) + _latent_shift(loaded)
    return torch.cat([loaded.vae.decode(one, return_dict=False)[0] for one in scaled.split(1)])


def _latent_shift(loaded: LoadedPipeline) -> float:
    return float(loaded.vae.config.get("shift_factor", None) or 0.0)
