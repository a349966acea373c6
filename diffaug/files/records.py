"""Typed records on disk: JSON that pydantic writes and checks.

A record in a committed directory is as it was written if the directory is. One that lies elsewhere is signed: it holds
its own hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diffaug.errors import DamagedError
from diffaug.files import storage

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
SIGNATURE, SIGNED = "fingerprint", "record"


def write_record(path: Path, kind: TypeAdapter[T], record: T) -> None:
    """Writes a record as readable JSON, atomically; non-finite numbers become null."""
    storage.write_json(path, kind.dump_python(record, mode="json"))


def read_record(path: Path, kind: TypeAdapter[T]) -> T:
    """Reads what `write_record` wrote; raises DamagedError if the file is missing or holds something else."""
    return typed(storage.read_json(path), kind, where=path)


def write_signed_record(path: Path, kind: TypeAdapter[T], record: T) -> None:
    """Writes a record that needs no committed directory to tell whether it was changed, in place of what is there."""
    if path.is_dir():
        storage.discard_directory(path)
    content = storage.finite(kind.dump_python(record, mode="json"))
    storage.write_json(path, {SIGNATURE: storage.fingerprint(content), SIGNED: content})


def read_signed_record(path: Path, kind: TypeAdapter[T]) -> T:
    """Reads what `write_signed_record` wrote; raises DamagedError if the file is missing or was changed."""
    content = storage.read_json(path)
    is_whole = isinstance(content, dict) and content.keys() == {SIGNATURE, SIGNED}
    if not is_whole or storage.fingerprint(content[SIGNED]) != content[SIGNATURE]:
        raise DamagedError("a file was changed after it was written", where=path, fix=storage.REPAIR_HINT)
    return typed(content[SIGNED], kind, where=path)


def find_signed_record(path: Path, kind: TypeAdapter[T], *, overwrite: bool = False) -> T | None:
    """As `read_signed_record`; None if there is no file, or one that was changed and may be replaced."""
    if not path.exists():
        return None
    try:
        return read_signed_record(path, kind)
    except DamagedError:
        if not overwrite:
            raise
        storage.discard_directory(path)
        return None


def typed(content: Any, kind: TypeAdapter[T], *, where: Path) -> T:
    """Content of JSON as an object; raises DamagedError if it has another shape."""
    from pydantic import ValidationError

    try:
        return kind.validate_python(content)
    except (ValidationError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "too deep"}
        place = ".".join(map(str, first["loc"])) or "the record"
        raise DamagedError(
            f"this file is not as diffaug wrote it ({place}: {first['msg']})", where=where, fix=storage.REPAIR_HINT
        ) from error
