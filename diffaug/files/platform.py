"""What operating systems do differently: durable folders, directories that change places, living processes."""

import ctypes
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from diffaug.files.naming import naming_its_file

IS_WINDOWS = os.name == "nt"
SYNCS_AT_ONCE = 16
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_QUERY_LIMITED_INFORMATION, _ACCESS_DENIED, _STILL_ACTIVE = 0x1000, 5, 259


def sync_files(paths: Iterable[Path]) -> None:
    """Makes files durable, many at once, since a disk can write them together."""

    @naming_its_file
    def sync(path: Path) -> None:
        with path.open("rb+" if IS_WINDOWS else "rb") as file:  # Windows syncs through a handle that may write
            os.fsync(file.fileno())

    with ThreadPoolExecutor(SYNCS_AT_ONCE) as threads:
        for _ in threads.map(sync, paths):
            pass


@naming_its_file
def sync_directory(directory: Path) -> None:
    """Makes the names in a folder durable; does nothing on Windows, where a folder cannot be opened."""
    if IS_WINDOWS:
        return
    with suppress(PermissionError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def swap_in_one_step(first: Path, second: Path) -> bool:
    """Exchanges two directories atomically; returns False where the system cannot, and changes nothing then."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(first), os.fsencode(second)
    return renameat2 is not None and renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0


def is_running(process: int) -> bool:
    """Whether a process of this number is alive on this machine."""
    if IS_WINDOWS:  # where os.kill(process, 0) would send Ctrl-C
        return _is_running_on_windows(process)
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _is_running_on_windows(process: int) -> bool:
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined, unused-ignore]
    handle = kernel.OpenProcess(_QUERY_LIMITED_INFORMATION, False, process & 0xFFFFFFFF)
    if not handle:
        return bool(ctypes.get_last_error() == _ACCESS_DENIED)  # type: ignore[attr-defined, unused-ignore]
    code = ctypes.c_ulong()
    try:
        return bool(kernel.GetExitCodeProcess(handle, ctypes.byref(code)) and code.value == _STILL_ACTIVE)
    finally:
        kernel.CloseHandle(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, durably; errors name the folder that is made, not the one above it."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        try:
            sync_directory(one.parent)
        except OSError as error:
            error.filename = os.fspath(one)
            raise
