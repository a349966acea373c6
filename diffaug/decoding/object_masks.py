"""Reads a mask: which pixels of an image belong to an object, whatever the values in the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from diffaug.decoding.formats.deep import is_deep
from diffaug.decoding.formats.orientation import orientation_of, turn, upright
from diffaug.decoding.formats.pillow_files import bands_of, open_page
from diffaug.decoding.formats.reduced import opened, read_band
from diffaug.decoding.limits import open_regular, require_size, shared
from diffaug.decoding.reading import read_samples, rejecting
from diffaug.decoding.result import Pixels, RejectedError, Samples, strips

Mask = NDArray[np.bool_]

_LOSSY = ("JPEG", "MPO")
_BYTES_OF_GRAY, _BYTES_OF_COLOR = 3, 7  # per pixel of a whole mask: what `_drawn` makes of it, and the image of Pillow
_OF_BRIGHTEST = 0.5  # share of the largest value that compression leaves to an object and not to its surroundings


def read_mask(path: Path) -> Mask:
    """Which pixels of a mask are not 0 in some channel, bool (H, W), upright; a RejectedError if it can't be read.

    Indices of a palette count by their color, and transparent pixels as 0; where nothing but the transparency differs,
    it is the mask. Of a JPEG, which blurs edges, pixels of at least half the largest value count.
    """
    with shared(), open_regular(path) as file, rejecting(file):
        with suppress(UnidentifiedImageError):  # then it is of a format that Pillow does not read
            image, _ = open_page(file, whole=True)
            if bands := bands_of(image, file):
                require_size(image.size, _BYTES_OF_GRAY, f"{image.mode} mask")
                drawn = _drawn(image, opened(image, bands), (bands.height, bands.width))
                return np.ascontiguousarray(turn(drawn, bands.orientation))
            if not is_deep(image):
                is_gray = image.mode in ("1", "L")
                require_size(image.size, _BYTES_OF_GRAY if is_gray else _BYTES_OF_COLOR, f"{image.mode} mask")
                image.load()
                return np.ascontiguousarray(upright(image, _drawn(image, _strips_of(image), image.size[::-1])))
        file.seek(0)
        return _not_0(read_samples(file, 0, path.name))


def turned_as(image: Path, mask: Mask) -> Mask:
    """The mask of an image file whose pixels were turned by EXIF orientation, when it was drawn on them as stored."""
    try:
        with open_regular(image) as file, Image.open(file) as opened:
            return np.ascontiguousarray(turn(mask, orientation_of(opened)))
    except (UnidentifiedImageError, RejectedError):
        return mask


def _strips_of(image: Image.Image) -> Iterator[Image.Image]:
    for rows in strips(image.height, image.width * 16):
        yield image.crop((0, rows.start, image.width, rows.stop))


def _drawn(image: Image.Image, parts: Iterable[Image.Image], shape: tuple[int, int]) -> Mask:
    """What is drawn, bool (H, W) of this shape, in an image that `parts` make up."""
    brightest = np.empty(shape, np.uint8)
    visible = np.empty(brightest.shape, np.bool_) if image.has_transparency_data and not is_deep(image) else None
    top = 0
    for part in parts:
        rows = slice(top, top := top + part.height)
        brightest[rows], seen = _brightest_and_visible(part)
        if visible is not None:
            visible[rows] = seen
            brightest[rows] *= seen
    least = max(1, np.ceil(_OF_BRIGHTEST * brightest.max())) if image.format in _LOSSY else 1
    drawn = np.greater_equal(brightest, np.uint8(least), out=brightest.view(np.bool_))
    return drawn if visible is None or drawn.any() else visible


def _brightest_and_visible(part: Image.Image) -> tuple[Pixels, Mask | bool]:
    """The largest value of each pixel, uint8 (H, W), and whether it is not transparent."""
    if is_deep(part):
        return _not_0(read_band(part)).view(np.uint8), True
    if part.has_transparency_data:
        pixels = np.asarray(part.convert("RGBA"))
        return _highest(pixels[..., :3]), pixels[..., 3] > 0
    values = np.asarray(part.convert("L" if part.mode in ("1", "L") else "RGB"))
    return values if values.ndim == 2 else _highest(values), True


def _highest(pixels: Pixels) -> Pixels:
    red, green, blue = np.moveaxis(pixels, 2, 0)  # numpy reduces an axis of three values slowly
    return np.asarray(np.maximum(np.maximum(red, green), blue))


def _not_0(samples: Samples) -> Mask:
    values = samples.values
    drawn = np.empty(values.shape[:2], np.bool_)
    for rows in strips(len(values), values[:1].size):
        drawn[rows] = (values[rows] != 0).any(axis=2)
    return np.asarray(drawn if samples.alpha is None else drawn & (samples.alpha > 0))
