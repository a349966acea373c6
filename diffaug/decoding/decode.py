"""Decodes an image file to upright 8-bit sRGB pixels, or reports why that is impossible.

Unlike with Pillow's `convert("RGB")`, values of more than 8 bits are mapped by one rule and not clipped, transparent
pixels become white, and EXIF orientation is applied.
"""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.decoding.formats.color import BECAME_WHITE, read_color, without_needless_color
from diffaug.decoding.formats.deep import is_deep, read_deep
from diffaug.decoding.intensity import IntensityRange, show
from diffaug.decoding.limits import open_regular
from diffaug.decoding.reading import hash_and_file, hash_of_file, hash_of_page, read_header, read_samples
from diffaug.decoding.result import Decoded, Header, RejectedError, Samples

_BLOCK_BYTES = 2**26  # of Pillow; each thread keeps freed blocks of less than glibc's 32 MB for itself


def decode(path: Path, *, page: int = 0, intensity: IntensityRange | None = None) -> Decoded:
    """Decodes one page of an image file, whatever its extension says.

    Never raises for a bad file. Limits on memory are checked before memory is taken. Values of more than 8 bits are
    mapped by `intensity`, without it by the file's bit depth. A JPEG damaged in its middle can decode to other pixels
    without any sign of it.
    """
    sha256 = ""
    try:
        with open_regular(path) as file:
            sha256, content = (hash_of_page(path, file), file) if page else hash_and_file(file)
            return _finish(read_samples(content, page, path.name), intensity, sha256)
    except RejectedError as rejected:
        return replace(rejected.result, sha256=sha256)


def decode_image(image: Image.Image, intensity: IntensityRange | None = None) -> Decoded:
    """The pixels of an open Pillow image of any mode; status and note say why there are none.

    Whatever the decoder of a damaged image raises is passed on.
    """
    try:
        return _finish(read_deep(image, image.copy) if is_deep(image) else read_color(image), intensity)
    except RejectedError as rejected:
        return rejected.result


def peek(path: Path) -> Header | None:
    """What the header of a file promises; None if it can't be read, of which `decode` gives the reason."""
    try:
        with open_regular(path) as file:
            return read_header(file, path.name)
    except RejectedError:
        return None


def content_sha256(path: Path) -> str:
    """The sha256 that `decode` reports for the file, without decoding it."""
    try:
        with open_regular(path) as file:
            return hash_of_file(file)
    except RejectedError:
        return ""


def pixel_sha256(pixels: NDArray[Any]) -> str:
    """A hash of shape and pixels: equal for equal pictures, whatever file format holds them."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Inside the block, Pillow's and pydicom's remarks on odd files are silent, and Pillow gives back all memory.

    `decode` checks sizes itself. Filters and blocks belong to the process, so this goes around a thread pool, not
    inside its threads.
    """
    pillow: Any = Image.core  # type: ignore[attr-defined]
    block_bytes = pillow.get_block_size()
    pillow.set_block_size(_BLOCK_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        pillow.set_block_size(block_bytes)


def _finish(samples: Samples, intensity: IntensityRange | None, sha256: str = "") -> Decoded:
    pixels = show(samples, intensity)
    notes = [*samples.notes, *([BECAME_WHITE] if samples.alpha is not None and samples.alpha.min() < 255 else [])]
    mode, (width, height), is_deep = samples.mode, samples.size, samples.is_deep
    samples.values = pixels  # frees the values
    pixels = np.ascontiguousarray(without_needless_color(pixels))
    note = "; ".join(notes)
    return Decoded("ok", pixels, width, height, mode, pixel_sha256(pixels), sha256, note, is_deep)
