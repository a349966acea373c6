"""Whether the files of a committed directory have the content that was recorded.

Each file is hashed once. Later its size, times and inode tell that it is the same file, as in the index of git. A file
that was changed shortly before it was hashed is hashed again, since its clock may be too coarse to tell another change.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from diffaug.errors import DamagedError
from diffaug.files.encoding import sha256_file
from diffaug.files.paths import safe_join
from diffaug.files.reading import REPAIR_HINT
from diffaug.files.temporaries import temporary_name
from diffaug.runtime.parallel import in_threads

VERIFIED = ".verified.json"  # in the directory; never recorded, and of no use in a copy, whose files are others
NOTED_BYTES = 2**22  # of files, at least; hashing less takes no longer than noting it
CLOCK_NS = 2_000_000_000  # the coarsest clock of a file system (FAT)


class RecordedFile(NamedTuple):
    """What the record of a directory says of a file."""

    size: int
    sha256: str


class Stamp(NamedTuple):
    """What changes with the content of a file: size, times of the last change to content and entry, and the file."""

    size: int
    changed: int
    entered: int
    inode: int
    device: int


def require_unchanged(
    directory: Path, files: Mapping[str, RecordedFile], *, hash_all: bool, unhashed: tuple[str, ...] = ()
) -> None:
    """Raises DamagedError if a file is missing, has another size, or another hash.

    With `hash_all` files are hashed also if they were before. `unhashed` are beginnings of paths of files whose readers
    check the hash themselves.
    """
    began, stamps = time.monotonic_ns(), {}
    for name, recorded in files.items():
        stamp = _stamp_of(_path(directory, name))
        if stamp is None or stamp.size != recorded.size:
            what = "a file is missing or has another size than when it was written"
            raise DamagedError(what, where=_path(directory, name), fix=REPAIR_HINT)
        stamps[name] = stamp
    known = {} if hash_all else _known(directory)
    unknown = [
        name
        for name, recorded in files.items()
        if hash_all or not (name.startswith(unhashed) or known.get(name) == [*stamps[name], recorded.sha256])
    ]
    _require_hashes(directory, files, unknown)
    if not hash_all and sum(files[name].size for name in unknown) >= NOTED_BYTES:
        kept = {name: entry for name, entry in known.items() if name in files and name not in unknown}
        _remember(directory, kept, {name: [*stamps[name], files[name].sha256] for name in unknown}, began)


def _require_hashes(directory: Path, files: Mapping[str, RecordedFile], names: Sequence[str]) -> None:
    hashes = in_threads(lambda name: sha256_file(Path(_path(directory, name))), names)
    with closing(hashes):
        for name, found in zip(names, hashes, strict=True):
            if found != files[name].sha256:
                what = "a file was changed after it was written"
                raise DamagedError(what, where=_path(directory, name), fix=REPAIR_HINT)


def _known(directory: Path) -> dict[str, list[int | str]]:
    """What `_remember` wrote; nothing if it is absent or damaged."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads((directory / VERIFIED).read_bytes())
        return content if isinstance(content, dict) else {}
    return {}


def _remember(
    directory: Path, kept: Mapping[str, list[int | str]], hashed: Mapping[str, list[int | str]], began: int
) -> None:
    """Notes which files need no hashing next time; does nothing where the directory can't be written."""
    temporary = temporary_name(directory / VERIFIED)
    with suppress(OSError):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                # The clock of the file system, which may be another than that of this machine, when hashing began.
                now = os.fstat(file.fileno()).st_mtime_ns - (time.monotonic_ns() - began)
                old = {name: entry for name, entry in hashed.items() if _last_change(entry) < now - CLOCK_NS}
                if old:
                    json.dump({**kept, **old}, file)
            if old:
                temporary.replace(directory / VERIFIED)
        finally:
            temporary.unlink(missing_ok=True)


def _last_change(entry: list[int | str]) -> int:
    return max(int(entry[1]), int(entry[2]))


def _path(directory: Path, name: str) -> str:
    """The path of a recorded file; `safe_join` resolves links, too slow for 50,000 names that are plainly inside."""
    if name.startswith("/") or ".." in name or "\0" in name or "\\" in name or ":" in name:
        return str(safe_join(directory, name))
    return f"{directory}/{name}"


def _stamp_of(path: str) -> Stamp | None:
    """The stamp of a regular file; None for anything else."""
    with suppress(OSError, ValueError):
        status = os.stat(path)  # noqa: PTH116  (a Path takes longer to make than to look at)
        if stat.S_ISREG(status.st_mode):
            return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    return None
