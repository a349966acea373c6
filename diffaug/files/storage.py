"""The only place that writes: atomic files, committed directories and hashes.

A file is written beside its target, flushed to the disk and renamed over it, so a reader or a power cut
sees the old content or the new and nothing between. A directory counts as finished once `DONE.json`,
which lists its files with sizes and hashes, has been written in it last.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from diffaug.errors import DamagedError
from diffaug.files.paths import safe_join as safe_join  # noqa: PLC0414  (callers reach both through storage)
from diffaug.files.paths import safe_names as safe_names  # noqa: PLC0414
from diffaug.files.temporaries import exchange, remove_leftovers, temporary_name

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

DONE = "DONE.json"
SYNCS_AT_ONCE = 16
MEND = "restore it from a copy, or repeat the command that made it with --overwrite"


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
    _sync_directory(path.parent)


def write_unfinished(path: Path, content: bytes) -> None:
    """Writes a file of a directory that is not committed yet, neither atomically nor durably.

    `commit_directory` makes it durable together with all others, which takes a tenth of the time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Writes readable JSON atomically; non-finite numbers become null, since JSON has none."""
    write_bytes(path, _json_bytes(content))


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
        DamagedError: The file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(f"not valid JSON ({error})", where=path) from error


def append_line(path: Path, line: str) -> None:
    """Appends one line durably, in place of a last line that an earlier append left cut short.

    A reader must ignore a last line without a newline.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _drop_cut_line(file)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    _sync_directory(path.parent)


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


def png_bytes(pixels: np.ndarray[Any, Any]) -> bytes:
    """Encodes uint8 pixels (H, W), (H, W, 1) or (H, W, 3) as PNG without metadata."""
    from PIL import Image

    buffer = io.BytesIO()
    squeezed = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    Image.fromarray(squeezed).save(buffer, format="PNG")
    return buffer.getvalue()


def commit_directory(directory: Path, facts: Mapping[str, Any]) -> None:
    """Declares a directory finished by writing its `DONE.json`, once all of its files are on the disk.

    Args:
        directory: The directory, all files in place.
        facts: What a later reader needs to know: fingerprints of the settings and inputs.
    """
    remove_leftovers(directory.rglob(".*.tmp"))
    paths = [path for path in sorted(directory.rglob("*")) if path != directory / DONE]
    files = [path for path in paths if path.is_file()]
    _sync_files(files)
    for folder in (directory, *(path for path in paths if path.is_dir())):
        _sync_directory(folder)
    record = {
        path.relative_to(directory).as_posix(): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in files
    }
    content = _finite({"facts": facts, "files": record})
    write_json(directory / DONE, {**content, "fingerprint": fingerprint(content)})


def committed_facts(directory: Path, *, verify: bool = False) -> dict[str, Any] | None:
    """The facts of a finished directory, or None when it is not finished.

    Args:
        directory: The directory to look at.
        verify: Also compare every file's sha256 with the recorded one.

    Raises:
        DamagedError: A recorded file is missing, cut short or changed, or the record itself is.
    """
    if not (directory / DONE).is_file():
        return None
    record = read_json(directory / DONE)
    if not isinstance(record, dict) or record.pop("fingerprint", None) != fingerprint(record):
        raise DamagedError("a file was changed after it was written", where=directory / DONE, fix=MEND)
    for name, expected in record["files"].items():
        path = safe_join(directory, name)
        if not path.is_file() or path.stat().st_size != expected["size"]:
            raise DamagedError("a file is missing or has another size than when it was written", where=path, fix=MEND)
        if verify and sha256_file(path) != expected["sha256"]:
            raise DamagedError("a file was changed after it was written", where=path, fix=MEND)
    return dict(record["facts"])


def changes_since_commit(directory: Path) -> dict[str, str]:
    """How a finished directory differs from what was committed, every byte compared.

    Returns:
        Path relative to `directory` to `missing`, `changed` or `foreign`, sorted; a symbolic link counts as changed.
    """
    try:
        content = (directory / DONE).read_bytes()
        record = json.loads(content)
        files = dict(record["files"])
        body = {key: value for key, value in record.items() if key != "fingerprint"}
        if content != _json_bytes({**body, "fingerprint": fingerprint(body)}):
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
def new_directory(target: Path, facts: Mapping[str, Any]) -> Iterator[Path]:
    """Yields an empty directory beside `target` that replaces it, committed, when the block ends well.

    The older directory is there until the new one is whole, and both change places in one step.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = _free_temporary(target)
    staging.mkdir()
    try:
        yield staging
        commit_directory(staging, facts)
        if target.exists():
            exchange(staging, target)
        else:
            staging.replace(target)
        _sync_directory(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def discard_directory(directory: Path) -> None:
    """Removes a directory; it is gone in one step, so a half-removed one is never taken for an unfinished one."""
    if directory.exists():
        aside = _free_temporary(directory)
        directory.replace(aside)
        if aside.is_symlink():
            aside.unlink()
        else:
            shutil.rmtree(aside)


def sha256_bytes(content: bytes) -> str:
    """Hexadecimal sha256."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(content: Any) -> str:
    """A short stable name for JSON-like content, paths included: equal content, equal name."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), default=os.fspath)
    return sha256_bytes(canonical.encode())[:16]


def _json_bytes(content: Any) -> bytes:
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is not UTF-8 holds lone surrogates; replaced this way they are JSON escapes and read back.
    return text.encode(errors="backslashreplace")


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if hasattr(content, "item") and getattr(content, "ndim", 1) == 0:
        content = content.item()
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def _free_temporary(directory: Path) -> Path:
    """A name beside `directory` that nothing has, once what processes that died left there is cleared away."""
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


def _sync_files(paths: Iterable[Path]) -> None:
    """Brings files to the disk; many at once, since the disk can take them together."""

    def sync(path: Path) -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())

    with ThreadPoolExecutor(SYNCS_AT_ONCE) as threads:
        for _ in threads.map(sync, paths):
            pass


def _sync_directory(directory: Path) -> None:
    with suppress(PermissionError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
