"""What a network's output means, and the loss that teaches it: EDM's continuous objective with a learned variance."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from diffaug.diffusion.process.process import Moments, draw_training_sigmas, precondition

VARIANCE_WEIGHT = 0.05  # with .01 the variance of tests/diffusion/test_toy_data.py is off by up to 15 %
LOG_VARIANCE_RANGE = 12.0


class Losses(NamedTuple):
    """The parts of the loss of each image, (N,); their sum is minimised."""

    denoising: Tensor
    variance: Tensor


class Objective(Protocol):
    """How noisy images enter the network, what its output means and how it is trained.

    Noisy images are x = x0 + sigma n. The network's output has twice the channels of the images: the first half
    tells the mean, the second the variance of the clean image.
    """

    def network_inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled images (N, C, H, W) and transformed noise levels (N,), of x (N, C, H, W) and sigma (N,)."""

    def moments(self, x: Tensor, sigma: Tensor, output: Tensor) -> Moments:
        """Mean and variance of the clean image given x, from the network's output (N, 2C, H, W)."""

    def draw_sigmas(self, count: int, generator: torch.Generator) -> Tensor:
        """The noise levels (N,) of one training batch."""

    def losses(self, target: Tensor, x: Tensor, sigma: Tensor, output: Tensor) -> Losses:
        """The loss of each image for clean images `target` (N, C, H, W)."""


class Edm:
    """The objective of EDM (Karras et al. 2022, arXiv 2206.00364) with a head for the variance.

    The mean is c_skip x + c_out F and the variance c_out^2 exp(h) for outputs F and h. An untrained network, whose
    output is 0, thus gives the exact mean and variance of white Gaussian data. h is learnt by Gaussian likelihood
    with the mean detached, so the variance never pulls the mean away from where the denoising error puts it.
    """

    def network_inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        factors = precondition(sigma)
        return per_image(factors.c_in) * x, factors.c_noise

    def moments(self, x: Tensor, sigma: Tensor, output: Tensor) -> Moments:
        """See `Objective`."""
        factors = precondition(sigma)
        raw, log_variance = _halves(output)
        c_out = per_image(factors.c_out)
        return Moments(per_image(factors.c_skip) * x + c_out * raw, c_out.square() * log_variance.exp())

    def draw_sigmas(self, count: int, generator: torch.Generator) -> Tensor:
        """Lognormal, ln sigma ~ N(-1.2, 1.2^2), stratified over the batch."""
        return draw_training_sigmas(count, generator)

    def losses(self, target: Tensor, x: Tensor, sigma: Tensor, output: Tensor) -> Losses:
        """The weighted denoising error, 1 on average before training (EDM eq. 8), and the variance's likelihood."""
        factors = precondition(sigma)
        raw, log_variance = _halves(output)
        # (D - x0) / c_out: the same as the weighted error of D, since the weight is 1 / c_out^2.
        error = (raw - (target - per_image(factors.c_skip) * x) / per_image(factors.c_out)).square()
        likelihood = log_variance + error.detach() * (-log_variance).exp()
        return Losses(_image_mean(error), 0.5 * VARIANCE_WEIGHT * _image_mean(likelihood))


def per_image(values: Tensor) -> Tensor:
    """(N,) to (N, 1, 1, 1)."""
    return values[:, None, None, None]


def _halves(output: Tensor) -> tuple[Tensor, Tensor]:
    raw, log_variance = output.float().chunk(2, dim=1)
    return raw, log_variance.clamp(-LOG_VARIANCE_RANGE, LOG_VARIANCE_RANGE)


def _image_mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(dim=1)
