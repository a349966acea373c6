r"""The noise process in the continuous formulation of EDM (Karras et al. 2022, arXiv 2206.00364).

The forward process is x = x0 + sigma n with n ~ N(0, I), which is the DDPM process in closed form after
dividing by sqrt(alpha_bar): sigma = sqrt((1 - alpha_bar) / alpha_bar). Images are normalised so that their
second moment is `SIGMA_DATA` squared.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SIGMA_DATA = 0.5
SIGMA_MIN = 0.002
SIGMA_MAX = 80.0
RHO = 7.0
LOG_SIGMA_MEAN = -1.2
LOG_SIGMA_STD = 1.2


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
    """EDM's preconditioning, for which the network's input and target have unit variance.

    Args:
        sigma: Noise levels, positive, any shape.
    """
    total = (sigma**2 + SIGMA_DATA**2).sqrt()
    return Preconditioning(
        c_skip=SIGMA_DATA**2 / total**2,
        c_out=sigma * SIGMA_DATA / total,
        c_in=1 / total,
        c_noise=sigma.log() / 4,
    )


def diffuse(x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Draws from q(x | x0) by the reparameterization trick.

    Args:
        x0: Clean images (N, C, H, W).
        sigma: Noise levels (N,).
        noise: Standard normal (N, C, H, W).
    """
    return x0 + sigma[:, None, None, None] * noise


def reverse_step(x: Tensor, clean: Moments, sigma: float, next_sigma: float) -> Moments:
    r"""Mean and variance of q(x_s | x_t), one step of the reverse process from `sigma` to `next_sigma`.

    With r = s^2 / t^2 the mean is r x + (1 - r) E[x0 | x] and the variance s^2 (1 - r) + (1 - r)^2 Var[x0 | x]:
    the posterior of DDPM (Ho et al. 2020, arXiv 2006.11239, eq. 7) averaged over what x0 may be, as in Analytic-DPM
    (Bao et al. 2022, arXiv 2201.06503). No variance gives DDPM's lower bound; that of white data its upper one.

    Args:
        x: Noisy images (N, C, H, W) at noise level `sigma`.
        clean: Mean and variance of the clean image given `x`.
        sigma: Noise level t of `x`.
        next_sigma: Noise level s < t.
    """
    ratio = (next_sigma / sigma) ** 2
    mean = ratio * x + (1 - ratio) * clean.mean
    return Moments(mean, next_sigma**2 * (1 - ratio) + (1 - ratio) ** 2 * clean.variance)


def draw_training_sigmas(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels for one batch, ln sigma ~ N(-1.2, 1.2^2), stratified over the batch.

    One level falls into each of `count` equally likely strata, so the batch covers the range and the loss
    varies less than with independent draws.

    Returns:
        Noise levels (N,), in random order, on the generator's device.
    """
    device = generator.device
    offsets = torch.rand(count, generator=generator, device=device)
    strata = torch.randperm(count, generator=generator, device=device)
    quantiles = ((strata + offsets) / count).clamp(1e-6, 1 - 1e-6)
    log_sigma: Tensor = LOG_SIGMA_MEAN + LOG_SIGMA_STD * torch.special.ndtri(quantiles)
    return log_sigma.exp()


def karras_sigmas(num_inference_steps: int, strength: float = 1.0) -> Tensor:
    """Noise levels from 80 down to 0.002, then 0; EDM eq. 5 with rho = 7.

    Args:
        num_inference_steps: Levels above 0.
        strength: Where to begin, in (0, 1]: 1 at the top, lower values at this position of the way up from 0.002.

    Returns:
        float64 (num_inference_steps + 1,).
    """
    ramp = torch.linspace(1 - strength, 1, num_inference_steps, dtype=torch.float64)
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return torch.cat([(high + ramp * (low - high)) ** RHO, ramp.new_zeros(1)])
