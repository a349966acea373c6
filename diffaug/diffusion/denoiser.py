"""The denoiser D(x; sigma, label): the UNet inside EDM's preconditioning, and guidance around it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffaug.diffusion.process import diffuse, loss_weight, precondition
from diffaug.diffusion.unet import NetworkConfig, UNet

DenoiseFunction = Callable[[Tensor, Tensor], Tensor]
"""(noisy images (N, C, H, W), noise level as a scalar tensor) to the expected clean images."""


class Denoiser(nn.Module):
    """Estimates E[x0 | x, label], the mean of the reverse process's clean image."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(config)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """Denoises.

        Args:
            x: Noisy images (N, C, H, W), normalised.
            sigma: Noise levels (N,).
            labels: int64 (N,) in 0..K, K meaning no label.
        """
        c_skip, c_out, c_in, c_noise = precondition(sigma.float())
        output: Tensor = self.unet(_per_image(c_in) * x, c_noise, labels)
        return _per_image(c_skip) * x + _per_image(c_out) * output.float()


def denoising_loss(denoiser: nn.Module, x0: Tensor, labels: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """The weighted denoising error of each image, 1 on average before training (EDM eq. 2 with lambda).

    Args:
        denoiser: Maps (x, sigma, labels) to clean images.
        x0: Clean images (N, C, H, W), normalised.
        labels: int64 (N,).
        sigma: Noise levels (N,).
        noise: Standard normal (N, C, H, W).

    Returns:
        float32 (N,).
    """
    denoised = denoiser(diffuse(x0, sigma, noise), sigma, labels)
    squared: Tensor = (denoised - x0).square().flatten(1).mean(dim=1)
    return loss_weight(sigma) * squared


def guided(denoiser: nn.Module, labels: Tensor, null_label: int, guidance_scale: float) -> DenoiseFunction:
    """Fixes the labels and applies classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

    The result is D_null + w (D_label - D_null): w = 1 is the plain conditional denoiser and costs one pass,
    w = 0 ignores the labels and costs one, any other w costs two in one batch.
    """

    def plain(chosen: Tensor) -> DenoiseFunction:
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            denoised: Tensor = denoiser(x, sigma.float().expand(len(x)), chosen)
            return denoised

        return denoise

    nulls = torch.full_like(labels, null_label)
    if guidance_scale in (0.0, 1.0):
        return plain(labels if guidance_scale else nulls)
    both = torch.cat([labels, nulls])

    def combined(x: Tensor, sigma: Tensor) -> Tensor:
        conditional, unconditional = plain(both)(torch.cat([x, x]), sigma).chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    return combined


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
