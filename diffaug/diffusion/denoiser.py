"""The denoiser: the UNet with its objective's meaning of inputs and outputs, and guidance around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from diffaug.diffusion.ddpm import Ddpm
from diffaug.diffusion.objectives import Edm, Objective
from diffaug.diffusion.process import Moments
from diffaug.diffusion.unet import NetworkConfig, UNet

DenoiseFunction = Callable[[Tensor, Tensor], Moments]
"""(noisy images (N, C, H, W), noise level as a scalar tensor) to the moments of the clean images."""


OBJECTIVES: Mapping[str, Objective] = {"edm": Edm(), "ddpm": Ddpm()}


def objective_of(config: NetworkConfig) -> Objective:
    """The objective that a network of this configuration is trained with."""
    return OBJECTIVES[config.objective]


class Denoiser(nn.Module):
    """Estimates mean and variance of the clean image given a noisy one and its label.

    Attributes:
        config: The shape of the network.
        objective: What the network's inputs and outputs mean.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.objective = objective_of(config)
        self.unet = UNet(config)

    def output(self, x: Tensor, sigma: Tensor, labels: Tensor, conditions: Tensor | None = None) -> Tensor:
        """What the network itself says, (N, 2C, H, W); for arguments see `forward`."""
        scaled, c_noise = self.objective.network_inputs(x, sigma.float())
        result: Tensor = self.unet(scaled, c_noise, labels, conditions)
        return result

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor, conditions: Tensor | None = None) -> Moments:
        """Denoises.

        Args:
            x: Noisy images (N, C, H, W), normalised.
            sigma: Noise levels (N,).
            labels: int64 (N,) in 0..K, K meaning no label.
            conditions: How the images were augmented, (N, 9); none: not at all.
        """
        return self.objective.moments(x, sigma.float(), self.output(x, sigma, labels, conditions))


def guided(denoiser: nn.Module, labels: Tensor, null_label: int, guidance_scale: float) -> DenoiseFunction:
    """Fixes the labels and applies classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

    The mean is D_null + w (D_label - D_null): w = 1 is the plain conditional denoiser and costs one pass,
    w = 0 ignores the labels and costs one, any other w costs two in one batch. The variance is that of the label.
    """

    def plain(chosen: Tensor) -> DenoiseFunction:
        def denoise(x: Tensor, sigma: Tensor) -> Moments:
            moments: Moments = denoiser(x, sigma.float().expand(len(x)), chosen)
            return moments

        return denoise

    nulls = torch.full_like(labels, null_label)
    if guidance_scale in (0.0, 1.0):
        return plain(labels if guidance_scale else nulls)
    both = torch.cat([labels, nulls])

    def combined(x: Tensor, sigma: Tensor) -> Moments:
        means, variances = plain(both)(torch.cat([x, x]), sigma)
        conditional, unconditional = means.chunk(2)
        return Moments(unconditional + guidance_scale * (conditional - unconditional), variances[: len(x)])

    return combined
