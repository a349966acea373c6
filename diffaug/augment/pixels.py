"""Pixels of the images that datasets return: PIL images, arrays and tensors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.augment.foreign import LEAVE_OUT, errors_named
from diffaug.decoding.decode import decode_image
from diffaug.decoding.limits import MIN_SIDE
from diffaug.errors import DataError

DIRECT_MODES = ("L", "RGB", "F")  # of Pillow, with the values of a gray or RGB array
GRAY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
CHANNELS = (1, 2, 3, 4)  # gray, gray and alpha, RGB, RGBA
TOLERANCE = 1e-3  # of floats beyond [0, 1], which resizing and rounding make

Values = NDArray[np.uint8] | NDArray[np.uint16]


def pixels_of(image: Any, index: int) -> Values:
    """The pixels of item `index` of a dataset, uint8 or uint16 (H, W, C), gray or RGB.

    Takes PIL images of any mode, and arrays and tensors of 1 to 4 channels: uint8, bool, of 16 bits, or floating in
    [0, 1]. An alpha channel becomes white. Values of 16 bits stay as they are; the catalog maps all images of a set by
    one rule. Arrays are HWC and tensors CHW, unless only the other order gives an image.

    Raises:
        DataError: This is no such image; NaN and infinity are no values.
    """
    with errors_named(f"item {index} of the dataset is not an image that can be read", LEAVE_OUT):
        array = _channels_last(_array_of(image, index), hasattr(image, "detach"), index)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        return np.ascontiguousarray(_flattened_on_white(_values(array, index), index))


def _array_of(image: Any, index: int) -> NDArray[Any]:
    if isinstance(image, Image.Image):
        _require_size(image.size, index)
        return _array_of_pil(image, index)
    if hasattr(image, "detach"):
        tensor = image.detach().cpu()
        return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())
    if isinstance(image, np.ndarray):
        return image
    raise _refused(index, f"it is of type {type(image).__name__}", "return a PIL image, an array or a tensor")


def _array_of_pil(image: Image.Image, index: int) -> NDArray[Any]:
    if image.mode in DIRECT_MODES:
        return np.asarray(image)
    if image.mode in GRAY_16:
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":
        return _as_16_bit(np.asarray(image), index)
    decoded = decode_image(image)
    if decoded.pixels is None:
        raise _refused(index, decoded.note or decoded.status, "convert it to L or RGB")
    return decoded.pixels


def _channels_last(array: NDArray[Any], is_tensor: bool, index: int) -> NDArray[Any]:
    if array.ndim == 2:
        _require_size(array.shape[::-1], index)
        return array[..., None]
    if array.ndim == 3:
        orders = (array, np.moveaxis(array, 0, -1))
        for ordered in reversed(orders) if is_tensor else orders:
            if ordered.shape[-1] in CHANNELS and min(ordered.shape[:2]) >= MIN_SIDE:
                return ordered
    fix = "an image has a height, a width and 1 to 4 channels; return one image per item"
    raise _refused(index, f"it has the shape {array.shape}", fix)


def _require_size(size: tuple[int, ...], index: int) -> None:
    """A DataError if a side of (width, height) in px is too small."""
    if min(size) < MIN_SIDE:
        what = f"it has {size[0]} x {size[1]} px, and each side needs {MIN_SIDE}"
        raise _refused(index, what, LEAVE_OUT)


def _values(array: NDArray[Any], index: int) -> NDArray[Any]:
    """The values as uint8 or uint16."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype in (np.uint16, np.int16):
        return _as_16_bit(array, index)
    if array.dtype.kind == "f":
        return _scaled(array, index)
    fix = "convert it to uint8, to uint16 if it has more levels, or to floats in [0, 1]"
    raise _refused(index, f"it is of type {array.dtype}, whose black and white are unknown", fix)


def _scaled(array: NDArray[Any], index: int) -> NDArray[np.uint8]:
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise _refused(index, f"{count} of its values are NaN or infinite", "replace them in the dataset")
    if array.min() < -TOLERANCE or array.max() > 1 + TOLERANCE:
        found = f"item {index} of the dataset has values from {array.min():.2g} to {array.max():.2g}"
        fix = "remove the normalization from the dataset's transform, or divide by the largest value of all images"
        raise DataError(f"{found}; images as floats must lie in [0, 1]", fix=fix)
    return np.asarray(np.rint(array.clip(0, 1) * 255), np.uint8)


def _as_16_bit(array: NDArray[Any], index: int) -> NDArray[np.uint16]:
    if array.min() < 0 or array.max() > np.iinfo(np.uint16).max:
        found = f"it has values from {array.min()} to {array.max()}, beyond 16 bits without sign"
        raise _refused(index, found, "add an offset, the same for all images, and convert them to uint16")
    return array.astype(np.uint16)


def _flattened_on_white(array: NDArray[Any], index: int) -> NDArray[Any]:
    """The image without alpha channel."""
    if array.shape[-1] in (1, 3):
        return array
    if array.dtype == np.uint16:
        raise _refused(index, "it has an alpha channel of 16 bits", "return it without, or convert it to uint8")
    flat = decode_image(Image.fromarray(np.ascontiguousarray(array))).pixels
    assert flat is not None
    return flat


def _refused(index: int, what: str, fix: str) -> DataError:
    return DataError(f"item {index} of the dataset is not an image: {what}", fix=fix)
