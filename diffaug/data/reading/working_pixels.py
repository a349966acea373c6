"""Pixels of the working size: made from the pictures where these are large enough, else from the files again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.data.reading.parts import Reader, Source
from diffaug.data.reading.pictures import Pictures, Pixels
from diffaug.data.resize import Resize, fit_to_size, to_channels
from diffaug.decoding.decode import strict_pillow
from diffaug.decoding.limits import shared
from diffaug.errors import DataError
from diffaug.files import storage
from diffaug.runtime.parallel import in_threads

BLOCK_BYTES = 2 * 2**20  # of pixels made at once


@dataclass(frozen=True, eq=False)
class Originals:
    """Usable images, from which pixels of any size can be made."""

    reader: Reader  # reads the files again
    # with the columns file, page, and the sha256 of the file's content when its picture was made; N rows
    files: pd.DataFrame
    sizes: NDArray[np.int64]  # height and width of the upright images in px, int64 (N, 2)
    pictures: Pictures  # the small images
    resize: Resize  # how they are brought to a size
    channels: int  # 1 gray, 3 RGB

    def at(self, positions: NDArray[np.int64], image_size: tuple[int, int]) -> Pixels:
        """The images at `positions`, uint8 (M, H, W, C)."""
        blocks = list(self._blocks(positions, image_size))
        return np.concatenate(blocks) if blocks else np.empty((0, *image_size, self.channels), np.uint8)

    def write(self, file: Path, positions: NDArray[np.int64], image_size: tuple[int, int]) -> None:
        """Writes the images at `positions` as one .npy array of uint8 (M, H, W, C), a few at a time."""
        with storage.array_writer(file, (len(positions), *image_size, self.channels)) as append:
            for pixels in self._blocks(positions, image_size):
                append(pixels)

    def _blocks(self, positions: NDArray[np.int64], image_size: tuple[int, int]) -> Iterator[Pixels]:
        """The images at `positions`, some at a time, so that memory does not grow with their number."""
        make = self.pictures.gather if self.pictures.all_have((*image_size, self.channels)) else self._made(image_size)
        size = max(1, BLOCK_BYTES // (image_size[0] * image_size[1] * self.channels))
        for start in range(0, len(positions), size):
            yield make(positions[start : start + size])
            self.pictures.forget()

    def _made(self, image_size: tuple[int, int]) -> Callable[[NDArray[np.int64]], Pixels]:
        """What makes images of this size."""
        shapes = self.pictures.shapes[:, :2]
        has_picture = ((shapes >= image_size).all(axis=1) | (shapes == self.sizes).all(axis=1)).tolist()

        def load(position: int) -> Pixels:
            with shared():
                pixels = self.pictures[position] if has_picture[position] else self._decode(position)
                return to_channels(fit_to_size(pixels, image_size, self.resize), self.channels)

        def load_all(positions: NDArray[np.int64]) -> Pixels:
            with strict_pillow():
                return np.stack(list(in_threads(load, positions.tolist())))

        return load_all

    def _decode(self, position: int) -> Pixels:
        file, page, sha256 = (self.files[name].iloc[position] for name in ("file", "page", "sha256"))
        decoded = self.reader.decode(Source(file, int(page)))
        if decoded.pixels is None or decoded.sha256 != sha256:
            raise DataError(
                "the file was changed while the images were read",
                where=self.reader.root / file,
                fix="repeat the command once nothing writes to the folder",
            )
        return decoded.pixels
