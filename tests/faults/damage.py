"""Damage to files of a study, and records of another shape with signatures that are right."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from diffaug.files import storage

REMOVED = object()
"""Stands for no value at all."""
KINDS = ("flip", "cut", "empty", "removed")


def files_below(folder: Path) -> list[Path]:
    """The files of a study that hold something, by relative path."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size > 0)
    return [path.relative_to(folder) for path in paths]


def damage(file: Path, kind: str, source: random.Random) -> str:
    """Changes one file; returns what was done."""
    content = bytearray(file.read_bytes())
    if kind == "removed":
        file.unlink()
        return "removed"
    if kind == "empty":
        file.write_bytes(b"")
        return "emptied"
    place = source.randrange(len(content))
    if kind == "cut":
        file.write_bytes(content[:place])
        return f"cut to {place} bytes"
    bit = source.randrange(8)
    content[place] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {place} flipped"


def places_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON document, the document itself first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places_of(inner, (*path, key)))]


def put(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """The document with another value at a place, or without it."""
    if not place:
        return None if value is REMOVED else value
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    if value is REMOVED:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return document


def sign_again(folder: Path, file: Path) -> None:
    """Makes all signatures right that cover a changed file below `folder`: its own, and that of its directory."""
    for directory in [parent for parent in file.parents if parent.is_relative_to(folder)]:
        done = directory / storage.DONE
        if done.is_file() and file != done:
            _sign(done, file.relative_to(directory).as_posix(), file.read_bytes())
            return


def write_signed(folder: Path, file: Path, document: Any) -> None:
    """Writes a JSON document in place of a record, signed as diffaug would sign it."""
    if isinstance(document, dict) and document.keys() == {"fingerprint", "record"}:
        document = {**document, "fingerprint": storage.fingerprint(document["record"])}
    elif isinstance(document, dict) and "fingerprint" in document:
        body = {key: value for key, value in document.items() if key != "fingerprint"}
        document = {**body, "fingerprint": storage.fingerprint(body)}
    file.write_text(json.dumps(document))
    sign_again(folder, file)


def _sign(done: Path, name: str, content: bytes) -> None:
    record = json.loads(done.read_text())
    if name in record["files"]:
        record["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    body = {key: value for key, value in record.items() if key != "fingerprint"}
    storage.write_json(done, {**body, "fingerprint": storage.fingerprint(body)})
