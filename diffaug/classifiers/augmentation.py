"""Augmentation of whole batches on the device: light, or TrivialAugment; then perhaps MixUp.

TrivialAugment (Müller and Hutter 2021, arXiv 2103.10158, section 3, wide space) applies one random transform of random
strength to each image; none of them mirrors. torchvision's version processes one image at a time with torch's global
generator. Here each transform processes all images that drew it at once, and the random generator is an argument.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from diffaug.classifiers.batches import network_input, on_device
from diffaug.classifiers.training_set import Augmentation

LEVELS = 31
LARGEST_FACTOR = 0.99
LARGEST_SHIFT = 32
LARGEST_ANGLE = 135
LIGHT_ANGLE = 10  # degrees
LIGHT_SCALE = 0.1
LIGHT_BRIGHTNESS = 0.2

Transform = Callable[[Tensor, Tensor], Tensor]


def augment(
    pixels: Tensor, targets: Tensor, augmentation: Augmentation, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A network's input, float32 (N, C, H, W) in [-1, 1], and its targets.

    `pixels` are uint8 (N, H, W, C). `targets` are classes (N,); with MixUp, class probabilities (N, K), possibly times
    the loss weight.
    """
    images = pixels.permute(0, 3, 1, 2)
    if augmentation.strength == "light":
        images = light_augment(images, random)
    elif augmentation.strength == "trivial on all":
        images = trivial_augment(images, random)
    elif augmentation.strength == "trivial on half":
        chosen = on_device(np.flatnonzero(random.random(len(images)) < 0.5), images.device)
        images = images.index_copy(0, chosen, trivial_augment(images[chosen], random))
    inputs = network_input(images.permute(0, 2, 3, 1))
    return mixup(inputs, targets, random) if augmentation.mixup else (inputs, targets)


def light_augment(images: Tensor, random: np.random.Generator) -> Tensor:
    """Each image rotated by up to 10 degrees, scaled by up to 10 %, and up to 20 % brighter or darker.

    uint8 (N, C, H, W). What lies outside is reflected.
    """
    angle, scale, brightness = on_device(random.uniform(-1, 1, (3, len(images))).astype(np.float32), images.device)
    angle, scale = math.radians(LIGHT_ANGLE) * angle, 1 + LIGHT_SCALE * scale
    height, width = images.shape[2:]
    cosine, sine, zero = angle.cos() * scale, angle.sin() * scale, torch.zeros_like(angle)
    rows = torch.stack([cosine, -sine * height / width, zero]), torch.stack([sine * width / height, cosine, zero])
    grid = functional.affine_grid(torch.stack(rows).permute(2, 0, 1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
    return (moved * _by_image(1 + LIGHT_BRIGHTNESS * brightness)).round_().clamp_(0, 255).to(torch.uint8)


def trivial_augment(images: Tensor, random: np.random.Generator) -> Tensor:
    """One random transform of random strength for each image, uint8 (N, C, H, W)."""
    chosen = random.integers(len(TRANSFORMS), size=len(images))
    levels = random.integers(LEVELS, size=len(images)) / (LEVELS - 1)
    signs = random.choice((-1.0, 1.0), size=len(images))
    return apply_transforms(images, chosen, levels, signs)


def apply_transforms(
    images: Tensor, chosen: NDArray[np.int64], levels: NDArray[np.float64], signs: NDArray[np.float64]
) -> Tensor:
    """Applies to each image the transform at position `chosen`, with strength `levels` (0 to 1) times `signs`."""
    device = images.device
    strengths = {False: on_device(levels, device).float(), True: on_device(levels * signs, device).float()}
    result = images.clone()
    for number, (transform, signed) in enumerate(TRANSFORMS.values()):
        positions = np.flatnonzero(chosen == number)
        if len(positions):
            where = on_device(positions, device)
            result[where] = transform(images[where], strengths[signed][where])
    return result


def mixup(images: Tensor, targets: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mixes images (N, C, H, W) and targets (N, K) with random partners, alpha 1.

    Zhang et al. 2018 (arXiv 1710.09412), eq. 1.
    """
    partners = on_device(random.permutation(len(images)), images.device)
    ratio = on_device(random.random((len(images), 1)).astype(np.float32), images.device)
    kept = ratio[..., None, None]
    return kept * images + (1 - kept) * images[partners], ratio * targets + (1 - ratio) * targets[partners]


def _blended(degenerate: Callable[[Tensor], Tensor]) -> Transform:
    """Extrapolates from (strength above 0) or interpolates to (below 0) a degenerate form of the images."""

    def transform(images: Tensor, strengths: Tensor) -> Tensor:
        factor = _by_image(1 + LARGEST_FACTOR * strengths)
        return (factor * images + (1 - factor) * degenerate(images)).clamp(0, 255).to(torch.uint8)

    return transform


def _shift(size: int, strengths: Tensor) -> Tensor:
    return -(min(LARGEST_SHIFT, size) * strengths).trunc()


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


TRANSFORMS: dict[str, tuple[Transform, bool]] = {
    "identity": (lambda images, strengths: images, False),
    "shear x": (lambda images, strengths: _affine(images, xy=LARGEST_FACTOR * strengths), True),
    "shear y": (lambda images, strengths: _affine(images, yx=LARGEST_FACTOR * strengths), True),
    "translate x": (lambda images, strengths: _affine(images, x=_shift(images.shape[3], strengths)), True),
    "translate y": (lambda images, strengths: _affine(images, y=_shift(images.shape[2], strengths)), True),
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
"""Each transform, and whether its strength is signed."""
