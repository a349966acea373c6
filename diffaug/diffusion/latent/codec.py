"""Between the pixels of images of one size and the latents of an autoencoder, with bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from diffaug.data.resize import to_channels
from diffaug.diffusion.latent.autoencoder import Autoencoder, Encoded
from diffaug.diffusion.process.normalization import Decoded
from diffaug.errors import UsageError

PIXELS_AT_ONCE = {"cpu": 256 * 256, "cuda": 16 * 512 * 512}
"""Pixels of a batch. The largest usual autoencoders take 5 KB for each on the way."""

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Codec:
    """Encodes and decodes images of one shape.

    Gray images become RGB for an autoencoder of RGB images; the mean of the channels it makes is gray again. Sides that
    are no multiple of the stride are continued mirrored below and on the right, and what is decoded there is cut off.

    Attributes:
        image_size: Height and width of the images in px.
        channels: Of the images, 1 gray, 3 RGB.
    """

    autoencoder: Autoencoder
    image_size: tuple[int, int]
    channels: int

    def __post_init__(self) -> None:
        """Raises a UsageError if colors would be lost."""
        if self.channels == 3 and self.autoencoder.image_channels == 1:
            what = "the autoencoder is one of gray images, and these are RGB"
            raise UsageError(what, fix="--set data.channels=1 makes them gray; or give an autoencoder of RGB images")

    @property
    def latent_shape(self) -> Shape:
        """Channels, height and width of the latents of an image."""
        height, width = (-(-length // self.autoencoder.stride) for length in self.image_size)
        return self.autoencoder.latent_channels, height, width

    @property
    def margins(self) -> tuple[int, int]:
        """By how many px an image is continued below and on the right."""
        height, width = (-length % self.autoencoder.stride for length in self.image_size)
        return height, width

    def encode(self, pixels: NDArray[np.uint8]) -> Encoded:
        """Images uint8 (N, H, W, C) to their latents, float32 (N, *latent_shape) on the autoencoder's device."""
        if not len(pixels):
            return Encoded(torch.zeros(0, *self.latent_shape, device=self.autoencoder.device), None)
        below, right = self.margins
        padded = np.pad(pixels, ((0, 0), (0, below), (0, right), (0, 0)), mode="symmetric")
        parts = [self._encoded(part) for part in np.split(padded, self._ends(len(pixels)))]
        variances = [part.log_variance for part in parts if part.log_variance is not None]
        return Encoded(torch.cat([part.mean for part in parts]), torch.cat(variances) if variances else None)

    def decode(self, latents: Tensor) -> Decoded:
        """Latents (N, *latent_shape) to images; see `Decoded`."""
        if not len(latents):
            return Decoded(np.zeros((0, *self.image_size, self.channels), np.uint8), np.zeros(0, np.bool_))
        finite = latents.isfinite().flatten(1).all(dim=1)
        parts = [self._decoded(part) for part in torch.tensor_split(latents, self._ends(len(latents)))]
        images = torch.cat(parts)
        finite &= images.isfinite().flatten(1).all(dim=1)
        kept = torch.where(finite[:, None, None, None], images, torch.full_like(images, -1))
        pixels = ((kept + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return Decoded(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), finite.cpu().numpy())

    def covered(self, masks: Tensor) -> Tensor:
        """The latent positions, bool (N, 1, h, w), in whose squares a pixel of masks bool (N, 1, H, W) lies."""
        below, right = self.margins
        whole = pad(masks.float(), (0, right, 0, below))
        return max_pool2d(whole, self.autoencoder.stride) > 0

    def _encoded(self, pixels: NDArray[np.uint8]) -> Encoded:
        wanted, device = self.autoencoder.image_channels, self.autoencoder.device
        shown = torch.from_numpy(np.stack([to_channels(image, wanted) for image in pixels])).to(device)
        with torch.autocast(device.type, enabled=False):
            return self.autoencoder.encode((shown.float() / 127.5 - 1).permute(0, 3, 1, 2))

    def _decoded(self, latents: Tensor) -> Tensor:
        """Float (n, C, H, W), about in [-1, 1]."""
        with torch.autocast(latents.device.type, enabled=False):
            images = self.autoencoder.decode(latents.float())
        height, width = self.image_size
        images = images[..., :height, :width]
        return images.mean(dim=1, keepdim=True) if self.channels == 1 else images

    def _ends(self, count: int) -> list[int]:
        """Where batches end, of so many images."""
        size = (self.image_size[0] + self.margins[0]) * (self.image_size[1] + self.margins[1])
        at_once = max(1, PIXELS_AT_ONCE["cpu" if self.autoencoder.device.type == "cpu" else "cuda"] // size)
        return list(range(at_once, count, at_once))
