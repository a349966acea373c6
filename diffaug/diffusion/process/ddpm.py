r"""The objective of improved DDPM (Nichol & Dhariwal 2021, arXiv 2102.09672): noise and learned-range variance.

The network's first half of channels estimates the noise, the second half v says where the log variance of
p(x_{t-1} | x_t) lies between its bounds, the posterior variance (v = -1) and beta (v = 1). `Ddpm` translates
both into the moments of the clean image, so that every sampler serves this objective as it does EDM's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffaug.diffusion.process.boxes import image_mean
from diffaug.diffusion.process.discrete import DiscreteProcess, cosine_betas, gather
from diffaug.diffusion.process.edm import Losses
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.process import SIGMA_DATA, Moments, per_image, stratified_draws

NUM_TRAIN_TIMESTEPS = 1000
VARIATIONAL_WEIGHT = 0.001


@dataclass(frozen=True)
class PixelBins:
    """Where the 256 levels of a pixel lie in the network's coordinates; numbers, or (C, 1, 1)."""

    half_width: float | Tensor = 1 / 255
    low: float | Tensor = -1.0
    high: float | Tensor = 1.0

    @classmethod
    def of(cls, normalization: Normalization) -> PixelBins:
        """The bins of images normalized this way."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (normalization.mean, normalization.std))
        scale = SIGMA_DATA / std
        return cls(scale / 255, (-1 - mean) * scale, (1 - mean) * scale)

    def to(self, device: torch.device) -> PixelBins:
        """The same bins on `device`."""
        edges = (self.half_width, self.low, self.high)
        return PixelBins(*(edge.to(device) if isinstance(edge, Tensor) else edge for edge in edges))


class Ddpm:
    """Noise prediction with learned-range variance, trained by L_hybrid (arXiv 2102.09672, eq. 15 and 16)."""

    def __init__(self, bins: PixelBins | None = None) -> None:
        self.process = DiscreteProcess.of(cosine_betas(NUM_TRAIN_TIMESTEPS))
        self.bins = bins or PixelBins()
        self._on_devices: dict[torch.device, tuple[DiscreteProcess, PixelBins]] = {}

    def moments(self, x: Tensor, sigma: Tensor, output: Tensor) -> Moments:
        """Mean and variance of the clean image that the output (N, 2C, H, W), noise and v, stands for.

        The variance is interpolated between the two nearest time steps. Below the lowest sigma, where no step
        is, it falls like sigma^2, as it does for any smooth density.
        """
        process, _ = self._on(x.device)
        noise, v = output.to(x.dtype).chunk(2, dim=1)
        t = process.timestep_of(sigma)
        lower, upper = t.floor().long(), t.ceil().long()
        variances = clean_variance(v, lower, process), clean_variance(v, upper, process)
        variance = torch.lerp(*variances, per_image((t - lower).to(x.dtype)))
        shrink = (sigma / process.sigmas[0]).clamp(max=1).square()
        return Moments(x - per_image(sigma) * noise, per_image(shrink.to(x.dtype)) * variance)

    def draw_sigmas(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise levels float32 (count,) of time steps drawn uniformly, stratified over 0..T-1."""
        process, _ = self._on(generator.device)
        draws = stratified_draws(count, generator, torch.float64)
        t = (draws * len(process)).long().clamp(max=len(process) - 1)
        return process.sigmas[t].float()

    def losses(self, target: Tensor, x: Tensor, sigma: Tensor, output: Tensor, masks: Tensor | None = None) -> Losses:
        """L_simple, and lambda T L_t with lambda = .001, whose gradient reaches v alone.

        With masks, bool (N, 1, H, W), only the pixels inside count.
        """
        process, bins = self._on(x.device)
        noise, v = output.to(x.dtype).chunk(2, dim=1)
        squared = (noise - (x - target) / per_image(sigma)).square()
        t = process.timestep_of(sigma).round().long()
        x_t = gather(process.alpha_bars.sqrt(), t, x) * x
        denoised = x - per_image(sigma) * noise
        nats = variational_bound(target, denoised, x_t, t, v, process=process, bins=bins)
        bound = image_mean(nats, masks) / math.log(2)
        return Losses(image_mean(squared, masks), VARIATIONAL_WEIGHT * len(process) * bound)

    def _on(self, device: torch.device) -> tuple[DiscreteProcess, PixelBins]:
        if device not in self._on_devices:  # copied once, so that no step waits for the device
            self._on_devices[device] = self.process.to(device), self.bins.to(device)
        return self._on_devices[device]


def variational_bound(
    x0: Tensor, denoised: Tensor, x_t: Tensor, t: Tensor, v: Tensor, *, process: DiscreteProcess, bins: PixelBins
) -> Tensor:
    """L_t of DDPM eq. 5 in nats of each pixel (N, C, H, W): a KL for t > 0, the discretized likelihood at t = 0.

    The mean is held fixed: no gradient reaches `denoised`, the estimate of x0. x_t is in DDPM's coordinates, t is
    int64 (N,), and v is the place in the range of log variances.
    """
    true_mean = process.posterior(x0, x_t, t).mean
    mean = process.posterior(denoised.detach(), x_t, t).mean
    clipped = gather(process.posterior_log_variance, t, x0)
    log_variance = log_variance_of_range(v, gather(process.betas, t, x0), clipped)
    divergence = gaussian_kl(true_mean, clipped, mean, log_variance)
    likelihood = discretized_gaussian_log_likelihood(x0, mean, log_variance, bins)
    return torch.where((t == 0).view(-1, 1, 1, 1), -likelihood, divergence)


def log_variance_of_range(v: Tensor, betas: Tensor, posterior_log_variance: Tensor) -> Tensor:
    """Between the logarithms of the bounds, at -1 and 1, and beyond them (arXiv 2102.09672, eq. 15)."""
    share = (v + 1) / 2
    return share * betas.log() + (1 - share) * posterior_log_variance


def clean_variance(v: Tensor, t: Tensor, process: DiscreteProcess) -> Tensor:
    """Var[x0 | x_t], 0 or more, that the learned-range variance of x_{t-1} implies; t is zero-based, int64 (N,).

    In EDM's coordinates, with s the sigma of t - 1 and r = s^2 / sigma^2, the reverse step's variance is
    s^2 (1 - r) + (1 - r)^2 V, and its first term is the posterior variance. With g = log(beta / posterior
    variance) the range is s^2 (1 - r) exp(g (v + 1) / 2), so V = s^2 / (1 - r) expm1(g (v + 1) / 2): a form
    that keeps its digits where the bounds nearly meet. At t = 0, where s = 0, V is the range itself.
    """
    lower, upper = process.previous_sigmas.square(), process.sigmas.square()
    first = torch.arange(len(process), device=lower.device) == 0
    scale = torch.where(first, process.posterior_log_variance.exp(), lower * upper / (upper - lower))
    gap = process.betas.log() - process.posterior_log_variance
    growth = torch.expm1((v + 1) / 2 * gather(gap, t, v)) + gather(first, t, v)
    return (gather(scale, t, v) * growth).clamp(min=0)


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, e^log_variance) || N(other_mean, e^other_log_variance)) in nats, element by element."""
    gap = other_log_variance - log_variance
    return 0.5 * (gap - 1 + torch.exp(-gap) + (mean - other_mean).square() * torch.exp(-other_log_variance))


def discretized_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor, bins: PixelBins) -> Tensor:
    """Log of a Gaussian's mass in the bin of x, in nats; the outermost bins reach to infinity (DDPM eq. 13)."""
    # in float32 torch's gradient of log_ndtr is wrong from a hundred deviations on, and infinite in the end
    inverse_std = torch.exp(-0.5 * log_variance.double())
    centered = x.double() - mean
    lower, upper = (centered - bins.half_width) * inverse_std, (centered + bins.half_width) * inverse_std
    right = centered > 0
    near, far = torch.where(right, -lower, upper), torch.where(right, -upper, lower)
    log_near = torch.special.log_ndtr(near)
    inside = log_near + torch.log(-torch.expm1(torch.special.log_ndtr(far) - log_near))
    lowest, highest = x < bins.low + bins.half_width, x > bins.high - bins.half_width
    outermost = torch.special.log_ndtr(torch.where(lowest, upper, -lower))
    return torch.where(lowest | highest, outermost, inside).to(x.dtype)
