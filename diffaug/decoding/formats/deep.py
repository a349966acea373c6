"""Reads values of more than 8 bits from Pillow images, all of their bits."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from diffaug.decoding.formats.orientation import upright
from diffaug.decoding.formats.pillow_files import DEEP_MODES, bits_of, is_deep_color, is_libtiff, is_signed, rawmode_of
from diffaug.decoding.result import Pixels, RejectedError, Samples, Values, strips

_PHOTOMETRIC, _WHITE_IS_ZERO, _MAX_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE = 262, 0, 281, 341
_NO_DATA = 42113  # GDAL's tag: the value, as text, of pixels that have none
_LITTLE = sys.byteorder == "little"
# Libtiff has swapped the bytes already, which Pillow overlooks for these.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if _LITTLE else "L"}  # of a 16-bit sample, by the end of a rawmode


def is_deep(image: Image.Image) -> bool:
    """Whether the values of an image that is not loaded yet are no pixels."""
    return image.mode in DEEP_MODES or is_deep_color(image) or is_signed(image)


def read_deep(image: Image.Image, reopen: Callable[[], Image.Image]) -> Samples:
    """The values of an image that is not loaded yet; `reopen` gives the same image once more."""
    mode, bits, signed = image.mode, bits_of(image), is_signed(image)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    alpha = None
    if is_deep_color(image):
        mode = f"{mode};16"
        values, alpha = _color_16(image, reopen)
    else:
        values = _gray(image, signed=signed, bits=bits)
    values, notes = without_missing(values.reshape(*values.shape[:2], -1), tags)
    require_finite(values, mode)
    if alpha is None:
        alpha = _keyed_out(image, values)
    return Samples(
        values=upright(image, values),
        mode=mode,
        size=upright(image, values[..., 0]).shape[::-1],
        white=0 if signed or mode == "F" or bits > 16 else 2**bits - 1,
        declared_white=_declared_white(tags),
        alpha=None if alpha is None else upright(image, alpha),
        inverted=inverted,
        notes=notes,
    )


def _declared_white(tags: Mapping[int, Any]) -> float:
    value = tags.get(_S_MAX_SAMPLE_VALUE, tags.get(_MAX_SAMPLE_VALUE, 0))
    first = value[0] if isinstance(value, tuple) and value else value
    return float(first) if isinstance(first, int | float) and np.isfinite(first) else 0.0


def without_missing(values: Values, tags: Mapping[int, Any]) -> tuple[Values, tuple[str, ...]]:
    """Values (H, W, C) of a TIFF in which pixels that have none by its tags take the least of the others, and a note.

    A value of 0 is left, since it is black already.
    """
    try:
        missing = float(str(tags[_NO_DATA]).strip("\0 "))
    except (KeyError, ValueError):
        return values, ()
    if not missing:
        return values, ()
    reach = 1e-5 * abs(missing) if values.dtype.kind == "f" else 0  # the text may be rounded
    where = np.isnan(values) if np.isnan(missing) else (values >= missing - reach) & (values <= missing + reach)
    if not where.any() or where.all():
        return values, ()
    return np.where(where, values[~where].min(), values), ("pixels without a value (GDAL_NODATA) took the least value",)


def require_finite(values: Values, mode: str) -> None:
    """A RejectedError if floats hold NaN or infinity."""
    if values.dtype.kind == "f" and not np.isfinite(np.sum(values, dtype=np.float64)):
        height, width = values.shape[:2]
        raise RejectedError("unsupported mode", "its values contain NaN or infinity", (width, height), mode)


def _gray(image: Image.Image, *, signed: bool, bits: int) -> Values:
    rawmode = rawmode_of(image)
    if is_libtiff(image) and rawmode in _NATIVE:
        image = _loaded(image, _NATIVE[rawmode])
    image.load()
    values = _whole(image)
    if signed and image.mode == "L":
        return values.view(np.int8).astype(np.int16)
    is_unsigned_32 = image.mode == "I" and bits == 32 and not signed and image.format == "TIFF"
    return values.view(np.uint32) if is_unsigned_32 else values


def _color_16(image: Image.Image, reopen: Callable[[], Image.Image]) -> tuple[NDArray[np.uint16], Pixels | None]:
    """Values (H, W, 1 or 3) and opacity (H, W).

    Pillow keeps one byte of each sample. Told that the samples have the other byte order, it keeps the other byte.
    """
    rawmode = rawmode_of(image)
    if rawmode.startswith("LA;16"):  # the four bytes of gray and alpha, taken for those of a color with alpha
        parts = _whole(_loaded(image, "RGBA"))
        return np.asarray(parts[..., :1].astype(np.uint16) << 8 | parts[..., 1:2], np.uint16), parts[..., 2].copy()
    high = _loaded(reopen(), rawmode)
    values = np.empty((high.height, high.width, 3), np.uint16)
    alpha = np.empty(values.shape[:2], np.uint8) if high.mode == "RGBA" else None
    for rows, part in _parts(high):
        np.left_shift(part[..., :3], 8, out=values[rows], dtype=np.uint16)
        if alpha is not None:
            alpha[rows] = part[..., 3]
    del high
    for rows, part in _parts(_loaded(image, rawmode[:-1] + _OTHER_BYTE[rawmode[-1]])):
        values[rows] |= part[..., :3]
    return values, alpha


def _whole(image: Image.Image) -> Values:
    parts = _parts(image)
    rows, first = next(parts)
    values = np.empty((image.height, *first.shape[1:]), first.dtype)
    values[rows] = first
    for rows, part in parts:
        values[rows] = part
    return values


def _parts(image: Image.Image) -> Iterator[tuple[slice, Values]]:
    """Strips of the values of a loaded image: Pillow makes two copies of what it hands over at once."""
    for rows in strips(image.height, image.width * 4):
        yield rows, np.asarray(image.crop((0, rows.start, image.width, rows.stop)))


def _loaded(image: Image.Image, rawmode: str) -> Image.Image:
    def renamed(arguments: object) -> object:
        return (rawmode, *arguments[1:]) if isinstance(arguments, tuple) else rawmode

    tiles: list[Any] = image.tile  # type: ignore[attr-defined]  # tuples, with names from Pillow 11 on
    make = getattr(type(tiles[0]), "_make", tuple)
    tiles[:] = [make((*tile[:3], renamed(tile[3]))) for tile in tiles]
    image.load()
    return image


def _keyed_out(image: Image.Image, values: Values) -> Pixels | None:
    """Opacity where a PNG names one value as transparent."""
    key = image.info.get("transparency")
    if image.format != "PNG" or not isinstance(key, int | tuple):
        return None
    return np.where((values == np.asarray(key)).all(axis=2), 0, 255).astype(np.uint8)
