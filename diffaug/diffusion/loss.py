"""The training loss as one module, so that it can be compiled and distributed as one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffaug.diffusion.denoiser import Denoiser
from diffaug.diffusion.objectives import Losses
from diffaug.diffusion.process import diffuse

FEATURES = 16


class NoiseUncertainty(nn.Module):
    """How hard each noise level is: u(sigma), the log of the expected denoising error.

    Dividing the error by exp(u) and adding u makes every noise level pull equally hard on the network
    (Kendall et al. 2018, arXiv 1705.07115; EDM2, Karras et al. 2024, arXiv 2312.02696, eq. 14).
    """

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.linspace(0.25, 2.0, FEATURES) * math.pi, persistent=False)
        self.linear = nn.Linear(2 * FEATURES, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, sigma: Tensor) -> Tensor:
        """(N,) to (N,), 0 before training."""
        angles = (sigma.log() / 4)[:, None] * self.frequencies
        result: Tensor = self.linear(torch.cat([angles.cos(), angles.sin()], dim=1))
        return result[:, 0]


class TrainingLoss(nn.Module):
    """A denoiser, the uncertainty of the noise levels, and the loss of a batch."""

    def __init__(self, denoiser: Denoiser, *, uncertainty: bool) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.uncertainty = NoiseUncertainty() if uncertainty else None

    def forward(self, x0: Tensor, labels: Tensor, sigma: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the loss.

        Args:
            x0: Clean images (N, C, H, W), normalised.
            labels: int64 (N,) in 0..K.
            sigma: Noise levels (N,).
            noise: Standard normal (N, C, H, W).

        Returns:
            What to minimise, a scalar; and the mean denoising error for the log, detached.
        """
        losses = self.per_image(x0, labels, sigma, noise)
        denoising = losses.denoising
        if self.uncertainty is not None:
            log_error = self.uncertainty(sigma)
            denoising = denoising * (-log_error).exp() + log_error
        return (denoising + losses.variance).mean(), losses.denoising.detach().mean()

    def per_image(self, x0: Tensor, labels: Tensor, sigma: Tensor, noise: Tensor) -> Losses:
        """The losses of each image, (N,), not weighted by uncertainty."""
        x = diffuse(x0, sigma, noise)
        return self.denoiser.objective.losses(x0, x, sigma, self.denoiser.output(x, sigma, labels))
