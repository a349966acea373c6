"""Locks of the operating system, which the kernel releases when the process that holds them dies."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffaug.errors import UsageError

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Holds the lock alone.

    Raises:
        UsageError: Another process holds it, or the file system has no locks.
    """
    with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


@contextmanager
def shared_lock(path: Path, *, optional: bool = False) -> Iterator[None]:
    """Holds the same lock together with others who share it.

    Args:
        path: The lock's file.
        optional: Whether to go on without it where the file system has no locks.

    Raises:
        UsageError: Another process holds it exclusively, or there are no locks and it is not optional.
    """
    with _locked(path, fcntl.LOCK_SH | fcntl.LOCK_NB, optional=optional):
        yield


@contextmanager
def waiting_lock(path: Path, *, optional: bool = False) -> Iterator[None]:
    """Holds the lock alone, after waiting for those who had it before; `optional` as in `shared_lock`."""
    with _locked(path, fcntl.LOCK_EX, optional=optional):
        yield


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Yields whether this process alone has the lock; its file is removed when the block ends.

    Whoever gets the lock must look whether the work that it stands for has been done meanwhile: another process may
    have opened the file before it was removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, operation: int, *, optional: bool = False) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, operation)
        except BlockingIOError as error:
            raise UsageError(
                "another diffaug process is working in this study",
                where=path.parent,
                fix="wait for it, stop it, or choose another --study",
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            if not optional:
                raise UsageError(
                    "the file system has no locks, which this command needs",
                    where=path.parent,
                    fix="copy the study to a disk that has them; diffaug generate --shard alone does without",
                ) from error
        yield
