"""Which files of a data folder were touched since they were last read, so that only those are read again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffaug.decoding.decode import content_sha256
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.runtime.parallel import in_threads

CLOCK_SECONDS = 2.0  # the coarsest clock of a file system (FAT)

Stamp = tuple[int, int, int]  # size in bytes, and times of the last change to content and entry in ns
Stamps = NDArray[np.int64]  # (N, 3), one stamp per file
UNKNOWN: Stamp = (0, 0, 0)  # of a file that is not there, or that may have changed since without a trace


def stamp_of(file: str | Path) -> Stamp:
    """The stamp of a file as it is now."""
    try:
        status = os.stat(file)  # noqa: PTH116  (a Path takes longer to make than to look at)
    except (OSError, ValueError):
        return UNKNOWN
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def stamps_of(root: Path, files: Iterable[str]) -> Stamps:
    """The stamps of files, given relative to the data folder."""
    return np.array([stamp_of(f"{root}/{file}") for file in files], dtype=np.int64).reshape(-1, 3)


def is_trusted(stamp: Stamp, began: float) -> bool:
    """Whether a file read after the time `began` is older than its clock can tell."""
    return max(stamp[1:]) < (began - CLOCK_SECONDS) * 1e9


def trusted(stamps: Stamps, began: float) -> Stamps:
    """Stamps of files read after the time `began`; unknown where they can't be trusted."""
    latest = (began - CLOCK_SECONDS) * 1e9
    return np.where((stamps[:, 1:].max(axis=1) < latest)[:, None], stamps, 0)


def is_known(stamps: Stamps, known: Stamps) -> NDArray[np.bool_]:
    """Which files, bool (N,), are as they were when `known` was taken."""
    found: NDArray[np.bool_] = (stamps == known).all(axis=1) & known.any(axis=1)
    return found


def changed_files(root: Path, files: Sequence[str], sha256: Sequence[str], known: Stamps) -> tuple[list[str], Stamps]:
    """The files whose content is not the one with these hashes, and the stamps to know them by next time.

    Only files that were touched since `known` are read.
    """
    began, stamps = time.time(), stamps_of(root, files)
    touched = np.flatnonzero(~is_known(stamps, known)).tolist()
    contents = in_threads(lambda position: content_sha256(root / files[position]), touched)
    changed = [files[at] for at, content in zip(touched, contents, strict=True) if content != sha256[at]]
    known = known.copy()
    known[touched] = trusted(stamps[touched], began)
    return changed, known


def save_stamps(file: Path, stamps: Stamps) -> None:
    """Writes stamps, in place of whatever is there."""
    if file.is_dir():
        storage.discard_directory(file)
    storage.write_array(file, stamps)


def load_stamps(file: Path, count: int) -> Stamps:
    """Reads what `save_stamps` wrote; all are unknown where the file is absent, damaged, or of other files."""
    with suppress(FileNotFoundError, DamagedError):
        stamps = storage.read_array(file)
        if stamps.shape == (count, 3) and stamps.dtype == np.int64:
            return stamps
    return np.zeros((count, 3), np.int64)
