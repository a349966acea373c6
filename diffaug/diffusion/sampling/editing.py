"""Sampling that begins from real images: what is kept of them, and what is asked of them."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.diffusion.process.process import Moments
from diffaug.diffusion.sampling.guidance import DenoiseFunction
from diffaug.errors import UsageError


def keep_known(denoise: DenoiseFunction, known: Tensor, masks: Tensor) -> DenoiseFunction:
    """A denoiser that is certain of the pixels outside the masks, bool (N, 1, H, W).

    Any solver that starts from `known` plus noise then carries those pixels as the real image noised to the current
    level, the condition of RePaint (Lugmayr et al. 2022, arXiv 2201.09865, eq. 8), and ends in them exactly.
    """

    def certain(x: Tensor, sigma: Tensor) -> Moments:
        mean, variance = denoise(x, sigma)
        return Moments(torch.where(masks, mean, known), torch.where(masks, variance, torch.zeros_like(variance)))

    return certain


def resampled(sigmas: Tensor, times: int) -> Tensor:
    """Takes each step but the last `times` again, so that new pixels fit those around them.

    In RePaint (section 4.2) jumps may be longer; jumps of one step leave the smallest error in few steps.
    """
    levels = sigmas.tolist()
    path = levels[:1]
    for sigma, next_sigma in pairwise(levels):
        path += [next_sigma] + [sigma, next_sigma] * (times if next_sigma else 0)
    return torch.tensor(path, dtype=sigmas.dtype)


def require_strength(strength: float) -> None:
    """Raises a UsageError if it is not in (0, 1]."""
    if not 0 < strength <= 1:
        fix = "above 0, which keeps the image, and at most 1, which forgets it; try 0.5"
        raise UsageError(f"a strength of {strength} is out of range", fix=fix)


def require_images(images: NDArray[np.uint8], shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Returns a copy in C order; a UsageError if the images are not uint8 of this shape (N, H, W, C)."""
    images = np.array(images, order="C")
    if images.dtype != np.uint8:
        fix = "images of 0 to 255 as uint8: (images * 255).round().astype('uint8') for 0 to 1"
        raise UsageError(f"the images are {images.dtype}, not uint8", fix=fix)
    if images.shape != shape:
        fix = f"uint8 {shape}: one image for each index, at the generator's size and channels"
        raise UsageError(f"the images are {images.shape}, not {shape}", fix=fix)
    return images


def require_masks(masks: NDArray[np.bool_], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Returns a copy in C order; a UsageError if the masks are not bool of this shape (N, H, W)."""
    masks = np.array(masks, order="C")
    if masks.dtype != np.bool_:
        raise UsageError(f"the masks are {masks.dtype}, not bool", fix="masks > 0: true where pixels are made anew")
    if masks.shape != shape:
        raise UsageError(f"the masks are {masks.shape}, not {shape}", fix=f"bool {shape}, without a channel axis")
    return masks
