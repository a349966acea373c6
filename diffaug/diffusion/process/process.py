r"""The noise process of EDM (Karras et al. 2022, arXiv 2206.00364).

The forward process is x = x0 + sigma n with n ~ N(0, I), which is the DDPM process in closed form after
dividing by sqrt(alpha_bar): sigma = sqrt((1 - alpha_bar) / alpha_bar). Images are normalized so that their
second moment is `SIGMA_DATA` squared.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SIGMA_DATA = 0.5
SIGMA_MIN = 0.002
SIGMA_MAX = 80.0
RHO = 7.0


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


def karras_sigmas(num_inference_steps: int, strength: float = 1.0) -> Tensor:
    """Noise levels from 80 down to 0.002, then 0, float64 (num_inference_steps + 1,); EDM eq. 5 with rho = 7.

    A strength in (0, 1) begins at this fraction of the way up from 0.002.
    """
    ramp = torch.linspace(1 - strength, 1, num_inference_steps, dtype=torch.float64)
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return torch.cat([(high + ramp * (low - high)) ** RHO, ramp.new_zeros(1)])
