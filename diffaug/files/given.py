"""What is required of files that the user names, before they are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffaug.errors import UsageError
from diffaug.files.reading import is_regular

MOST_TABLE_BYTES, MOST_DEPTH = 2**31, 50


def require_file(path: Path, most_bytes: int = MOST_TABLE_BYTES) -> None:
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
