"""The only place that writes: atomic files, committed directories and hashes.

A file is written beside its target, flushed to the disk and renamed over it, so that after a power cut it has the old
content or the new one. A directory is finished once `DONE.json`, which lists its files with sizes and hashes, has been
written into it last.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from diffaug.errors import DamagedError
from diffaug.files.encoding import fingerprint as fingerprint  # noqa: PLC0414  (callers reach these through storage)
from diffaug.files.encoding import finite as finite  # noqa: PLC0414
from diffaug.files.encoding import json_bytes, parquet_bytes
from diffaug.files.encoding import png_bytes as png_bytes  # noqa: PLC0414
from diffaug.files.encoding import sha256_bytes as sha256_bytes  # noqa: PLC0414
from diffaug.files.encoding import sha256_file as sha256_file  # noqa: PLC0414
from diffaug.files.naming import naming, naming_its_file
from diffaug.files.paths import safe_join as safe_join  # noqa: PLC0414
from diffaug.files.paths import safe_names as safe_names  # noqa: PLC0414
from diffaug.files.platform import make_folder, sync_directory, sync_files
from diffaug.files.reading import REPAIR_HINT as REPAIR_HINT  # noqa: PLC0414
from diffaug.files.reading import decode_png as decode_png  # noqa: PLC0414
from diffaug.files.reading import is_regular as is_regular  # noqa: PLC0414
from diffaug.files.reading import read_array as read_array  # noqa: PLC0414
from diffaug.files.reading import read_bytes as read_bytes  # noqa: PLC0414
from diffaug.files.reading import read_hashed as read_hashed  # noqa: PLC0414
from diffaug.files.reading import read_json as read_json  # noqa: PLC0414
from diffaug.files.reading import read_parquet as read_parquet  # noqa: PLC0414
from diffaug.files.reading import read_png as read_png  # noqa: PLC0414
from diffaug.files.reading import read_signed_array as read_signed_array  # noqa: PLC0414
from diffaug.files.reading import require_file as require_file  # noqa: PLC0414
from diffaug.files.reading import short_hash as short_hash  # noqa: PLC0414
from diffaug.files.temporaries import remove, remove_leftovers, swap, temporary_name
from diffaug.files.verification import DONE as DONE  # noqa: PLC0414
from diffaug.files.verification import LISTING as LISTING  # noqa: PLC0414
from diffaug.files.verification import VERIFIED, RecordedFile, read_commit, require_unchanged, signed_commit

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MANY_FILES = 1000  # from which on those in folders are recorded apart, so that `DONE.json` is read at once
CACHE = ".cache"  # a folder in a finished directory, of what can be made again: neither recorded nor looked at


@naming_its_file
def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically and durably, making its folder when needed."""
    make_folder(path.parent)
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def write_hashed(folder: Path, stem: str, suffix: str, content: bytes) -> None:
    """Writes a file whose name ends in the hash of its content, which `read_hashed` checks."""
    write_bytes(folder / f"{stem}-{short_hash(content)}{suffix}", content)


@naming_its_file
def write_unfinished(path: Path, content: bytes) -> None:
    """Writes a file of a directory that `commit_directory` makes durable later, in a tenth of the time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Writes readable JSON atomically; non-finite numbers become null."""
    write_bytes(path, json_bytes(content))


@naming_its_file
def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Appends lines durably, in place of a last line that was cut short; readers must ignore one without a newline."""
    is_new = not path.exists()
    make_folder(path.parent)
    with path.open("ab+") as file:
        _drop_cut_line(file)
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_directory(path.parent)


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Writes a table atomically as parquet."""
    write_bytes(path, parquet_bytes(table))


def write_array(path: Path, array: np.ndarray[Any, Any], *, signed: bool = False) -> None:
    """Writes an array atomically as .npy, without pickle; a signed one is followed by its hash, which numpy ignores."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    write_bytes(path, content + hashlib.sha256(content).digest() if signed else content)


@contextmanager
def array_writer(path: Path, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray[Any, Any]], object]]:
    """Yields what appends uint8 values to a .npy file of this shape, which is never in memory whole.

    The file belongs to a directory that `commit_directory` makes durable later.
    """
    import numpy as np

    with naming(path), path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        begin = file.tell()
        yield lambda values: file.write(np.ascontiguousarray(values).data)
        assert file.tell() - begin == np.prod(shape, dtype=np.int64), "the values do not fill the array"


def commit_directory(directory: Path, metadata: Mapping[str, Any], *, without: Collection[str] = ()) -> None:
    """Declares a directory finished by writing its `DONE.json`, once all of its files are on the disk.

    Folders in it of the names `without`, at any depth, and its `CACHE` are no part of what is finished.
    """
    remove_leftovers(directory.rglob(".*.tmp"))
    own = {directory / name for name in (DONE, LISTING, VERIFIED)}
    parts = [path for path in sorted(directory.rglob("*")) if path not in own]
    paths = [path for path in parts if {*without, CACHE}.isdisjoint(path.relative_to(directory).parts)]
    files = [path for path in paths if path.is_file()]
    sync_files(files)
    for folder in (directory, *(path for path in paths if path.is_dir())):
        sync_directory(folder)
    record = {
        path.relative_to(directory).as_posix(): RecordedFile(path.stat().st_size, sha256_file(path)) for path in files
    }
    remove(directory / LISTING)
    write_json(directory / DONE, signed_commit(metadata, _listed_apart(directory, record)))


def recorded_metadata(directory: Path) -> dict[str, Any] | None:
    """The metadata of a finished directory, None if it is not finished; looks at no other file than the record."""
    record = read_commit(directory)
    return None if record is None else record.metadata


def recorded_files(directory: Path, *, folders: bool = True) -> dict[str, RecordedFile]:
    """What is recorded of each file of a finished directory, also of those in folders; empty if it is not finished."""
    record = read_commit(directory)
    return {} if record is None else record.all_files() if folders else record.beside()


def committed_metadata(
    directory: Path, *, verify: bool = False, unhashed: tuple[str, ...] = (), folders: bool = True
) -> dict[str, Any] | None:
    """The metadata of a finished directory whose files are as they were written, or None if it is not finished.

    With `verify` files are hashed also if they were before and did not change since, as far as the file system tells.
    Of files whose paths begin as `unhashed` says, readers check the hash themselves, and only the size is compared.
    Files in `folders` of it may be left out.

    Raises:
        DamagedError: The record or a file was changed, or a file is missing.
    """
    record = read_commit(directory)
    if record is None:
        return None
    files = record.all_files() if folders else record.beside()
    require_unchanged(directory, files, hash_all=verify, unhashed=unhashed)
    return record.metadata


def is_damaged(directory: Path) -> bool:
    """Whether a finished directory is not as it was written; every byte is looked at."""
    try:
        committed_metadata(directory, verify=True)
    except DamagedError:
        return True
    return False


def changes_since_commit(directory: Path) -> dict[str, str]:
    """Maps relative paths in a finished directory to `missing`, `changed` (also a link) or `foreign`, sorted."""
    try:
        record = read_commit(directory)
    except DamagedError:
        return {DONE: "changed"}
    if record is None:
        return {DONE: "missing"}
    if (directory / DONE).read_bytes() != json_bytes(signed_commit(record.metadata, record.files)):
        return {DONE: "changed"}
    try:
        files = record.files | record.all_files()
    except DamagedError:
        return {LISTING: "changed" if (directory / LISTING).exists() else "missing"}
    found = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    present = {path.relative_to(directory).as_posix(): path for path in found}
    present = {name: path for name, path in present.items() if not name.startswith(f"{CACHE}/")}
    changes = dict.fromkeys(present.keys() - files.keys() - {DONE, VERIFIED}, "foreign")
    changes |= dict.fromkeys(files.keys() - present.keys(), "missing")
    for name in files.keys() & present.keys():
        path = present[name]
        if path.is_symlink() or not path.is_file() or sha256_file(path) != files[name].sha256:
            changes[name] = "changed"
    return dict(sorted(changes.items()))


@contextmanager
def new_directory(target: Path, metadata: Mapping[str, Any]) -> Iterator[Path]:
    """Yields an empty directory beside `target` that replaces it, committed, when the block ends without an error.

    The older directory stays until the new one is whole, and both change places in one step.
    """
    make_folder(target.parent)
    staging = _free_temporary(target)
    staging.mkdir()
    try:
        yield staging
        commit_directory(staging, metadata)
        if target.exists():
            swap(staging, target)
        else:
            staging.replace(target)
        sync_directory(target.parent)
    finally:
        remove(staging, ignore_errors=True)


def copy_directory(source: Path, target: Path) -> None:
    """Copies a finished directory to `target`, which is replaced, committed with the same metadata."""
    with new_directory(target, committed_metadata(source) or {}) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(VERIFIED, CACHE))
        (staging / DONE).unlink()


def discard_directory(directory: Path) -> None:
    """Removes a directory in one step, so that a half-removed one is never taken for an unfinished one."""
    if directory.exists():
        aside = _free_temporary(directory)
        directory.replace(aside)
        sync_directory(directory.parent)
        remove(aside)


def clear_directory(directory: Path, *, keep: Collection[str] = ()) -> None:
    """Empties a directory except for some of its subfolders; its commitment goes first."""
    remove(directory / DONE)
    for item in sorted(directory.iterdir()) if directory.is_dir() else ():
        if item.name not in keep or not item.is_dir():
            remove(item)


def _free_temporary(directory: Path) -> Path:
    """An unused name beside `directory`; removes what dead processes left there."""
    temporary = temporary_name(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    remove_leftovers(directory.parent.glob(".*.tmp"))
    return temporary


def _drop_cut_line(file: IO[bytes]) -> None:
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _listed_apart(directory: Path, files: dict[str, RecordedFile]) -> dict[str, RecordedFile]:
    """What `DONE.json` says of the files; if they are many, those in folders are written to the `LISTING`."""
    if len(files) <= MANY_FILES:
        return files
    path = directory / LISTING
    write_json(path, {name: of._asdict() for name, of in files.items() if "/" in name})
    beside = {name: of for name, of in files.items() if "/" not in name}
    return beside | {LISTING: RecordedFile(path.stat().st_size, sha256_file(path))}
