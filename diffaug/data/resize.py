"""One rule for images of mixed sizes: scale to cover the working size, then crop the centre."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.configuration.settings import DataSettings

MAX_AUTOMATIC_SIDE = 64  # px; beyond it training outgrows a laptop's patience, so it is the user's choice
SQUARE_TOLERANCE = 1.1
MAX_ASPECT = 2.0


def choose_image_size(sizes: Sequence[tuple[int, int]], settings: DataSettings) -> tuple[int, int]:
    """The working size of a set of images.

    Args:
        sizes: Height and width of each image in px; at least one.
        settings: `image_size` sets the short side; none: the median short side, at most 64.

    Returns:
        Height and width in px. The aspect ratio is the median one; within 10 % of square it is square,
        and it stays between 1:2 and 2:1.
    """
    heights, widths = np.array(sizes, dtype=np.float64).T
    median_side = round(float(np.median(np.minimum(heights, widths))))
    short = settings.image_size or min(median_side, MAX_AUTOMATIC_SIDE)
    aspect = float(np.median(widths / heights))
    if 1 / SQUARE_TOLERANCE <= aspect <= SQUARE_TOLERANCE:
        return short, short
    long = round(short * min(max(aspect, 1 / aspect), MAX_ASPECT))
    return (short, long) if aspect > 1 else (long, short)


def choose_channels(channels: Iterable[int], settings: DataSettings) -> Literal[1, 3]:
    """1 when every image is grey, else 3; `settings.channels` overrides.

    Args:
        channels: Channels of each decoded image; 1 where all its pixels are grey.
        settings: The user's wish.
    """
    return settings.channels or (1 if all(count == 1 for count in channels) else 3)


def fit_to_size(pixels: NDArray[np.uint8], image_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scales an image to cover `image_size`, antialiased, and crops its centre.

    Args:
        pixels: uint8 (H, W, C), C being 1 or 3.
        image_size: Height h and width w in px.

    Returns:
        uint8 (h, w, C); the input itself when it has that size.
    """
    height, width, channels = pixels.shape
    if (height, width) == image_size:
        return pixels
    h, w = image_size
    scale = max(h / height, w / width)
    left, top = max(0.0, (width - w / scale) / 2), max(0.0, (height - h / scale) / 2)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    resized = image.resize((w, h), Image.Resampling.BICUBIC, box=(left, top, width - left, height - top))
    return np.asarray(resized, dtype=np.uint8).reshape(h, w, channels)


def to_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Gives an image (H, W, C) 1 or 3 channels: grey is repeated, colour becomes ITU-R BT.601 luma."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.uint8)[..., None]
