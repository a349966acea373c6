"""Bounds on what a file may take, checked by its header before memory is taken."""

import errno
import stat
from io import BufferedReader
from pathlib import Path

from diffaug.decoding.memory import reserve
from diffaug.decoding.result import RejectedError

MAX_FILE_BYTES = 256 * 2**20
MAX_MEMORY = 240 * 10**6  # bytes for decoding one image
MIN_SIDE = 4  # px
_OF_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file of bounded size for reading; a RejectedError if that is impossible.

    Where the machine lacks something, an OSError says so, since the file may be good.
    """
    try:
        # Opening anything else, such as a pipe, could wait for ever.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RejectedError("unreadable", "not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise RejectedError("too large", f"over {MAX_FILE_BYTES // 2**20} MB")
        return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise_if_of_machine(error)
        reason = str(getattr(error, "strerror", None) or error)
        raise RejectedError("unreadable", reason.lower()) from error


def raise_if_of_machine(error: Exception) -> None:
    """Raises an error again if the machine, and not the file, is to blame."""
    if isinstance(error, OSError) and error.errno in _OF_MACHINE:
        raise error


def require_size(size: tuple[int, int], bytes_per_pixel: float, mode: str) -> None:
    """A RejectedError if width or height in px are too small, or too large for decoding at this memory per pixel.

    Waits for the memory inside of `memory.shared`.
    """
    width, height = size
    if min(size) < MIN_SIDE:
        raise RejectedError("too small", f"{width} x {height} px; each side needs {MIN_SIDE}", size, mode)
    if width * height * bytes_per_pixel > MAX_MEMORY:
        limit = MAX_MEMORY / bytes_per_pixel / 1e6
        note = f"{width} x {height} px; of this kind at most {limit:.0f} Mpx are read; save it smaller"
        raise RejectedError("too large", note, size, mode)
    reserve(width * height * bytes_per_pixel)
