"""What every encoder does, and how images of any size become its batches of one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffaug.data.resize import fit_to_size, to_channels
from diffaug.errors import UsageError

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
"""Images uint8 (h, w, C) of any sizes, C being 1 or 3, such as an array (N, H, W, C) or the pictures of a catalog."""

IMAGES_AT_ONCE = 64


class Encoder(Protocol):
    """Turns images into feature vectors, deterministically."""

    @property
    def name(self) -> str:
        """Names the network, its weights and how it is given images; part of the fingerprint of all made with it."""

    def features(self, images: Images) -> NDArray[np.float32]:
        """Images of any size to float32 (N, D)."""


def selected(images: Images, positions: list[int]) -> Images:
    """The images at `positions`, in that order."""
    return images[positions] if isinstance(images, np.ndarray) else [images[one] for one in positions]


def squeezed_batches(
    images: Images, size: tuple[int, int], channels: int | None = None, at_once: int = IMAGES_AT_ONCE
) -> Iterator[Tensor]:
    """Batches of images in order, uint8 (n, C, *size), on the CPU; one empty batch if there is no image.

    Each image is squeezed whole to a height and width in px, by antialiased bicubic interpolation as Pillow's. With 3
    channels gray images are repeated; with None they stay, and one RGB image in a batch makes all RGB.
    """
    for start in range(0, max(1, len(images)), at_once):
        yield _squeezed(images[start : start + at_once], size, channels)


def of_one_shape(images: Images, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Images of any size, each squeezed to `shape`, (H, W, C), uint8 (N, H, W, C). Gray from color is the luma."""
    if isinstance(images, np.ndarray) and images.shape[1:] == shape:
        return images
    height, width, channels = shape
    fitted = [to_channels(fit_to_size(image, (height, width)), channels) for image in images]
    return np.stack(fitted) if fitted else np.zeros((0, *shape), np.uint8)


def common_size(images: Images, encoder: str) -> tuple[int, int]:
    """Height and width in px of images that all have one size; (1, 1) if there is none. Else a UsageError."""
    sizes = {images.shape[1:3]} if isinstance(images, np.ndarray) else {image.shape[:2] for image in images}
    if len(sizes) > 1:
        raise UsageError(
            "the images have different sizes, and the encoder none of its own",
            where=encoder,
            fix="give the encoder a size: ModuleEncoder(module, name, size=224)",
        )
    height, width = sizes.pop() if sizes else (1, 1)
    return height, width


def _squeezed(images: Images, size: tuple[int, int], channels: int | None) -> Tensor:
    if isinstance(images, np.ndarray):
        return _resized(images, size, channels or images.shape[3])
    if not len(images):
        return torch.zeros(0, channels or 1, *size, dtype=torch.uint8)
    each = list(images)
    most = channels or max(image.shape[2] for image in each)
    if len({image.shape for image in each}) == 1:
        return _resized(np.stack(each), size, most)
    return torch.cat([_resized(image[None], size, most) for image in each])


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int], channels: int) -> Tensor:
    """uint8 (n, H, W, C) to uint8 (n, `channels`, *size)."""
    images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
    if len(images) == 0:
        images = images.new_zeros(0, images.shape[1], *size)
    elif images.shape[2:] != size:
        images = functional.interpolate(images, size=size, mode="bicubic", antialias=True)
    return images if images.shape[1] == channels else images.expand(-1, channels, -1, -1)
