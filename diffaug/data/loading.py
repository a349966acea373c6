"""Decodes all files of a data folder, each once and in threads, to one array at the working size."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from diffaug.configuration.settings import DataSettings
from diffaug.data.decode import Decoded, decode, peek_size, pixel_sha256, strict_pillow
from diffaug.data.resize import choose_channels, choose_image_size, fit_to_size, to_channels

Progress = Callable[[int, int], None]
In = TypeVar("In")
Out = TypeVar("Out")

_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Loaded:
    """One file's verdict, without its pixels, and the hash of its pixels at full size (empty when not ok)."""

    decoded: Decoded
    pixel_sha256: str


def load_images(
    paths: Sequence[Path], settings: DataSettings, progress: Progress
) -> tuple[list[Loaded], NDArray[np.uint8]]:
    """Decodes files and brings them to one size and number of channels.

    Args:
        paths: The files.
        settings: Working size and channels; what is none is read off the usable images.
        progress: Called with (files done, files in all).

    Returns:
        What became of each file, and the pixels of the usable ones in the same order, uint8 (M, H, W, C).
    """
    with strict_pillow():
        # The headers tell the working size, so that each file need be decoded only once. Files that turn out
        # to be damaged can move the median; only then is there a second round.
        sizes = [size for size in in_threads(peek_size, paths) if size]
        while True:
            image_size = choose_image_size(sizes or [(1, 1)], settings)
            loaded, pixels = _load_at(image_size, paths, settings, progress)
            sizes = [(item.decoded.height, item.decoded.width) for item in loaded if item.decoded.verdict == "ok"]
            if not sizes or choose_image_size(sizes, settings) == image_size:
                return loaded, pixels


def in_threads(function: Callable[[In], Out], items: Iterable[In]) -> Generator[Out, None, None]:
    """Like `map`, in threads and in order; closing it on the way drops what has not begun."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(function, items)


def _load_at(
    image_size: tuple[int, int], paths: Sequence[Path], settings: DataSettings, progress: Progress
) -> tuple[list[Loaded], NDArray[np.uint8]]:
    pixels = np.empty((len(paths), *image_size, settings.channels or 3), np.uint8)
    channels: list[int] = []
    loaded: list[Loaded] = []
    with closing(in_threads(partial(_load, image_size), paths)) as results:
        for item, fitted in results:
            if fitted is not None:
                pixels[len(channels)] = to_channels(fitted, pixels.shape[-1])
                channels.append(fitted.shape[-1])
            loaded.append(item)
            progress(len(loaded), len(paths))
    used = pixels[: len(channels), ..., : choose_channels(channels, settings)]
    return loaded, np.ascontiguousarray(used)


def _load(image_size: tuple[int, int], path: Path) -> tuple[Loaded, NDArray[np.uint8] | None]:
    decoded = decode(path)
    if decoded.pixels is None:
        return Loaded(decoded, ""), None
    fitted = fit_to_size(decoded.pixels, image_size)
    return Loaded(replace(decoded, pixels=None), pixel_sha256(decoded.pixels)), fitted
