"""Memory that images take while they are decoded: large ones wait for each other, in threads and in processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from diffaug.errors import UsageError
from diffaug.files.locks import exclusive_lock, waiting_lock

PIECE, PIECES = 32 * 10**6, 16  # bytes, and how many of them are shared: two of the largest images at once
UNCOUNTED = 16 * 10**6  # bytes of an image that never waits
WAIT_SECONDS = 0.01


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
_current = threading.local()


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
