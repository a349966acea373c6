r"""The noise process of EDM (Karras et al. 2022, arXiv 2206.00364).

The forward process is x = x0 + sigma n with n ~ N(0, I), which is the DDPM process in closed form after
dividing by sqrt(alpha_bar): sigma = sqrt((1 - alpha_bar) / alpha_bar). Images are normalized so that their
second moment is `SIGMA_DATA` squared.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SIGMA_DATA = 0.5
SIGMA_MIN = 0.002
SIGMA_MAX = 80.0
RHO = 7.0
UNSCALED_SIDE = 64
MEASURED_SIGMAS = tuple(float(sigma) for sigma in np.geomspace(0.05, 5.0, 8).round(3))
"""Noise levels at which the error of denoising given images is measured, before they are scaled."""


class Moments(NamedTuple):
    """Mean and variance of an image's distribution, each (N, C, H, W)."""

    mean: Tensor
    variance: Tensor


class Preconditioning(NamedTuple):
    """Factors of D(x; sigma) = c_skip x + c_out F(c_in x; c_noise); EDM table 1, last column."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def precondition(sigma: Tensor) -> Preconditioning:
    """EDM's preconditioning, for which the network's input and target have unit variance."""
    total = (sigma**2 + SIGMA_DATA**2).sqrt()
    return Preconditioning(SIGMA_DATA**2 / total**2, sigma * SIGMA_DATA / total, 1 / total, sigma.log() / 4)


def diffuse(x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Draws from q(x | x0) by the reparameterization trick; sigma is (N,), the noise standard normal."""
    return x0 + per_image(sigma) * noise


def reverse_step(x: Tensor, clean: Moments, sigma: float, next_sigma: float) -> Moments:
    """Mean and variance of q(x_s | x_t), one step of the reverse process from level t, `sigma`, to s.

    With r = s^2 / t^2 the mean is r x + (1 - r) E[x0 | x] and the variance s^2 (1 - r) + (1 - r)^2 Var[x0 | x]:
    the posterior of DDPM (Ho et al. 2020, arXiv 2006.11239, eq. 7) averaged over what x0 may be, as in Analytic-DPM
    (Bao et al. 2022, arXiv 2201.06503). No variance gives DDPM's lower bound; that of white data its upper one.
    """
    ratio = (next_sigma / sigma) ** 2
    mean = ratio * x + (1 - ratio) * clean.mean
    return Moments(mean, next_sigma**2 * (1 - ratio) + (1 - ratio) ** 2 * clean.variance)


def per_image(values: Tensor) -> Tensor:
    """(N,) to (N, 1, 1, 1)."""
    return values[:, None, None, None]


def stratified_draws(count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """One uniform draw from each of `count` equal parts of [0, 1), in random order."""
    offsets = torch.rand(count, generator=generator, device=generator.device, dtype=dtype)
    strata = torch.randperm(count, generator=generator, device=generator.device)
    return (strata + offsets) / count


def noise_scale_of(image_size: tuple[int, int]) -> float:
    """Factor on all noise levels of images of more than 64 x 64 px: d / 64 for the side d of a square of equal area.

    Noise of deviation sigma has one of sigma 64 / d in the mean over (d / 64)^2 pixels. With this factor an object
    vanishes in the noise at the same place of the process however many pixels show it (Hoogeboom et al. 2023,
    arXiv 2301.11093, section 3.1; Chen 2023, arXiv 2301.10972).
    """
    return max(1.0, math.sqrt(math.prod(image_size)) / UNSCALED_SIDE)


def karras_sigmas(num_inference_steps: int, strength: float = 1.0, noise_scale: float = 1.0) -> Tensor:
    """Noise levels from 80 down to 0.002, then 0, float64 (num_inference_steps + 1,); EDM eq. 5 with rho = 7.

    A strength in (0, 1) begins at this fraction of the way up from 0.002. All levels are multiplied by the noise scale.
    """
    ramp = torch.linspace(1 - strength, 1, num_inference_steps, dtype=torch.float64)
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return torch.cat([noise_scale * (high + ramp * (low - high)) ** RHO, ramp.new_zeros(1)])
