"""What is not yet in its place, or no longer: hidden names beside the target with the process's host and number."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

FOREIGN_SECONDS = 24 * 3600  # after which another host's temporary is taken for a dead process's
_NAME = re.compile(r"\..+\.([0-9a-f]{8})\.(\d+)\.tmp", re.DOTALL)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def temporary_name(path: Path) -> Path:
    """The name under which this process prepares or removes `path`, in the same folder."""
    return path.with_name(f".{path.name}.{host()}.{os.getpid()}.tmp")


@cache
def host() -> str:
    """Eight hexadecimal digits that name where process numbers mean the same: the machine, and the container on it."""
    name = socket.gethostname()
    with suppress(OSError):  # no such file but on Linux
        name += f" {Path('/proc/self/ns/pid').stat().st_ino}"
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def is_temporary(path: Path) -> bool:
    """Whether the name is one of `temporary_name`, of whichever process."""
    return _NAME.fullmatch(path.name) is not None


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes those of `paths` that are temporaries of processes that died, such as by SIGKILL.

    Whether a process of another host is alive can't be told, so what it left goes when it is a day old.
    """
    for path in list(paths):
        match = _NAME.fullmatch(path.name)
        if match is None or _may_be_in_use(path, match[1], int(match[2])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def exchange(first: Path, second: Path) -> None:
    """Lets two directories change places: in one step on Linux, elsewhere in renames.

    A kill between those renames leaves both whole, `second` under its temporary name.
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(first), os.fsencode(second)
    if renameat2 and renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return
    aside = temporary_name(first)
    second.replace(aside)
    try:
        first.replace(second)
    except BaseException:
        aside.replace(second)
        raise
    aside.replace(first)


def _may_be_in_use(path: Path, owner: str, process: int) -> bool:
    if owner == host():
        return _is_running(process)
    try:
        return time.time() - path.lstat().st_mtime < FOREIGN_SECONDS
    except FileNotFoundError:  # its owner has just put it in its place
        return True


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
