r"""The noise process in the discrete formulation of DDPM (Ho et al. 2020, arXiv 2006.11239).

Time steps t count from zero: x_0 of the papers' q(x_0) is called x0 here, and t = 0 is the image after the
first step of noise. So `alpha_bars[t]` is the product of alphas 0 to t, and the image before t = 0 is x0,
with alpha_bar 1 and sigma 0. Dividing x_t by sqrt(alpha_bar_t) gives the coordinates of `process`, with
sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffaug.diffusion.process.process import Moments

MAX_COSINE_BETA = 0.999
COSINE_OFFSET = 0.008


def cosine_betas(num_train_timesteps: int) -> Tensor:
    """Betas for which alpha_bar falls like cos^2 (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17)."""
    u = torch.linspace(0, 1, num_train_timesteps + 1, dtype=torch.float64)
    survival = torch.cos((u + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
    return (1 - survival[1:] / survival[:-1]).clamp(max=MAX_COSINE_BETA)


@dataclass(frozen=True, eq=False)
class DiscreteProcess:
    """A DDPM noise process of T steps; every table is float64 (T,), indexed by the zero-based t.

    Attributes:
        posterior_variance: Of q(x_{t-1} | x_t, x0); 0 at t = 0.
        posterior_log_variance: Its logarithm, at t = 0 that of t = 1.
        sigmas: Noise levels in EDM's coordinates, increasing.
    """

    betas: Tensor
    alphas: Tensor
    alpha_bars: Tensor
    posterior_variance: Tensor
    posterior_log_variance: Tensor
    sigmas: Tensor

    @classmethod
    def of(cls, betas: Tensor) -> DiscreteProcess:
        """Derives all tables from two or more betas float64 (T,) strictly between 0 and 1."""
        alphas = 1 - betas
        alpha_bars = alphas.cumprod(0)
        before = _shifted(alpha_bars, 1.0)
        variance = betas * (1 - before) / (1 - alpha_bars)
        clipped = torch.cat([variance[1:2], variance[1:]])
        return cls(betas, alphas, alpha_bars, variance, clipped.log(), ((1 - alpha_bars) / alpha_bars).sqrt())

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def previous_alpha_bars(self) -> Tensor:
        """alpha_bar of t - 1, float64 (T,); 1 at t = 0."""
        return _shifted(self.alpha_bars, 1.0)

    @property
    def previous_sigmas(self) -> Tensor:
        """Sigma of t - 1, float64 (T,); 0 at t = 0."""
        return _shifted(self.sigmas, 0.0)

    def to(self, device: torch.device | str) -> DiscreteProcess:
        """The same process with its tables on `device`."""
        return DiscreteProcess(*(getattr(self, field.name).to(device) for field in fields(self)))

    def posterior(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Moments:
        """Mean and variance of q(x_{t-1} | x_t, x0), DDPM eq. 6 and 7."""
        before, remaining = self.previous_alpha_bars, 1 - self.alpha_bars
        of_x0 = before.sqrt() * self.betas / remaining
        of_x_t = self.alphas.sqrt() * (1 - before) / remaining
        mean = gather(of_x0, t, x0) * x0 + gather(of_x_t, t, x0) * x_t
        return Moments(mean, gather(self.posterior_variance, t, x0).expand_as(mean))

    def timestep_of(self, sigma: Tensor) -> Tensor:
        """Continuous time steps float64 (N,) of noise levels (N,), within 0..T-1; linear in log sigma between steps."""
        log_sigmas, wanted = self.sigmas.log(), sigma.double().log()
        upper = torch.searchsorted(log_sigmas, wanted).clamp(0, len(self) - 1)
        lower = (upper - 1).clamp(min=0)
        width = (log_sigmas[upper] - log_sigmas[lower]).clamp(min=torch.finfo(torch.float64).tiny)
        share = ((wanted - log_sigmas[lower]) / width).clamp(0, 1)
        return torch.lerp(lower.double(), upper.double(), share)


def gather(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """The table's value for each of t, int64 (N,), in the dtype of `like` and shaped to broadcast against it."""
    return table[t].to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def _shifted(table: Tensor, first: float) -> Tensor:
    return torch.cat([table.new_full((1,), first), table[:-1]])
