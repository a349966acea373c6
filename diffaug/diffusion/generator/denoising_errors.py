"""How badly a network denoises given images; membership inference compares trained with held-out ones by it."""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.diffusion.process.boxes import image_mean
from diffaug.diffusion.process.process import MEASURED_SIGMAS, diffuse
from diffaug.diffusion.sampling.guidance import Denoise
from diffaug.runtime.seeding import torch_generator

NOISES, SMALLEST = 2, 1e-12
CHUNK = 64


@torch.no_grad()
def denoising_errors(
    denoise: Denoise,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    masks: Tensor | None = None,
    noise_scale: float = 1.0,
) -> NDArray[np.float64]:
    """Logarithm of the mean squared denoising error of each image, averaged over 8 noise levels, (N,).

    The two draws of noise are the same for all images, so that only the images differ; these are normalized,
    (N, C, H, W). `denoise` maps (x, sigma, labels) to moments. With masks, bool (N, 1, H, W), only the pixels inside
    are seen and count. The noise levels are multiplied by the noise scale.
    """
    drawn = torch_generator(seed, "membership noise")
    noises = torch.randn(NOISES, *images.shape[1:], generator=drawn).to(images.device)
    parts = []
    for chosen in torch.split(torch.arange(len(labels), device=labels.device), CHUNK):
        own = None if masks is None else masks[chosen]
        errors = partial(_log_errors, denoise, images[chosen], labels[chosen], noises=noises, masks=own)
        parts.append(torch.stack([errors(noise_scale * level) for level in MEASURED_SIGMAS]).mean(dim=0))
    return torch.cat(parts).double().cpu().numpy() if len(labels) else np.empty(0)


def _log_errors(
    denoise: Denoise, images: Tensor, labels: Tensor, level: float, *, noises: Tensor, masks: Tensor | None
) -> Tensor:
    sigma = images.new_full((len(images),), level)
    errors = []
    for noise in noises:
        x = diffuse(images, sigma, noise.expand_as(images))
        mean = denoise(x if masks is None else x * masks, sigma, labels).mean
        errors.append(image_mean((mean - images).square(), masks))
    return torch.stack(errors).mean(dim=0).clamp_min(SMALLEST).log()
