"""Locks of the operating system, which are released when the process that holds them dies."""

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

import portalocker
from portalocker import LockFlags

from diffaug.errors import DamagedError, UsageError
from diffaug.files.platform import make_folder

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
ATTEMPTS = 100  # to open a lock file that others remove
_ALONE_AT_ONCE = LockFlags.EXCLUSIVE | LockFlags.NON_BLOCKING


@contextmanager
def _locked(path: Path, *, flags: LockFlags, optional: bool = False) -> Iterator[None]:
    """Holds a lock, or raises UsageError; `optional` continues without it where the file system has no locks."""
    for attempts_left in reversed(range(ATTEMPTS)):
        with _opened(path, attempts_left) as file:
            try:
                is_mine = file is not None and _acquire(file, flags)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                if not optional:
                    raise UsageError(
                        "this file system has no locks, which the command needs",
                        where=path.parent,
                        fix="copy the study to a disk that has them; only diffaug generate --shard works without",
                    ) from error
                is_mine = True
            if file is None or (is_mine and not _is_at(file, path)):
                continue  # whoever had the lock before removed the file
            if not is_mine:
                break
            yield
            return
    raise UsageError(
        "another diffaug process is using this study",
        where=path.parent,
        fix="wait for it, stop it, or use another study",
    )


exclusive_lock = partial(_locked, flags=_ALONE_AT_ONCE)
shared_lock = partial(_locked, flags=LockFlags.SHARED | LockFlags.NON_BLOCKING)  # held together with others
waiting_lock = partial(_locked, flags=LockFlags.EXCLUSIVE)  # waits until it can be held alone


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Yields whether this process alone has the lock; its file is removed when the block ends.

    Whoever gets the lock must check whether the work that it protects has been done meanwhile: another process may
    have opened the file before it was removed.
    """
    make_folder(path.parent)
    with path.open("a") as file:
        if not _acquire(file, _ALONE_AT_ONCE):
            yield False
            return
        try:
            yield True
        finally:
            with suppress(PermissionError):  # Windows keeps a file that another process has open, which removes it
                path.unlink(missing_ok=True)


def _acquire(file: IO[str], flags: LockFlags) -> bool:
    """Takes the lock; False where another process has it, OSError where the file system refuses."""
    try:
        portalocker.lock(file, flags)
    except portalocker.LockException as error:
        cause = error.__cause__ or error.__context__
        if isinstance(error, portalocker.AlreadyLocked) or getattr(cause, "errno", 0) in (errno.EAGAIN, errno.EACCES):
            return False
        if isinstance(cause, OSError):
            raise cause from None
        raise
    return True


@contextmanager
def _opened(path: Path, attempts_left: int) -> Iterator[IO[str] | None]:
    """The open lock file, made with its folder; None if another process removes the folder meanwhile."""
    try:
        make_folder(path.parent)
        file = path.open("a")
    except FileNotFoundError:
        if not attempts_left:
            raise
        yield None
        return
    except IsADirectoryError as error:
        fix = f"remove it: rm -r {shlex.quote(str(path))}"
        raise DamagedError("a folder is where a lock file should be", where=path, fix=fix) from error
    with file:
        yield file


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is the one that `path` leads to now."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
