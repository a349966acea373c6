"""The working size, and how an image is brought to it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.configuration.settings import DataSettings

MAX_AUTOMATIC_SIDE = 64  # px; larger images train for long on a laptop, so the user chooses them


SQUARE_TOLERANCE = 1.1


MAX_ASPECT = 2.0


def choose_image_size(sizes: Sequence[tuple[int, int]], settings: DataSettings) -> tuple[int, int]:
    """The working height and width in px of images of these heights and widths.

    The short side is `settings.image_size`, or the median one, at most 64. The aspect ratio is the median one, between
    1:2 and 2:1; within 10 % of square it is square.
    """
    heights, widths = np.array(sizes, dtype=np.float64).T
    median_side = round(float(np.median(np.minimum(heights, widths))))
    short = settings.image_size or min(median_side, MAX_AUTOMATIC_SIDE)
    aspect = float(np.median(widths / heights))
    if 1 / SQUARE_TOLERANCE <= aspect <= SQUARE_TOLERANCE:
        return short, short
    long = round(short * min(max(aspect, 1 / aspect), MAX_ASPECT))
    return (short, long) if aspect > 1 else (long, short)


def fit_to_size(pixels: NDArray[np.uint8], image_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scales an image (H, W, C) to cover `image_size`, antialiased, and crops its center to (h, w, C)."""
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
    """Gives an image (H, W, C) 1 or 3 channels: gray is repeated, color becomes ITU-R BT.601 luma."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.uint8)[..., None]
