"""Guidance: which combination of denoisers one step of sampling follows."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffaug.configuration.sampling import Interval
from diffaug.diffusion.process.process import Moments

Denoise = Callable[[Tensor, Tensor, Tensor], Moments]
"""(noisy images (N, C, H, W), noise levels (N,), labels (N,)) to the moments of the clean images, as a `Denoiser`."""

DenoiseFunction = Callable[[Tensor, Tensor], Moments]
"""(noisy images (N, C, H, W), noise level as a scalar tensor) to the moments of the clean images."""


def conditional(denoiser: Denoise, labels: Tensor) -> DenoiseFunction:
    """The denoiser with its labels (N,) fixed."""

    def denoise(x: Tensor, sigma: Tensor) -> Moments:
        levels = torch.full((len(x),), float(sigma), dtype=torch.float32, device=x.device)
        return denoiser(x, levels, labels)

    return denoise


def classifier_free(
    denoiser: Denoise, labels: Tensor, null_label: int, scale: float, interval: Interval, *, noise_scale: float = 1.0
) -> DenoiseFunction:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) within an interval of noise levels.

    The mean is D_null + w (D_label - D_null) with w the scale, computed in one batch of 2 N; the variance is that of
    the label. w = 1 is the conditional denoiser everywhere. Above the interval guidance drops modes and below it does
    nothing, so there the conditional denoiser alone costs one pass (Kynkaanniemi et al. 2024, arXiv 2404.07724).
    The interval is multiplied by the noise scale.
    """
    plain = conditional(denoiser, labels)
    if scale == 1:
        return plain
    both = conditional(denoiser, torch.cat([labels, torch.full_like(labels, null_label)]))
    low, high = (noise_scale * level for level in interval)

    def denoise(x: Tensor, sigma: Tensor) -> Moments:
        if not low <= float(sigma) <= high:
            return plain(x, sigma)
        means, variances = both(torch.cat([x, x]), sigma)
        labeled, unlabeled = means.chunk(2)
        return Moments(torch.lerp(unlabeled, labeled, scale), variances[: len(x)])

    return denoise


def autoguidance(denoiser: Denoise, guide: Denoise, labels: Tensor, scale: float) -> DenoiseFunction:
    """Autoguidance (Karras et al. 2024, arXiv 2406.02507): away from what a worse version of the model would do.

    The mean is D_guide + w (D - D_guide) at every noise level, both for the same labels: the errors that both make,
    the guide more so, are extrapolated away, and the diversity of the class stays. Two passes unless w = 1.
    """
    better, worse = conditional(denoiser, labels), conditional(guide, labels)
    if scale == 1:
        return better

    def denoise(x: Tensor, sigma: Tensor) -> Moments:
        mean, variance = better(x, sigma)
        return Moments(torch.lerp(worse(x, sigma).mean, mean, scale), variance)

    return denoise
