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

from diffaug.diffusion.process.process import Moments, karras_sigmas
from diffaug.errors import UsageError

MAX_COSINE_BETA = 0.999
COSINE_OFFSET = 0.008


def linear_betas(num_train_timesteps: int) -> Tensor:
    """DDPM's betas from 1e-4 to .02 for 1000 steps, scaled by 1000 / T so that other T end in noise as well.

    Returns:
        float64 (T,).

    Raises:
        UsageError: T is 20 or less, which would need a beta of 1 or more.
    """
    scale = 1000 / num_train_timesteps if num_train_timesteps > 0 else math.inf
    if scale * 0.02 >= 1:
        raise UsageError(
            f"a linear schedule can't have {num_train_timesteps} steps", fix="take more than 20, or the cosine schedule"
        )
    return torch.linspace(scale * 1e-4, scale * 0.02, num_train_timesteps, dtype=torch.float64)


def cosine_betas(num_train_timesteps: int) -> Tensor:
    """Betas for which alpha_bar falls like cos^2 (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17).

    Returns:
        float64 (T,), at most .999.
    """
    u = torch.linspace(0, 1, num_train_timesteps + 1, dtype=torch.float64)
    survival = torch.cos((u + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
    return (1 - survival[1:] / survival[:-1]).clamp(max=MAX_COSINE_BETA)


def karras_betas(num_train_timesteps: int) -> Tensor:
    """Betas whose sigmas are the grid of `karras_sigmas`, from 0.002 up to 80.

    From alpha_bar = 1 / (1 + sigma^2) follows beta_t = (sigma_t^2 - sigma_{t-1}^2) / (1 + sigma_t^2).

    Returns:
        float64 (T,).
    """
    variances = karras_sigmas(num_train_timesteps)[:-1].flip(0).square()
    betas: Tensor = variances.diff(prepend=variances.new_zeros(1)) / (1 + variances)
    return betas


@dataclass(frozen=True, eq=False)
class DiscreteProcess:
    """A DDPM noise process of T steps; every table is float64 (T,), indexed by the zero-based t.

    Attributes:
        betas: Variance of the noise that step t adds.
        alphas: 1 - beta.
        alpha_bars: Share of the clean image's variance left after step t.
        posterior_variance: Of q(x_{t-1} | x_t, x0); 0 at t = 0.
        posterior_log_variance: Its logarithm, at t = 0 that of t = 1 (of beta where there is no t = 1).
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
        """Derives all tables from the betas.

        Raises:
            UsageError: There is no beta, or one is not strictly between 0 and 1.
        """
        betas = betas.double()
        if betas.ndim != 1 or len(betas) == 0 or not bool(((betas > 0) & (betas < 1)).all()):
            raise UsageError("betas must be one or more numbers strictly between 0 and 1", where="betas")
        alphas = 1 - betas
        alpha_bars = alphas.cumprod(0)
        before = _shifted(alpha_bars, 1.0)
        variance = betas * (1 - before) / (1 - alpha_bars)
        clipped = torch.cat([variance[1:2] if len(betas) > 1 else betas, variance[1:]])
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

    def step(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draws from q(x_t | x_{t-1}), DDPM eq. 2.

        Args:
            x: Images before step t (N, C, H, W).
            t: Time steps, int64 (N,).
            noise: Standard normal, as x.
        """
        return gather(self.alphas.sqrt(), t, x) * x + gather(self.betas.sqrt(), t, x) * noise

    def diffuse(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draws from q(x_t | x0) by the reparameterization trick, DDPM eq. 4.

        Args:
            x0: Clean images (N, C, H, W).
            t: Time steps, int64 (N,).
            noise: Standard normal, as x0.
        """
        signal, spread = self.alpha_bars.sqrt(), (1 - self.alpha_bars).sqrt()
        return gather(signal, t, x0) * x0 + gather(spread, t, x0) * noise

    def posterior(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Moments:
        """Mean and variance of q(x_{t-1} | x_t, x0), DDPM eq. 6 and 7.

        Args:
            x0: Clean images (N, C, H, W).
            x_t: Noisy images, as x0.
            t: Time steps, int64 (N,).
        """
        before, remaining = self.previous_alpha_bars, 1 - self.alpha_bars
        of_x0 = before.sqrt() * self.betas / remaining
        of_x_t = self.alphas.sqrt() * (1 - before) / remaining
        mean = gather(of_x0, t, x0) * x0 + gather(of_x_t, t, x0) * x_t
        return Moments(mean, gather(self.posterior_variance, t, x0).expand_as(mean))

    def respaced(self, num_inference_steps: int) -> tuple[DiscreteProcess, Tensor]:
        """The process seen at fewer, evenly spaced time steps, the last always among them.

        Its betas are 1 - alpha_bar / previous kept alpha_bar (arXiv 2102.09672, eq. 19), so that alpha_bar is
        what it was at every kept step.

        Returns:
            The process, and the original time step of each of its own, int64 (num_inference_steps,), increasing.

        Raises:
            UsageError: The number is not in 1..T.
        """
        if not 1 <= num_inference_steps <= len(self):
            raise UsageError(
                f"can't take {num_inference_steps} of {len(self)} time steps", fix=f"take 1 to {len(self)}"
            )
        spaced = torch.linspace(len(self) - 1, 0, num_inference_steps, dtype=torch.float64, device=self.betas.device)
        kept = spaced.round().long().flip(0)
        alpha_bars = self.alpha_bars[kept]
        neighbours = kept.diff(prepend=kept.new_tensor([-1])) == 1
        # a beta between neighbours is kept to the last bit, which the quotient would not do
        betas = torch.where(neighbours, self.betas[kept], 1 - alpha_bars / _shifted(alpha_bars, 1.0))
        return DiscreteProcess.of(betas), kept

    def prior_kl(self, x0: Tensor) -> Tensor:
        """KL of q(x_T | x0) from the isotropic N(0, I), the L_T of DDPM eq. 5.

        Args:
            x0: Clean images (N, C, H, W).

        Returns:
            Bits per dimension (N,); 0 means that nothing of the image is left.
        """
        signal = self.alpha_bars[-1].to(x0)
        nats = 0.5 * (signal * x0.square() - signal - torch.log1p(-signal))
        return nats.flatten(1).mean(dim=1) / math.log(2)

    def sigma_of(self, t: Tensor) -> Tensor:
        """Noise levels float64 (N,) of time steps (N,); between whole steps linear in log sigma."""
        if not t.is_floating_point():
            return self.sigmas[t]
        lower = t.floor().long().clamp(0, len(self) - 1)
        upper = (lower + 1).clamp(max=len(self) - 1)
        log_sigmas = self.sigmas.log()
        return torch.lerp(log_sigmas[lower], log_sigmas[upper], (t - lower).double()).exp()

    def timestep_of(self, sigma: Tensor) -> Tensor:
        """Continuous time steps float64 (N,) of noise levels (N,), the inverse of `sigma_of`, within 0..T-1."""
        log_sigmas, wanted = self.sigmas.log(), sigma.double().log()
        upper = torch.searchsorted(log_sigmas, wanted).clamp(0, len(self) - 1)
        lower = (upper - 1).clamp(min=0)
        width = (log_sigmas[upper] - log_sigmas[lower]).clamp(min=torch.finfo(torch.float64).tiny)
        share = ((wanted - log_sigmas[lower]) / width).clamp(0, 1)
        return torch.lerp(lower.double(), upper.double(), share)


def gather(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """The table's value for each image, shaped to broadcast against the images.

    Args:
        table: (T,).
        t: Time steps, int64 (N,).
        like: Images (N, ...), whose dtype the result takes.

    Returns:
        (N, 1, ..., 1).
    """
    return table[t].to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def _shifted(table: Tensor, first: float) -> Tensor:
    return torch.cat([table.new_full((1,), first), table[:-1]])
