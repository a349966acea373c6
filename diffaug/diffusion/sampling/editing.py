"""Sampling that begins from real images: variations of them, and parts of them made anew."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.diffusion.process.process import Moments, karras_sigmas
from diffaug.diffusion.sampling.guidance import DenoiseFunction
from diffaug.diffusion.sampling.sampling import ClassNoise, Sampling
from diffaug.errors import UsageError


def vary(denoise: DenoiseFunction, known: Tensor, noise: ClassNoise, sampling: Sampling, strength: float) -> Tensor:
    """Noises images part of the way and denoises them again (Meng et al. 2022, SDEdit, arXiv 2108.01073).

    Args:
        denoise: The denoiser with labels fixed.
        known: The real images, normalised (N, C, H, W).
        noise: One image of noise for each of `known`.
        sampling: Solver and steps, of which the share `strength` is taken.
        strength: In (0, 1], see `karras_sigmas`; at 1 the images are forgotten.
    """
    steps = max(1, round(strength * sampling.num_inference_steps))
    return sampling.run(denoise, noise, karras_sigmas(steps, strength), known if strength < 1 else None)


def inpaint(
    denoise: DenoiseFunction,
    known: Tensor,
    masks: Tensor,
    noise: ClassNoise,
    sampling: Sampling,
    *,
    resamplings: int,
) -> Tensor:
    """Makes the masked part of images anew: `keep_known` along `resampled` noise levels.

    Args:
        denoise: The denoiser with labels fixed.
        known: The real images, normalised (N, C, H, W).
        masks: bool (N, 1, H, W), true where the image is made anew.
        noise: One image of noise for each of `known`.
        sampling: Solver and steps.
        resamplings: How often a step is taken again.
    """
    sigmas = resampled(karras_sigmas(sampling.num_inference_steps), resamplings)
    return sampling.run(keep_known(denoise, known, masks), noise, sigmas, known)


def keep_known(denoise: DenoiseFunction, known: Tensor, masks: Tensor) -> DenoiseFunction:
    """A denoiser that is certain of the pixels outside the masks.

    Any solver that starts from `known` plus noise then carries those pixels as the real image noised to the current
    level, the condition of RePaint (Lugmayr et al. 2022, arXiv 2201.09865, eq. 8), and ends in them exactly.

    Args:
        denoise: The denoiser with labels fixed.
        known: The real images, normalised (N, C, H, W).
        masks: bool (N, 1, H, W), true where the image is made anew.
    """

    def certain(x: Tensor, sigma: Tensor) -> Moments:
        mean, variance = denoise(x, sigma)
        return Moments(torch.where(masks, mean, known), torch.where(masks, variance, torch.zeros_like(variance)))

    return certain


def resampled(sigmas: Tensor, times: int) -> Tensor:
    """Noise levels of which each step, but for the last, is taken `times` again.

    Diffusing a step again and denoising it anew lets new pixels fit those around them (RePaint, section 4.2). With the
    few steps taken here, jumps of one step leave the smallest error on correlated Gaussian data.
    """
    levels = sigmas.tolist()
    path = levels[:1]
    for sigma, next_sigma in pairwise(levels):
        path += [next_sigma] + [sigma, next_sigma] * (times if next_sigma else 0)
    return torch.tensor(path, dtype=sigmas.dtype)


def require_images(images: NDArray[np.uint8], shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Checks real images; returns them as an array of their own in C order.

    Raises:
        UsageError: They are not uint8 (N, H, W, C) of the shape that the generator and the indices ask for.
    """
    images = np.array(images, order="C")
    if images.dtype != np.uint8:
        fix = "images of 0 to 255 as uint8: (images * 255).round().astype('uint8') for 0 to 1"
        raise UsageError(f"the images are {images.dtype}, not uint8", fix=fix)
    if images.shape != shape:
        fix = f"uint8 {shape}: one image for each index, at the generator's size and channels"
        raise UsageError(f"the images are {images.shape}, not {shape}", fix=fix)
    return images


def require_masks(masks: NDArray[np.bool_], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Checks masks; returns them as an array of their own in C order.

    Raises:
        UsageError: They are not bool (N, H, W) like the images.
    """
    masks = np.array(masks, order="C")
    if masks.dtype != np.bool_:
        raise UsageError(f"the masks are {masks.dtype}, not bool", fix="masks > 0: true where pixels are made anew")
    if masks.shape != shape:
        raise UsageError(f"the masks are {masks.shape}, not {shape}", fix=f"bool {shape}, without a channel axis")
    return masks


def require_strength(strength: float) -> None:
    """Checks the strength of a variation.

    Raises:
        UsageError: It is not in (0, 1].
    """
    if not 0 < strength <= 1:
        fix = "above 0, which keeps the image, and at most 1, which forgets it; try 0.5"
        raise UsageError(f"a strength of {strength} is out of range", fix=fix)
