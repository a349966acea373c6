"""What is not yet in its place, or no longer: hidden names beside the target that carry the process's number."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

_NAME = re.compile(r"\..+\.(\d+)\.tmp", re.DOTALL)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def temporary_name(path: Path) -> Path:
    """The name under which this process prepares or removes `path`, in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether the name is one of `temporary_name`, of whichever process."""
    return _NAME.fullmatch(path.name) is not None


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes those of `paths` that are temporaries of processes that died, such as by SIGKILL."""
    for path in list(paths):
        match = _NAME.fullmatch(path.name)
        if match is None or _is_running(int(match[1])):
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


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
