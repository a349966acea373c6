"""The images of a pool as one memory-mapped array, which all processes of a training share.

The array lies in the pool's folder, beside the PNG files that it is made of. It can be removed at any time: the next
training makes it again. Verification, exports and copies of the pool don't look at it.
"""

from __future__ import annotations

import shlex
import warnings
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.errors import DamagedError
from diffaug.files import locks, storage
from diffaug.runtime.console import ConsoleNarrator, Narrator
from diffaug.runtime.parallel import in_threads
from diffaug.synthesis.pool.pool import MANIFEST, Pool

PACKED, LOCK = f"{storage.CACHE}/pixels", f"{storage.CACHE}/pixels.lock"
PIXELS, CHECKSUMS = "pixels.npy", "crc32.npy"
MANY_IMAGES = 5_000  # from which on making the array is reported, since it takes more than a few seconds

Read = Callable[[int], NDArray[np.uint8]]


class PackedImages:
    """Reads image `position` of a pool from its array, uint8 (H, W, C), which can't be written to.

    An image is compared with its checksum when a process reads it for the first time. Pickling keeps the path alone, so
    a process that is spawned maps the same file.

    Args:
        folder: The folder of the array.
        rows: The row of each image in the array, int64 (N,).
    """

    def __init__(self, folder: Path, rows: NDArray[np.int64]) -> None:
        self._folder, self._rows = folder, rows
        self._pixels = np.asarray(storage.read_array(folder / PIXELS, mapped=True))
        self._checksums = storage.read_array(folder / CHECKSUMS)
        self._is_checked = np.zeros(len(self._pixels), np.bool_)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._folder, self._rows)

    def __call__(self, position: int) -> NDArray[np.uint8]:
        """The pixels of one image."""
        row = self._rows[position]
        pixels: NDArray[np.uint8] = self._pixels[row]
        if not self._is_checked[row]:
            if zlib.crc32(pixels.data) != self._checksums[row]:
                fix = f"remove its folder, and it is made again: rm -r {shlex.quote(str(self._folder))}"
                raise DamagedError("an image of the packed pool was changed", where=self._folder / PIXELS, fix=fix)
            self._is_checked[row] = True
        return pixels


def packed_reader(pool: Pool) -> Read:
    """What reads the images of a pool for a training: from the packed array, which is made if there is none.

    Where it can't be made, as in a folder that can't be written to, images are read from their files, with a warning.

    Raises:
        DamagedError: An image was changed.
    """
    folder, whole = pool.root / PACKED, pool.whole
    if not _is_packed(folder, pool) and len(whole):
        try:
            with locks.waiting_lock(pool.root / LOCK, optional=True):
                if not _is_packed(folder, pool):  # another process may have made it meanwhile
                    _pack(whole, folder)
        except OSError as error:
            reason = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
            warnings.warn(
                f"the images of the pool are read from their {len(whole)} files, which is slower, since they can't be "
                f"packed ({reason}); let a process that may write there open the pool for training once",
                stacklevel=3,
            )
    if not len(whole) or not _is_packed(folder, pool):
        return pool.read
    rows = np.arange(len(whole)) if len(pool) == len(whole) else pd.Index(whole.files).get_indexer(pd.Index(pool.files))
    return PackedImages(folder, rows)


def _is_packed(folder: Path, pool: Pool) -> bool:
    """Whether there is a whole array of the pool's present images."""
    try:
        return storage.committed_metadata(folder, unhashed=(PIXELS,)) == _made_of(pool)
    except DamagedError:
        return False


def _made_of(pool: Pool) -> dict[str, Any]:
    recorded = storage.recorded_files(pool.root, folders=False)
    return {"manifest": recorded[MANIFEST].sha256, "shape": [*pool.image_size, pool.channels]}


def _pack(pool: Pool, folder: Path) -> None:
    shape = (len(pool), *pool.image_size, pool.channels)
    checksums = []
    with storage.new_directory(folder, _made_of(pool)) as staging:
        with storage.array_writer(staging / PIXELS, shape) as append, closing(_images(pool)) as images:
            for pixels in images:
                append(pixels)
                checksums.append(zlib.crc32(np.ascontiguousarray(pixels).data))
        storage.write_array(staging / CHECKSUMS, np.array(checksums, np.uint32))


def _images(pool: Pool) -> Generator[NDArray[np.uint8]]:
    narrator = ConsoleNarrator() if len(pool) >= MANY_IMAGES else Narrator()
    with closing(narrator), closing(in_threads(pool.read, range(len(pool)))) as images:
        for number, pixels in enumerate(images, start=1):
            yield pixels
            narrator.progress("packing the pool for training", number, len(pool))
