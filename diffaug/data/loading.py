"""Decodes all files of a data folder, each once and in threads, to one array at the working size."""

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from diffaug.configuration.settings import DataSettings
from diffaug.data.decoding.decode import Decoded, decode, peek_size, strict_pillow
from diffaug.data.resize import choose_image_size, fit_to_size, to_channels

Progress = Callable[[int, int], None]  # called with what is done, and what there is in all
In = TypeVar("In")
Out = TypeVar("Out")

_THREADS = min(8, os.cpu_count() or 1)


def load_images(
    paths: Sequence[Path], settings: DataSettings, progress: Progress
) -> tuple[list[Decoded], NDArray[np.uint8]]:
    """Decodes files and brings them to one size and number of channels.

    Returns:
        Each file without its pixels, and the pixels of the usable ones in the same order, uint8 (M, H, W, C).
    """
    with strict_pillow():
        # The headers give the working size, so that each file is decoded only once. Files that turn out to be damaged
        # can move the median; only then is there a second round.
        sizes = [size for size in in_threads(peek_size, paths) if size]
        while True:
            image_size = choose_image_size(sizes or [(1, 1)], settings)
            loaded, pixels = _load_at(image_size, paths, settings, progress)
            sizes = [(item.height, item.width) for item in loaded if item.status == "ok"]
            if not sizes or choose_image_size(sizes, settings) == image_size:
                return loaded, pixels


def in_threads(function: Callable[[In], Out], items: Iterable[In]) -> Generator[Out, None, None]:
    """Like `map`, in threads and in order; closing it on the way drops what has not begun."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(function, items)


def _load_at(
    image_size: tuple[int, int], paths: Sequence[Path], settings: DataSettings, progress: Progress
) -> tuple[list[Decoded], NDArray[np.uint8]]:
    pixels = np.empty((len(paths), *image_size, settings.channels or 3), np.uint8)
    channels: list[int] = []
    loaded: list[Decoded] = []

    def load(path: Path) -> tuple[Decoded, NDArray[np.uint8] | None]:
        decoded = decode(path)
        fitted = None if decoded.pixels is None else fit_to_size(decoded.pixels, image_size)
        return replace(decoded, pixels=None), fitted

    with closing(in_threads(load, paths)) as results:
        for item, fitted in results:
            if fitted is not None:
                pixels[len(channels)] = to_channels(fitted, pixels.shape[-1])
                channels.append(fitted.shape[-1])
            loaded.append(item)
            progress(len(loaded), len(paths))
    kept = settings.channels or (1 if all(count == 1 for count in channels) else 3)
    return loaded, np.ascontiguousarray(pixels[: len(channels), ..., :kept])
