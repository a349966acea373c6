"""Turns pixels upright by EXIF orientation."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

Array = TypeVar("Array", bound=NDArray[Any])

_UPRIGHT: dict[int, Callable[[Any], Any]] = {  # by EXIF orientation
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


_METADATA = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # where PNG and JPEG keep it


def upright(image: Image.Image, pixels: Array) -> Array:
    """A view of the pixels (H, W[, C]) of a loaded image that is turned upright."""
    return turn(pixels, orientation_of(image))


def turn(pixels: Array, orientation: int) -> Array:
    """A view of pixels (H, W[, C]) that an EXIF orientation turns upright."""
    turned: Array = _UPRIGHT.get(orientation, lambda pixels: pixels)(pixels)
    return turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in px of an image that is not loaded yet, after turning it upright."""
    turned = image.format != "TIFF" and orientation_of(image) >= 5  # Pillow turns the sides of a TIFF itself
    return image.size[::-1] if turned else image.size


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where EXIF is absent or damaged."""
    if image.format in ("PNG", "JPEG") and not image.info.keys() & _METADATA:
        return 1
    try:
        # The method of PNG images would load the image to see whether EXIF follows the pixels.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata must not cost a good picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
