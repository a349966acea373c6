"""Features of images without any training, for a quick look at what their pixels tell about the classes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffaug.runtime.seeding import numpy_generator

FILTERS, PATCH = 64, 5
SAMPLED_PATCHES = 10_000
LEAST_VARIANCE = 0.01  # of a patch of values in [-1, 1]; keeps noise of flat patches small
LEAST_SPREAD = 0.1  # regularizes the whitening
THRESHOLD = 0.5
SIDE_OF_STRIDE_2 = 64  # px; from here on every second position is enough
IMAGES_AT_ONCE = 32


def patch_features(
    pixels: NDArray[np.uint8], seed: int, sampled_from: NDArray[np.uint8] | None = None
) -> NDArray[np.float32]:
    """How much each image resembles random patches of the set, where and at most; float32 (N, D).

    Patches are normalized and whitened, and similarities thresholded (Coates & Ng 2011, "The importance of encoding
    versus training with sparse coding and vector quantization"). Their maximum finds a small mark anywhere; their means
    are those of the four quarters. Images are uint8 (N, H, W, C) of at least 5 px. Patches are those of other images,
    if these are given.
    """
    kernel, total, bias = _random_filters(pixels if sampled_from is None else sampled_from, seed)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), IMAGES_AT_ONCE):
            images = torch.from_numpy(np.array(pixels[start : start + IMAGES_AT_ONCE]))
            parts.append(_pooled(images.permute(0, 3, 1, 2).float() / 127.5 - 1, kernel, total, bias))
    return torch.cat(parts).numpy()


def _random_filters(pixels: NDArray[np.uint8], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Filters (K, C, P, P) of normalized patches, the sum of each and what to add, both (K, 1, 1)."""
    count, height, width, channels = pixels.shape
    draws = numpy_generator(seed, "patches")
    image, top, left = (
        draws.integers(0, end, SAMPLED_PATCHES) for end in (count, height - PATCH + 1, width - PATCH + 1)
    )
    windows = sliding_window_view(pixels, (PATCH, PATCH), axis=(1, 2))
    patches = windows[image, top, left].reshape(SAMPLED_PATCHES, -1) / 127.5 - 1
    patches -= patches.mean(axis=1, keepdims=True)
    patches /= np.sqrt(patches.var(axis=1, keepdims=True) + LEAST_VARIANCE)
    mean = patches.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    whitening = (vectors / np.sqrt(values + LEAST_SPREAD)) @ vectors.T
    chosen = (patches[:FILTERS] - mean) @ whitening
    chosen /= np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-6)
    filters, bias = chosen @ whitening, -chosen @ whitening @ mean
    shape = (FILTERS, channels, PATCH, PATCH)
    each = (filters.reshape(shape), filters.sum(axis=1)[:, None, None], bias[:, None, None])
    kernel, total, added = (torch.from_numpy(np.asarray(one, np.float32)) for one in each)
    return kernel, total, added


def _pooled(images: Tensor, kernel: Tensor, total: Tensor, bias: Tensor) -> Tensor:
    """Features (N, D) of images (N, C, H, W) in [-1, 1]."""
    stride = 1 if min(images.shape[-2:]) < SIDE_OF_STRIDE_2 else 2
    padded = functional.pad(images, (PATCH // 2,) * 4, mode="replicate")
    average = torch.full_like(kernel[:1], 1 / kernel[0].numel())
    mean = functional.conv2d(padded, average, stride=stride)
    variance = functional.conv2d(padded.square(), average, stride=stride) - mean.square()
    spread = (variance.clamp(min=0) + LEAST_VARIANCE).sqrt()
    similar = (functional.conv2d(padded, kernel, stride=stride) - mean * total) / spread + bias
    active = (similar - THRESHOLD).clamp(min=0)
    colors = functional.adaptive_avg_pool2d(images, 4).flatten(1)
    quarters = functional.adaptive_avg_pool2d(active, 2).flatten(1)
    return torch.cat([quarters, active.amax((2, 3)), colors, spread.mean((2, 3))], dim=1)
