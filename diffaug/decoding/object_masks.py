"""Reads a mask: which pixels of an image belong to an object, whatever the values in the file."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from diffaug.decoding.formats.deep import is_deep
from diffaug.decoding.formats.orientation import orientation_of, turn, upright
from diffaug.decoding.formats.pillow_files import open_page
from diffaug.decoding.limits import open_regular
from diffaug.decoding.reading import read_samples
from diffaug.decoding.result import RejectedError

Mask = NDArray[np.bool_]

_LOSSY = ("JPEG", "MPO")
_OF_BRIGHTEST = 0.5  # share of the largest value that compression leaves to an object and not to its surroundings


def read_mask(path: Path) -> Mask:
    """Which pixels of a mask are not 0 in some channel, bool (H, W), upright; a RejectedError if it can't be read.

    Indices of a palette count by their color, and transparent pixels as 0; where nothing but the transparency differs,
    it is the mask. Of a JPEG, which blurs edges, pixels of at least half the largest value count.
    """
    with open_regular(path) as file:
        image = _in_8_bits(file)
        if image is None:
            samples = read_samples(file, 0, path.name)
            drawn = (samples.values != 0).any(axis=2)
            return np.asarray(drawn if samples.alpha is None else drawn & (samples.alpha > 0))
        try:
            image.load()
            return np.ascontiguousarray(upright(image, _drawn(image)))
        except RejectedError:
            raise
        except Exception as error:  # parsers of damaged files raise OSError, SyntaxError, struct.error, ...
            raise RejectedError("truncated", " ".join(str(error).split()) or "damaged") from error


def turned_as(image: Path, mask: Mask) -> Mask:
    """The mask of an image file whose pixels were turned by EXIF orientation, when it was drawn on them as stored."""
    try:
        with open_regular(image) as file, Image.open(file) as opened:
            return np.ascontiguousarray(turn(mask, orientation_of(opened)))
    except (UnidentifiedImageError, RejectedError):
        return mask


def _in_8_bits(file: BinaryIO) -> Image.Image | None:
    """The image of a file that Pillow reads with 8 bits at most; None, and the file at its beginning, for others."""
    try:
        image, _ = open_page(file)
        if not is_deep(image):
            return image
    except UnidentifiedImageError:
        pass
    except RejectedError:
        raise
    except Exception as error:
        raise RejectedError("truncated", " ".join(str(error).split()) or "damaged") from error
    file.seek(0)
    return None


def _drawn(image: Image.Image) -> Mask:
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        visible = pixels[..., 3] > 0
        colored = (pixels[..., :3] > 0).any(axis=2) & visible
        return np.asarray(colored if colored.any() else visible)
    values = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    brightest = values if values.ndim == 2 else values.max(axis=2)
    least = max(1.0, _OF_BRIGHTEST * float(brightest.max())) if image.format in _LOSSY else 1.0
    return np.asarray(brightest >= least)
