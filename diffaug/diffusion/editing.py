"""Sampling that begins from real images: variations of them, and parts of them made anew."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.diffusion.guidance import DenoiseFunction
from diffaug.diffusion.process import Moments
from diffaug.errors import UsageError


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


def resampled(sigmas: Tensor, times: int, jump_length: int) -> Tensor:
    """Noise levels that go down in flights of `jump_length` steps, each taken `times` again from its top.

    Diffusing again and denoising anew lets the new pixels fit those around them (RePaint, section 4.2).

    Args:
        sigmas: Decreasing noise levels.
        times: Extra rounds; 0 changes nothing.
        jump_length: Steps of a flight.
    """
    levels = sigmas.tolist()
    path = levels[:1]
    for top in range(0, len(levels) - 1, jump_length):
        flight = levels[top : top + jump_length + 1]
        path += flight[1:] + flight * times
    return torch.tensor(path, dtype=sigmas.dtype)


def require_images(images: NDArray[np.uint8], shape: tuple[int, int, int, int]) -> None:
    """Checks real images.

    Raises:
        UsageError: They are not uint8 (N, H, W, C) of the shape that the generator and the indices ask for.
    """
    if images.dtype != np.uint8:
        fix = "images of 0 to 255 as uint8: (images * 255).round().astype('uint8') for 0 to 1"
        raise UsageError(f"the images are {images.dtype}, not uint8", fix=fix)
    if images.shape != shape:
        fix = f"uint8 {shape}: one image for each index, at the generator's size and channels"
        raise UsageError(f"the images are {images.shape}, not {shape}", fix=fix)


def require_masks(masks: NDArray[np.bool_], shape: tuple[int, int, int]) -> None:
    """Checks masks.

    Raises:
        UsageError: They are not bool (N, H, W) like the images.
    """
    if masks.dtype != np.bool_:
        raise UsageError(f"the masks are {masks.dtype}, not bool", fix="masks > 0: true where pixels are made anew")
    if masks.shape != shape:
        raise UsageError(f"the masks are {masks.shape}, not {shape}", fix=f"bool {shape}, without a channel axis")


def require_range(name: str, value: float, low: float, high: float, fix: str) -> None:
    """Checks a number.

    Raises:
        UsageError: It is not above `low` and at most `high`.
    """
    if not low < value <= high:
        raise UsageError(f"{name} is {value}, which is out of range", fix=fix)
