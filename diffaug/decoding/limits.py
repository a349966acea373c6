"""Bounds on what a file may take, checked by its header; and the memory that large images share."""

from __future__ import annotations

import errno
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from diffaug.decoding.result import RejectedError
from diffaug.errors import UsageError
from diffaug.files.locks import exclusive_lock, waiting_lock

MAX_FILE_BYTES = 256 * 2**20
MAX_MEMORY = 240 * 10**6  # bytes for decoding one image
MIN_SIDE = 4  # px
_OF_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)

PIECE, PIECES = 32 * 10**6, 16  # bytes, and how many of them are shared: two of the largest images at once
UNCOUNTED = 16 * 10**6  # bytes of an image that never waits
WAIT_SECONDS = 0.01
_current = threading.local()


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

    Waits for the memory inside of `shared`.
    """
    width, height = size
    if min(size) < MIN_SIDE:
        raise RejectedError("too small", f"{width} x {height} px; each side needs {MIN_SIDE}", size, mode)
    if width * height * bytes_per_pixel > MAX_MEMORY:
        limit = MAX_MEMORY / bytes_per_pixel / 1e6
        note = f"{width} x {height} px; of this kind at most {limit:.0f} Mpx are read; save it smaller"
        raise RejectedError("too large", note, size, mode)
    reserve(width * height * bytes_per_pixel)


class Budget(Protocol):
    """Pieces of memory that are shared."""

    def take(self, pieces: int) -> AbstractContextManager[None]:
        """Waits until so many pieces are free, and holds them in the block."""


class OfThreads:
    """A budget of the threads of this process; who comes first is served first."""

    def __init__(self) -> None:
        self._free, self._changed, self._turn = PIECES, threading.Condition(), threading.Lock()

    @contextmanager
    def take(self, pieces: int) -> Iterator[None]:
        """Waits until so many pieces are free, and holds them in the block."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= pieces)
            self._free -= pieces
        try:
            yield
        finally:
            with self._changed:
                self._free += pieces
                self._changed.notify_all()


@dataclass(frozen=True)
class OfProcesses:
    """A budget of all processes that use the same folder; a piece is a lock, which a process that dies gives back."""

    folder: Path

    @contextmanager
    def take(self, pieces: int) -> Iterator[None]:
        """Waits until so many pieces are free, and holds them in the block."""
        with ExitStack() as held:
            with waiting_lock(self.folder / "turn.lock", optional=True):  # so that no two wait for pieces of each other
                taken = set[int]()
                while len(taken) < pieces:
                    for number in set(range(PIECES)) - taken:
                        if len(taken) < pieces and self._is_taken(held, number):
                            taken.add(number)
                    time.sleep(WAIT_SECONDS if len(taken) < pieces else 0)
            yield

    def _is_taken(self, held: ExitStack, number: int) -> bool:
        try:
            held.enter_context(exclusive_lock(self.folder / f"{number}.lock", optional=True))
        except UsageError:  # another process has it
            return False
        return True


@dataclass
class _Share:
    """What one image holds of a budget."""

    budget: Budget
    pieces: int = 0
    held: ExitStack = field(default_factory=ExitStack)

    def grow(self, pieces: int) -> None:
        self.held.close()  # waiting for more with some in the hand, two could wait for each other
        self.pieces = pieces
        self.held.enter_context(self.budget.take(pieces))


_OF_THREADS = OfThreads()


@contextmanager
def shared(budget: Budget | None = None) -> Iterator[None]:
    """What `reserve` asks for in this thread is held until the block ends; by default all threads share a budget."""
    share = _current.share = _Share(budget or _OF_THREADS)
    try:
        yield
    finally:
        _current.share = None
        share.held.close()


def reserve(count: float) -> None:
    """Waits until an image may take `count` bytes in all; does nothing outside of `shared`, or for a small image."""
    share: _Share | None = getattr(_current, "share", None)
    pieces = min(PIECES, -int(-count // PIECE))
    if share and count > UNCOUNTED and pieces > share.pieces:
        share.grow(pieces)
