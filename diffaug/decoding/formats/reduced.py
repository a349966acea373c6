"""Reads a large image in bands, each reduced as soon as it is decoded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image

from diffaug.decoding.formats.color import is_white_alone, read_color
from diffaug.decoding.formats.deep import is_deep, read_deep
from diffaug.decoding.formats.orientation import turn
from diffaug.decoding.formats.pillow_files import Bands, scale_of
from diffaug.decoding.result import STRIP_BYTES, Pixels, Samples, Values

_UNSEEN = 1e-6  # weight of a transparent pixel, next to 1 to 255 of others


def read_reduced(image: Image.Image, bands: Bands) -> Samples:
    """The samples of an image that is not loaded yet: the mean of each block of `scale_of` x `scale_of` px."""
    scale = scale_of(image)
    white_alone = image.has_transparency_data and not is_deep(image) and is_white_alone(opened(image, bands))
    whole: Samples | None = None
    notes, top = dict[str, None](), 0
    for band in opened(image, bands):
        samples = read_band(band, white_alone=white_alone)
        notes |= dict.fromkeys(samples.notes)
        values = block_means(samples.values, scale, samples.alpha)
        alpha = None if samples.alpha is None else block_means(samples.alpha[..., None], scale)[..., 0]
        if whole is None:
            shape = (-(-bands.height // scale), *values.shape[1:])
            whole = replace(samples, values=np.empty(shape, values.dtype))
            whole.alpha = None if alpha is None else np.empty(shape[:2], np.uint8)
        rows = slice(top, top := top + len(values))
        whole.values[rows] = values
        if whole.alpha is not None:
            whole.alpha[rows] = 255 if alpha is None else alpha
    assert whole is not None
    orientation = bands.orientation
    size = (bands.height, bands.width) if orientation >= 5 else (bands.width, bands.height)
    alpha = None if whole.alpha is None else turn(whole.alpha, orientation)
    values = turn(whole.values, orientation)
    return replace(whole, values=values, alpha=alpha, size=size, notes=tuple(notes))


def opened(image: Image.Image, bands: Bands) -> Iterator[Image.Image]:
    """The bands of an image, not loaded yet; their height is a multiple of what `scale_of` gives."""
    for band in bands.cut(max(1, STRIP_BYTES // (bands.width * 4 * 8)) * 8):
        yield Image.open(io.BytesIO(band), formats=[str(image.format)])


def block_means(values: Values, scale: int, alpha: Pixels | None = None) -> Values:
    """The mean of each block of `scale` x `scale` values (H, W, C), blocks at the far edges being smaller.

    Values count by their opacity `alpha`, uint8 (H, W), if any of a block is seen.
    """
    height, width, channels = values.shape
    if values.dtype == np.uint8 and alpha is None:
        reduced = Image.fromarray(values[..., 0] if channels == 1 else values).reduce(scale)
        return np.asarray(reduced).reshape(-(-height // scale), -1, channels)
    if alpha is None:
        rows, columns = (np.diff([*range(0, side, scale), side]) for side in (height, width))
        means = _block_sums(values, scale) / np.outer(rows, columns)[..., None]
    else:
        weights = np.maximum(alpha[..., None], _UNSEEN)
        means = _block_sums(values * weights, scale) / _block_sums(weights, scale)
    return np.asarray(means if values.dtype.kind == "f" else np.rint(means), values.dtype)


def _block_sums(values: Values, scale: int) -> Values:
    columns = np.add.reduceat(values, np.arange(0, values.shape[1], scale), axis=1, dtype=np.float64)
    return np.asarray(np.add.reduceat(columns, np.arange(0, values.shape[0], scale), axis=0))


def read_band(band: Image.Image, *, white_alone: bool = False) -> Samples:
    """The samples of a band of `opened`; for `white_alone` see `read_color`."""
    if not is_deep(band):
        return read_color(band, white_alone=white_alone)
    source = band.fp  # type: ignore[attr-defined]
    return read_deep(band, lambda: Image.open(io.BytesIO(source.getvalue()), formats=[str(band.format)]))
