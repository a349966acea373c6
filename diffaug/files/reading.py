"""Reads files that diffaug wrote, whose damage is a DamagedError; and what is required of files that the user names."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.errors import DamagedError, UsageError
from diffaug.files.encoding import sha256_bytes
from diffaug.files.naming import naming_its_file

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


REPAIR_HINT = "restore it from a copy, or repeat the command that made it with --overwrite"
MOST_JSON_BYTES = 2**29
LARGEST_INTEGER = 2**64
SHA256_BYTES = 32

MOST_TABLE_BYTES, MOST_DEPTH = 2**31, 50


def is_regular(path: str | Path) -> bool:
    """Whether there is a regular file, which alone can be read without waiting and has an end."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116  (a Path takes longer to make than to look at)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


@naming_its_file
def read_bytes(path: Path) -> bytes:
    """The content of a file; a DamagedError if it is missing, or a folder or the like is in its place."""
    require_file(path)
    return path.read_bytes()


def read_hashed(path: Path) -> bytes:
    """The content of a file that `write_hashed` wrote; a DamagedError if it was changed."""
    content = read_bytes(path)
    if not path.stem.endswith(f"-{short_hash(content)}"):
        raise DamagedError("a file was changed after it was written", where=path, fix=REPAIR_HINT)
    return content


def short_hash(content: bytes) -> str:
    """The first 16 hexadecimal digits of the sha256."""
    return hashlib.sha256(content).hexdigest()[:16]


def require_file(path: Path) -> None:
    """Raises DamagedError unless there is a regular file."""
    if not is_regular(path):
        what = "this is not a file, which it was when it was written" if path.exists() else "a file is missing"
        raise DamagedError(what, where=path, fix=REPAIR_HINT)


@naming_its_file
def read_json(path: Path) -> Any:
    """Reads JSON; raises DamagedError if the file holds something else."""
    require_file(path)
    if path.stat().st_size > MOST_JSON_BYTES:
        raise DamagedError("the file is too large to be a record", where=path, fix=REPAIR_HINT)
    return parse_json(path.read_bytes(), where=path)


def parse_json(content: bytes, *, where: Path) -> Any:
    """The value of JSON that `json_bytes` wrote; a DamagedError if it is something else."""
    try:
        return json.loads(content.decode(), parse_int=_integer, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"not valid JSON ({error})", where=where, fix=REPAIR_HINT) from error


@naming_its_file
def read_array(path: Path, *, mapped: bool = False) -> np.ndarray[Any, Any]:
    """Reads a .npy file, or maps it into memory; raises DamagedError if it holds something else."""
    from tokenize import TokenError

    import numpy as np

    require_file(path)
    damage = (ValueError, EOFError, OverflowError, MemoryError, RecursionError, SyntaxError, TokenError)
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except damage as error:  # numpy parses the header as Python
        raise DamagedError(f"not an array ({error})", where=path, fix=REPAIR_HINT) from error
    if not isinstance(array, np.ndarray):  # an archive of arrays
        raise DamagedError("not an array", where=path, fix=REPAIR_HINT)
    return array


def read_signed_array(path: Path) -> np.ndarray[Any, Any]:
    """Reads what `write_array` has signed; raises DamagedError if it was changed."""
    content = read_bytes(path)
    if hashlib.sha256(content[:-SHA256_BYTES]).digest() != content[-SHA256_BYTES:]:
        raise DamagedError("a file was changed after it was written", where=path, fix=REPAIR_HINT)
    return read_array(path)


def read_parquet(
    path: Path, columns: Collection[str] = (), *, texts: Collection[str] = (), only: bool = False
) -> pd.DataFrame:
    """Reads a table; raises DamagedError if the file holds something else.

    Args:
        path: Of the file.
        columns: What the table must have.
        texts: Those of the columns that hold texts and nothing else.
        only: Whether no other column is read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = io.BytesIO(read_bytes(path))
    try:
        # Without threads, since pyarrow waits for ever where the system refuses to start one.
        with pq.ParquetFile(content, pre_buffer=False) as file:
            found = file.schema_arrow.names
            missing = [name for name in columns if name not in found]
            wanted = list(columns) if only and not missing else None
            table: pd.DataFrame = file.read(wanted, use_threads=False).to_pandas(use_threads=False)
    except (pa.ArrowException, ValueError, TypeError, KeyError, OSError, MemoryError, RecursionError) as error:
        raise DamagedError(f"not a table ({error})", where=path, fix=REPAIR_HINT) from error
    others = [] if missing else [name for name in texts if not _holds_texts(table[name])]
    for what, names in {"lacks the column": missing, "has no texts in the column": others}.items():
        if names:
            raise DamagedError(f"the table {what} '{names[0]}'", where=path, fix=REPAIR_HINT)
    return table


def _holds_texts(column: pd.Series[Any]) -> bool:
    from pandas.api.types import is_string_dtype

    return not len(column) or (is_string_dtype(column) and not column.hasnans)


@naming_its_file
def read_png(path: Path, sha256: str, shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """Pixels of a PNG that diffaug wrote, uint8 (H, W, C); DamagedError if its sha256 is another."""
    content = read_bytes(path)
    if sha256_bytes(content) != sha256:
        what = "an image was changed after it was written"
        raise DamagedError(what, where=path, fix=REPAIR_HINT)
    try:
        return decode_png(content, shape)
    except (OSError, ValueError) as error:
        what = f"an image is not as diffaug wrote it ({error})"
        raise DamagedError(what, where=path, fix=REPAIR_HINT) from error


def decode_png(content: bytes, shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """Pixels of a PNG that diffaug wrote, uint8 (H, W, C); ValueError or OSError if it is another file."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        if (image.height, image.width, len(image.getbands())) != shape:
            raise ValueError(f"{image.width} x {image.height} px, {image.mode}")
        return np.asarray(image, dtype=np.uint8).reshape(shape)


def _integer(digits: str) -> int:
    value = int(digits)
    if abs(value) > LARGEST_INTEGER:
        raise ValueError("an integer is too long")
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def require_given_file(path: Path, most_bytes: int = MOST_TABLE_BYTES) -> None:
    """Raises UsageError unless there is a regular file of at most so many bytes.

    A pipe or a device may have no end, and a file of another kind may be opened by mistake.
    """
    if not is_regular(path):
        kind = "there is no such file"
        if path.exists():
            kind = "this is a folder, not a file" if path.is_dir() else "this is a device or a pipe, not a file"
        raise UsageError(kind, where=path, fix="give the path of a file")
    size = path.stat().st_size
    if size > most_bytes:
        what = f"the file has {size:,} bytes, and at most {most_bytes:,} are read"
        raise UsageError(what, where=path, fix="give the file that was meant, or split it")


def require_few_values(content: Any, most: int) -> None:
    """Raises ValueError if nested lists and dictionaries hold more values, each counted as often as it is shown.

    Also raised where they are nested more than 50 deep, as one that holds itself is.
    """
    left, waiting = most, [iter([content])]
    while waiting:
        value = next(waiting[-1], waiting)
        if value is waiting:
            waiting.pop()
            continue
        left -= 1
        if left < 0 or len(waiting) > MOST_DEPTH:
            raise ValueError(f"it holds more than {most:,} values" if left < 0 else "it is nested too deeply")
        if isinstance(value, dict | list):
            children: Iterable[Any] = value.values() if isinstance(value, dict) else value
            waiting.append(iter(children))
