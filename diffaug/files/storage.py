"""The only place that writes: atomic files, committed directories and hashes.

A file is written beside its target, flushed to the disk and renamed over it, so that after a power cut it has the old
content or the new one. A directory is finished once `DONE.json`, which lists its files with sizes and hashes, has been
written into it last.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from diffaug.errors import DamagedError
from diffaug.files.encoding import fingerprint as fingerprint  # noqa: PLC0414  (callers reach these through storage)
from diffaug.files.encoding import finite, json_bytes
from diffaug.files.encoding import png_bytes as png_bytes  # noqa: PLC0414
from diffaug.files.encoding import sha256_bytes as sha256_bytes  # noqa: PLC0414
from diffaug.files.encoding import sha256_file as sha256_file  # noqa: PLC0414
from diffaug.files.paths import safe_join as safe_join  # noqa: PLC0414
from diffaug.files.paths import safe_names as safe_names  # noqa: PLC0414
from diffaug.files.platform import sync_directory, sync_files
from diffaug.files.temporaries import remove, remove_leftovers, swap, temporary_name

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

DONE = "DONE.json"
REPAIR_HINT = "restore it from a copy, or repeat the command that made it with --overwrite"


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically and durably, making its folder when needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
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


def read_json(path: Path) -> Any:
    """Reads JSON; raises DamagedError if the file holds something else."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(f"not valid JSON ({error})", where=path) from error


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Appends lines durably, in place of a last line that was cut short; readers must ignore one without a newline."""
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _drop_cut_line(file)
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_directory(path.parent)


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Writes a table atomically as parquet."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())


def write_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Writes an array atomically as .npy, without pickle."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


@contextmanager
def array_writer(path: Path, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray[Any, Any]], object]]:
    """Yields what appends uint8 values to a .npy file of this shape, which is never in memory whole.

    The file belongs to a directory that `commit_directory` makes durable later.
    """
    import numpy as np

    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        begin = file.tell()
        yield lambda values: file.write(np.ascontiguousarray(values).data)
        assert file.tell() - begin == np.prod(shape, dtype=np.int64), "the values do not fill the array"


def read_array(path: Path) -> np.ndarray[Any, Any]:
    """Reads a .npy file; raises DamagedError if it holds something else."""
    import numpy as np

    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise DamagedError(f"not an array ({error})", where=path) from error


def commit_directory(directory: Path, metadata: Mapping[str, Any]) -> None:
    """Declares a directory finished by writing its `DONE.json`, once all of its files are on the disk."""
    remove_leftovers(directory.rglob(".*.tmp"))
    paths = [path for path in sorted(directory.rglob("*")) if path != directory / DONE]
    files = [path for path in paths if path.is_file()]
    sync_files(files)
    for folder in (directory, *(path for path in paths if path.is_dir())):
        sync_directory(folder)
    record = {
        path.relative_to(directory).as_posix(): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in files
    }
    content = finite({"metadata": metadata, "files": record})
    write_json(directory / DONE, {**content, "fingerprint": fingerprint(content)})


def recorded_metadata(directory: Path) -> dict[str, Any] | None:
    """The metadata of a finished directory, None if it is not finished; looks at no other file than the record."""
    record = _read_record(directory)
    return None if record is None else record["metadata"]


def committed_metadata(directory: Path, *, verify: bool = False) -> dict[str, Any] | None:
    """The metadata of a finished directory whose files are there, or None if it is not finished.

    Raises DamagedError if the record was changed, or a recorded file is missing or has another size (`verify`: sha256).
    """
    record = _read_record(directory)
    if record is None:
        return None
    for name, expected in record["files"].items():
        path = _recorded_path(directory, name)
        if _size(path) != expected["size"]:
            what = "a file is missing or has another size than when it was written"
            raise DamagedError(what, where=path, fix=REPAIR_HINT)
        if verify and sha256_file(Path(path)) != expected["sha256"]:
            raise DamagedError("a file was changed after it was written", where=path, fix=REPAIR_HINT)
    metadata: dict[str, Any] = record["metadata"]
    return metadata


def changes_since_commit(directory: Path) -> dict[str, str]:
    """Maps relative paths in a finished directory to `missing`, `changed` (also a link) or `foreign`, sorted."""
    try:
        content = (directory / DONE).read_bytes()
        body = json.loads(content)
        files = dict(body["files"])
        del body["fingerprint"]
        if content != json_bytes({**body, "fingerprint": fingerprint(body)}):
            return {DONE: "changed"}
    except FileNotFoundError:
        return {DONE: "missing"}
    except (ValueError, TypeError, KeyError):
        return {DONE: "changed"}
    present = {
        path.relative_to(directory).as_posix(): path
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    changes = dict.fromkeys(present.keys() - files.keys() - {DONE}, "foreign")
    changes |= dict.fromkeys(files.keys() - present.keys(), "missing")
    for name in files.keys() & present.keys():
        path = present[name]
        if path.is_symlink() or not path.is_file() or sha256_file(path) != files[name]["sha256"]:
            changes[name] = "changed"
    return dict(sorted(changes.items()))


@contextmanager
def new_directory(target: Path, metadata: Mapping[str, Any]) -> Iterator[Path]:
    """Yields an empty directory beside `target` that replaces it, committed, when the block ends without an error.

    The older directory stays until the new one is whole, and both change places in one step.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
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
        shutil.rmtree(staging, ignore_errors=True)


def copy_directory(source: Path, target: Path) -> None:
    """Copies a finished directory to `target`, which is replaced, committed with the same metadata."""
    with new_directory(target, committed_metadata(source) or {}) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)
        (staging / DONE).unlink()


def discard_directory(directory: Path) -> None:
    """Removes a directory in one step, so that a half-removed one is never taken for an unfinished one."""
    if directory.exists():
        aside = _free_temporary(directory)
        directory.replace(aside)
        remove(aside)


def clear_directory(directory: Path, *, keep: Collection[str] = ()) -> None:
    """Empties a directory except for some of its subfolders; its commitment goes first."""
    (directory / DONE).unlink(missing_ok=True)
    for item in sorted(directory.iterdir()) if directory.is_dir() else ():
        if item.name not in keep:
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


def _read_record(directory: Path) -> dict[str, Any] | None:
    if not (directory / DONE).is_file():
        return None
    content = read_json(directory / DONE)
    if not isinstance(content, dict) or content.pop("fingerprint", None) != fingerprint(content):
        raise DamagedError("a file was changed after it was written", where=directory / DONE, fix=REPAIR_HINT)
    return content


def _recorded_path(directory: Path, name: str) -> str:
    """The path of a recorded file; `safe_join` resolves links, too slow for 50,000 names that are plainly inside."""
    if name.startswith("/") or ".." in name or "\0" in name or "\\" in name or ":" in name:
        return str(safe_join(directory, name))
    return f"{directory}/{name}"


def _size(path: str) -> int | None:
    """Size of a regular file in bytes; None for anything else."""
    with suppress(OSError):
        status = os.stat(path)  # noqa: PTH116  (a Path takes longer to make than to look at)
        return status.st_size if stat.S_ISREG(status.st_mode) else None
    return None
