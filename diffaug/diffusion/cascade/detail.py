r"""What the super-resolution network learns: the detail of an image, given a smaller and noisy view of it.

The view is c = U(z + s n): the small image z with white noise of level s, enlarged by the fixed linear map U
(noise-conditioning augmentation, Ho et al. 2021, arXiv 2106.15282, section 4.2; Saharia et al. 2022, arXiv 2205.11487).
The detail is y = (x - c) SIGMA_DATA / rho with rho^2 = rho_0^2 + k s^2, where rho_0 is the expected deviation of
x - U(z) and k the mean square of enlarged noise. So y has the variance that the denoiser expects at every level, and
the network may repair what the base got wrong below the level.

Some images have ten times the detail of others. What the small image itself would lose by halving tells how much: rho_0
is that times a ratio. On the training images of neu-lt this leaves a deviation of 0.14 of the log of 0.67.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffaug.diffusion.cascade.reducing import Reduction
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.process import SIGMA_DATA, per_image

LEAST_DETAIL = 0.0025
"""Of a normalized image, whose deviation is 0.5; where nothing is lost, there is nothing to divide by."""
MOST_MEASURED, MEASURED_AT_ONCE = 1024, 32


@dataclass(frozen=True)
class View:
    """What is known of a batch of images: enlarged views (N, C, H, W), their noise levels (N,) and rho (N, C, 1, 1)."""

    enlarged: Tensor
    levels: Tensor
    scale: Tensor

    @property
    def conditions(self) -> Tensor:
        """As the network takes them: about unit variance, and the level as a last channel, (N, C + 1, H, W)."""
        levels = per_image(self.levels).expand(-1, 1, *self.enlarged.shape[2:])
        return torch.cat([self.enlarged / SIGMA_DATA, levels], dim=1)

    def detail(self, images: Tensor) -> Tensor:
        """What images (N, C, H, W) have beyond the views, about `SIGMA_DATA` in deviation."""
        return (images - self.enlarged) * (SIGMA_DATA / self.scale)

    def with_detail(self, detail: Tensor) -> Tensor:
        """The images that have this detail."""
        return self.enlarged + detail * (self.scale / SIGMA_DATA)


@dataclass(frozen=True)
class DetailScale:
    """What turns images into views and details.

    Attributes:
        normalization: Of the full images, and of the small ones as well.
        ratios: Of each channel, rho_0 over what small images lose by halving.
    """

    reduction: Reduction
    normalization: Normalization
    ratios: tuple[float, ...]

    @classmethod
    def of(
        cls, pixels: NDArray[np.uint8], small: NDArray[np.uint8], reduction: Reduction, normalization: Normalization
    ) -> DetailScale:
        """Measures the ratios on images uint8 (N, H, W, C) and what the base makes of them (N, h, w, C).

        Of more than 1024 images so many at equal distances count.
        """
        squares = np.zeros(pixels.shape[3])
        chosen = np.unique(np.linspace(0, len(pixels) - 1, min(MOST_MEASURED, len(pixels))).round().astype(np.int64))
        for start in range(0, len(chosen), MEASURED_AT_ONCE):
            part = chosen[start : start + MEASURED_AT_ONCE]
            large, low = (normalization.to_network(torch.from_numpy(np.array(one[part]))) for one in (pixels, small))
            lost = (large - reduction.enlarged(low)).square().mean(dim=(2, 3)) / lost_by_halving(low).square()
            squares += lost.double().sum(dim=0).numpy()
        return cls(reduction, normalization, tuple(np.sqrt(squares / len(chosen)).tolist()))

    def view(self, small: Tensor, levels: Tensor, noise: Tensor) -> View:
        """The views of small images uint8 (N, h, w, C) at levels (N,) with white noise (N, C, h, w)."""
        images = self.normalization.to_network(small)
        ratios = torch.tensor(self.ratios, device=images.device)
        expected = (ratios * lost_by_halving(images)).clamp_min(LEAST_DETAIL)
        scale = (expected.square() + self.reduction.noise_gain * levels[:, None].square()).sqrt()
        noisy = images + per_image(levels) * noise
        return View(self.reduction.enlarged(noisy), levels, scale[:, :, None, None])


def lost_by_halving(images: Tensor) -> Tensor:
    """The root mean square of what images (N, C, h, w) lose at half the size, antialiased; (N, C)."""
    size = images.shape[-2:]
    half = [max(1, (length + 1) // 2) for length in size]
    halved = functional.interpolate(images.float(), half, mode="bicubic", antialias=True)
    lost = images - functional.interpolate(halved, size, mode="bicubic")
    return lost.square().mean(dim=(2, 3)).sqrt().clamp_min(LEAST_DETAIL)
