"""The objective of EDM with a head for the variance: loss and noise levels (Karras et al. 2022, arXiv 2206.00364)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffaug.diffusion.process.boxes import image_mean
from diffaug.diffusion.process.process import Moments, per_image, precondition, stratified_draws

LOG_SIGMA_MEAN = -1.2


LOG_SIGMA_STD = 1.2


VARIANCE_WEIGHT = 0.05  # with .01 the variance of tests/diffusion/test_toy_data.py is off by up to 15 %


LOG_VARIANCE_RANGE = 12.0


class Losses(NamedTuple):
    """The parts of the loss of each image, (N,); their sum is minimized."""

    denoising: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Edm:
    """The objective of EDM (Karras et al. 2022, arXiv 2206.00364) with a head for the variance.

    The mean is c_skip x + c_out F and the variance c_out^2 exp(h) for outputs F and h. An untrained network, whose
    output is 0, thus gives the exact mean and variance of white Gaussian data. h is learned by Gaussian likelihood
    with the mean detached, so the variance never pulls the mean away from where the denoising error puts it.

    Attributes:
        noise_scale: Factor on the noise levels that are trained on, see `noise_scale_of`.
    """

    noise_scale: float = 1.0

    def moments(self, x: Tensor, sigma: Tensor, output: Tensor) -> Moments:
        """Mean and variance of the clean image given x, from the network's output F and h, (N, 2C, H, W)."""
        factors = precondition(sigma)
        raw, log_variance = _halves(output)
        c_out = per_image(factors.c_out)
        return Moments(per_image(factors.c_skip) * x + c_out * raw, c_out.square() * log_variance.exp())

    def draw_sigmas(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise levels (N,) of one batch, stratified so that the loss varies less.

        ln(sigma / noise_scale) ~ N(-1.2, 1.2^2).
        """
        quantiles = stratified_draws(count, generator).clamp(1e-6, 1 - 1e-6)
        log_sigma: Tensor = LOG_SIGMA_MEAN + math.log(self.noise_scale) + LOG_SIGMA_STD * torch.special.ndtri(quantiles)
        return log_sigma.exp()

    def losses(self, target: Tensor, x: Tensor, sigma: Tensor, output: Tensor, masks: Tensor | None = None) -> Losses:
        """The weighted denoising error, about 1 before training (EDM eq. 8), and the variance's likelihood.

        With masks, bool (N, 1, H, W), only the pixels inside count.
        """
        factors = precondition(sigma)
        raw, log_variance = _halves(output)
        # (D - x0) / c_out: the same as the weighted error of D, since the weight is 1 / c_out^2.
        error = (raw - (target - per_image(factors.c_skip) * x) / per_image(factors.c_out)).square()
        likelihood = log_variance + error.detach() * (-log_variance).exp()
        return Losses(image_mean(error, masks), 0.5 * VARIANCE_WEIGHT * image_mean(likelihood, masks))


def _halves(output: Tensor) -> tuple[Tensor, Tensor]:
    raw, log_variance = output.float().chunk(2, dim=1)
    return raw, log_variance.clamp(-LOG_VARIANCE_RANGE, LOG_VARIANCE_RANGE)
