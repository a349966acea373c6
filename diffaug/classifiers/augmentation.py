"""Strong classical augmentation of whole batches on the device: TrivialAugment, then MixUp or CutMix.

TrivialAugment (Müller and Hutter 2021, arXiv 2103.10158, section 3, with its wide space) applies one random
transform of random strength to each image; none of them mirrors. torchvision's own takes images one by one and its
randomness from torch's global generator; here every transform takes all images that drew it at once, and the
randomness is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from diffaug.classifiers.batches import network_input, on_device

LEVELS = 31
LARGEST_FACTOR = 0.99
LARGEST_SHIFT = 32
LARGEST_ANGLE = 135
MIXUP_SHARE = 0.5

Transform = Callable[[Tensor, Tensor], Tensor]


def strong_augmentation(pixels: Tensor, targets: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """TrivialAugment, then MixUp or CutMix.

    Args:
        pixels: uint8 (N, H, W, C).
        targets: float32 (N, K), class probabilities, perhaps times the weight of the image.
        random: Where the randomness comes from.

    Returns:
        A network's input, float32 (N, C, H, W) in [-1, 1], and its targets (N, K).
    """
    augmented = trivial_augment(pixels.permute(0, 3, 1, 2), random)
    return mix(network_input(augmented.permute(0, 2, 3, 1)), targets, random)


def trivial_augment(images: Tensor, random: np.random.Generator) -> Tensor:
    """One random transform of random strength for each image.

    Args:
        images: uint8 (N, C, H, W).
        random: Where the randomness comes from.
    """
    chosen = random.integers(len(TRANSFORMS), size=len(images))
    levels = random.integers(LEVELS, size=len(images)) / (LEVELS - 1)
    signs = random.choice((-1.0, 1.0), size=len(images))
    return apply_transforms(images, chosen, levels, signs)


def apply_transforms(
    images: Tensor,
    chosen: NDArray[np.int64],
    levels: NDArray[np.float64],
    signs: NDArray[np.float64],
) -> Tensor:
    """The transforms that were drawn.

    Args:
        images: uint8 (N, C, H, W).
        chosen: (N,), position of each image's transform in `TRANSFORMS`.
        levels: (N,), strengths from 0 to 1.
        signs: (N,), -1 or 1: the direction, where a transform has two.
    """
    device = images.device
    strengths = {False: on_device(levels, device).float(), True: on_device(levels * signs, device).float()}
    result = images.clone()
    for number, (transform, signed) in enumerate(TRANSFORMS.values()):
        positions = np.flatnonzero(chosen == number)
        if len(positions):
            where = on_device(positions, device)
            result[where] = transform(images[where], strengths[signed][where])
    return result


def mix(images: Tensor, targets: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mixes each image with a random other one: half of them by MixUp, half by CutMix, both with alpha 1.

    MixUp is Zhang et al. 2018 (arXiv 1710.09412), eq. 1; CutMix is Yun et al. 2019 (arXiv 1905.04899), eq. 1 and 2.
    In both, the share of a target is the share that its image has in the pixels.

    Args:
        images: float32 (N, C, H, W).
        targets: float32 (N, K).
        random: Where the randomness comes from.
    """
    count, _, height, width = images.shape
    partners = on_device(random.permutation(count), images.device)
    draws = on_device(random.random((4, count)).astype(np.float32), images.device)
    uses_mixup, ratio, row, column = draws[..., None, None]
    inside = _within(height, row, ratio)[:, :, None] & _within(width, column, ratio)[:, None, :]
    kept = torch.where(uses_mixup < MIXUP_SHARE, ratio, (~inside).float())  # (N, H, W)
    share = kept.mean(dim=(1, 2))[:, None]
    kept = kept[:, None]
    return kept * images + (1 - kept) * images[partners], share * targets + (1 - share) * targets[partners]


def _within(size: int, centre: Tensor, ratio: Tensor) -> Tensor:
    """Positions (N, size) inside a box of sqrt(1 - ratio) of the side whose centre lies at `centre` of the side."""
    distance = torch.arange(size, device=centre.device) + 0.5 - (centre * size)[:, 0]
    return distance.abs() < (1 - ratio[:, 0]).sqrt() * size / 2


def _blended(degenerate: Callable[[Tensor], Tensor]) -> Transform:
    """Away from (strength above 0) or towards (below) a degenerate form of the images."""

    def transform(images: Tensor, strengths: Tensor) -> Tensor:
        factor = _by_image(1 + LARGEST_FACTOR * strengths)
        return (factor * images + (1 - factor) * degenerate(images)).clamp(0, 255).to(torch.uint8)

    return transform


def _sheared_horizontally(images: Tensor, strengths: Tensor) -> Tensor:
    return _affine(images, xy=LARGEST_FACTOR * strengths)


def _sheared_vertically(images: Tensor, strengths: Tensor) -> Tensor:
    return _affine(images, yx=LARGEST_FACTOR * strengths)


def _shifted_horizontally(images: Tensor, strengths: Tensor) -> Tensor:
    return _affine(images, x=-(min(LARGEST_SHIFT, images.shape[3]) * strengths).trunc())


def _shifted_vertically(images: Tensor, strengths: Tensor) -> Tensor:
    return _affine(images, y=-(min(LARGEST_SHIFT, images.shape[2]) * strengths).trunc())


def _rotated(images: Tensor, strengths: Tensor) -> Tensor:
    angles = math.radians(LARGEST_ANGLE) * strengths
    cosine, sine = angles.cos(), angles.sin()
    height, width = images.shape[2:]
    x = (width - width * cosine + height * sine) / 2
    y = (height - width * sine - height * cosine) / 2
    return _affine(images, xx=cosine, xy=-sine, x=x, yx=sine, yy=cosine, y=y)


def _affine(images: Tensor, **entries: Tensor) -> Tensor:
    """Takes each pixel from (xx x + xy y + x, yx x + yy y + y), in px from the top left corner; outside is black."""
    count, _, height, width = images.shape
    matrices = torch.eye(2, 3, device=images.device).repeat(count, 1, 1)
    for name, values in entries.items():
        matrices[:, "xy".index(name[0]), "xy".index(name[1]) if len(name) > 1 else 2] = values
    rows = (torch.arange(height, device=images.device) + 0.5)[:, None].expand(height, width)
    columns = (torch.arange(width, device=images.device) + 0.5).expand(height, width)
    positions = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1)
    sources = torch.einsum("hwk,nik->nhwi", positions, matrices)
    grid = torch.stack([sources[..., 0] * (2 / width) - 1, sources[..., 1] * (2 / height) - 1], dim=-1)
    return functional.grid_sample(images.float(), grid, mode="nearest", align_corners=False).to(torch.uint8)


def _posterized(images: Tensor, strengths: Tensor) -> Tensor:
    dropped = _by_image((6 * strengths).round()).to(torch.uint8)
    return (images >> dropped) << dropped


def _solarized(images: Tensor, strengths: Tensor) -> Tensor:
    return torch.where(images >= _by_image(255 * (1 - strengths)), 255 - images, images)


def _by_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _unchanged(images: Tensor, strengths: Tensor) -> Tensor:
    return images


TRANSFORMS: dict[str, tuple[Transform, bool]] = {
    "identity": (_unchanged, False),
    "shear x": (_sheared_horizontally, True),
    "shear y": (_sheared_vertically, True),
    "translate x": (_shifted_horizontally, True),
    "translate y": (_shifted_vertically, True),
    "rotate": (_rotated, True),
    "brightness": (_blended(torch.zeros_like), True),
    "color": (_blended(lambda images: transforms.adjust_saturation(images, 0)), True),
    "contrast": (_blended(lambda images: transforms.adjust_contrast(images, 0)), True),
    "sharpness": (_blended(lambda images: transforms.adjust_sharpness(images, 0)), True),
    "posterize": (_posterized, False),
    "solarize": (_solarized, False),
    "autocontrast": (lambda images, strengths: transforms.autocontrast(images), False),
    "equalize": (lambda images, strengths: transforms.equalize(images), False),
}
"""Each transform and whether its strength has a sign."""
