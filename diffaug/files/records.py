"""Typed records on disk: JSON that pydantic writes and checks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from diffaug.errors import DamagedError
from diffaug.files import storage

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def write_record(path: Path, kind: TypeAdapter[T], record: T) -> None:
    """Writes a record as readable JSON, atomically; non-finite numbers become null."""
    storage.write_json(path, kind.dump_python(record, mode="json"))


def read_record(path: Path, kind: TypeAdapter[T]) -> T:
    """Reads what `write_record` wrote; raises DamagedError if the file holds something else."""
    from pydantic import ValidationError

    try:
        return kind.validate_python(storage.read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the record"
        raise DamagedError(
            f"this file is not as diffaug wrote it ({place}: {first['msg']})", where=path, fix=storage.REPAIR_HINT
        ) from error
