"""Temporary files and directories: hidden names beside the target that hold the process's host and number."""

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
from tempfile import TemporaryDirectory, gettempdir

from diffaug.files import platform

FOREIGN_SECONDS = 24 * 3600  # after which a temporary of another host counts as abandoned
_NAME = re.compile(r"\..+\.([0-9a-f]{8})\.(\d+)\.tmp", re.DOTALL)


def temporary_name(path: Path) -> Path:
    """The name under which this process prepares or removes `path`, in the same folder."""
    return path.with_name(f".{path.name}.{host()}.{os.getpid()}.tmp")


@cache
def host() -> str:
    """Eight hexadecimal digits for the machine, and for the container on it, since both number their own processes."""
    name = socket.gethostname()
    with suppress(OSError):  # Linux only
        name += f" {Path('/proc/self/ns/pid').stat().st_ino}"
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def is_temporary(path: Path) -> bool:
    """Whether the name is one of `temporary_name`, of whichever process."""
    return _NAME.fullmatch(path.name) is not None


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes those of `paths` that are temporaries of dead processes.

    Whether a process of another host is alive is unknown, so its temporaries are removed when they are a day old.
    """
    for path in list(paths):
        match = _NAME.fullmatch(path.name)
        if match is not None and not _may_be_in_use(path, match[1], int(match[2])):
            remove(path, ignore_errors=True)


def remove_all_leftovers(folder: Path) -> None:
    """Removes what dead processes left anywhere in a folder, and of it beside the folder."""
    remove_leftovers(folder.parent.glob(".*.tmp"))
    for place, folders, files in os.walk(folder):
        found = [name for name in (*folders, *files) if _NAME.fullmatch(name)]
        remove_leftovers(Path(place, name) for name in found)
        folders[:] = [name for name in folders if name not in found]


def scratch_folder() -> TemporaryDirectory[str]:
    """A new folder among the system's temporaries, for a `with` block; removes those of dead processes."""
    remove_leftovers(Path(gettempdir()).glob(".diffaug-*.tmp"))
    ending = temporary_name(Path("x")).name.removeprefix(".x")
    return TemporaryDirectory(prefix=".diffaug-", suffix=ending, ignore_cleanup_errors=True)


def remove(path: Path, *, ignore_errors: bool = False) -> None:
    """Removes a file, a link or a whole directory."""
    with suppress(*([OSError] if ignore_errors else [])):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=ignore_errors)
        else:
            path.unlink(missing_ok=True)


def swap(first: Path, second: Path) -> None:
    """Exchanges two directories: in one step on Linux, elsewhere by renames.

    A kill between those renames leaves both whole, `second` under its temporary name.
    """
    if platform.swap_in_one_step(first, second):
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
        return platform.is_running(process)
    try:
        return time.time() - path.lstat().st_mtime < FOREIGN_SECONDS
    except FileNotFoundError:  # its owner has just renamed it
        return True
