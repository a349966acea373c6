"""The training loss as one module, so that it can be compiled and distributed as one."""

import math

import torch
from torch import Tensor, nn

from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.process.process import diffuse
from diffaug.diffusion.training.batches import Batch

NUM_FEATURES = 16


class NoiseUncertainty(nn.Module):
    """How hard each noise level is: u(sigma), the log of the expected denoising error.

    Dividing the error by exp(u) and adding u makes every noise level pull equally hard on the network
    (Kendall et al. 2018, arXiv 1705.07115; EDM2, Karras et al. 2024, arXiv 2312.02696, eq. 14).
    """

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.linspace(0.25, 2.0, NUM_FEATURES) * math.pi, persistent=False)
        self.linear = nn.Linear(2 * NUM_FEATURES, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, sigma: Tensor) -> Tensor:
        """(N,) to (N,), 0 before training."""
        angles = (sigma.log() / 4)[:, None] * self.frequencies
        with torch.autocast(sigma.device.type, enabled=False):
            result: Tensor = self.linear(torch.cat([angles.cos(), angles.sin()], dim=1))
        return result[:, 0]


class TrainingLoss(nn.Module):
    """A denoiser, the uncertainty of the noise levels, and the loss of a batch."""

    def __init__(self, denoiser: Denoiser, *, uncertainty: bool) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.uncertainty = NoiseUncertainty() if uncertainty else None

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What to minimize for a batch, a scalar; and the mean denoising error for the log, detached."""
        sigma = batch.sigma
        x = diffuse(batch.x0, sigma, batch.noise)
        output = self.denoiser.output(x, sigma, batch.labels, batch.conditions)
        denoising, variance = self.denoiser.objective.losses(batch.x0, x, sigma, output, batch.masks)
        total = denoising
        if self.uncertainty is not None:
            log_error = self.uncertainty(sigma)
            total = denoising * (-log_error).exp() + log_error
        return (total + variance).mean(), denoising.detach().mean()
