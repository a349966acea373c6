"""What a disk holds after a power cut, from the record of all operations up to it.

Until a file is synced, its content may be lost; until a folder is synced, the changes of names in it may be lost.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

OPEN, WRITE, RENAME, EXCHANGE, UNLINK, MKDIR, RMDIR, LINK, SYMLINK, TRUNCATE, SYNC = range(11)
_HEAD = struct.Struct("<5q")


@dataclass(frozen=True)
class Operation:
    """One change, as the shim records it; of a rename, `other` is the new name."""

    kind: int
    path: str
    other: str
    offset: int
    data: bytes


def read_log(file: Path) -> list[Operation]:
    """All operations of a log."""
    content, at, operations = file.read_bytes(), 0, []
    while at < len(content):
        kind, offset, *lengths = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        parts = []
        for length in lengths:
            parts.append(content[at : at + length])
            at += length
        operations.append(Operation(kind, parts[0].decode(), parts[1].decode(), offset, parts[2]))
    return operations


@dataclass
class File:
    """Content as programs see it, and as it was at the last sync."""

    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


Node = File | None  # None is a folder
Names = dict[str, Node]


class Disk:
    """Files and folders below a folder, all of them synced at first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: Names = {}
        for path in sorted(folder.rglob("*")):
            content = None if path.is_dir() else path.read_bytes()
            self._seen[str(path)] = None if content is None else File(bytearray(content), content)
        self._synced = dict(self._seen)
        self._pending: list[tuple[Operation, Node]] = []

    def apply(self, operation: Operation) -> None:
        """Follows one operation."""
        node = self._seen.get(operation.path)
        if operation.kind == SYNC and node is None:
            self._sync_folder(operation.path)
        elif operation.kind == SYNC:
            node.synced = bytes(node.content)
        elif operation.kind == OPEN and isinstance(node, File):
            if operation.other:  # truncated
                node.content.clear()
        elif operation.kind in (WRITE, TRUNCATE):
            if node is not None:  # a file without a name is lost in any case
                _change(node.content, operation)
        else:
            new = File() if operation.kind == OPEN else None
            _rename(self._seen, operation, new)
            self._pending.append((operation, new))

    def seen(self) -> dict[str, bytes | None]:
        """Content by path (None: a folder), as programs see it."""
        return {path: None if node is None else bytes(node.content) for path, node in self._seen.items()}

    def after_cut(self, kept: str, source: random.Random) -> dict[str, bytes | None]:
        """Content by path (None: a folder) after a cut.

        Args:
            kept: Of what was not synced: `nothing`; `names` without content; or a `part`, drawn at random.
            source: Draws the part.
        """
        number = {"nothing": 0, "names": len(self._pending)}.get(kept, source.randint(0, len(self._pending)))
        names = dict(self._synced)
        for operation, new in self._pending[:number]:
            _rename(names, operation, new)
        reached = {path: node for path, node in names.items() if self._is_reached(path, names)}
        return {path: node if node is None else self._content(node, kept, source) for path, node in reached.items()}

    def _content(self, node: File, kept: str, source: random.Random) -> bytes:
        if kept != "part" or node.content == node.synced or source.random() < 0.5:
            return node.synced
        pairs = zip(node.content, node.synced, strict=False)
        unchanged = next((place for place, (new, old) in enumerate(pairs) if new != old), len(node.synced))
        return bytes(node.content[: source.randint(min(unchanged, len(node.content)), len(node.content))])

    def _is_reached(self, path: str, names: Names) -> bool:
        parents = [str(parent) for parent in Path(path).parents if parent.is_relative_to(self._folder)][:-1]
        return all(parent in names and names[parent] is None for parent in parents)

    def _sync_folder(self, path: str) -> None:
        waiting = []
        for operation, new in self._pending:
            if path in _folders(operation):
                _rename(self._synced, operation, new)
            else:
                waiting.append((operation, new))
        self._pending = waiting


def _folders(operation: Operation) -> Iterator[str]:
    yield str(Path(operation.path).parent)
    if operation.kind in (RENAME, EXCHANGE):
        yield str(Path(operation.other).parent)


def _change(content: bytearray, operation: Operation) -> None:
    if operation.kind == TRUNCATE:
        content[:] = content[: operation.offset].ljust(operation.offset, b"\0")
        return
    content.extend(b"\0" * (operation.offset - len(content)))
    content[operation.offset : operation.offset + len(operation.data)] = operation.data


def _rename(names: Names, operation: Operation, new: Node) -> None:
    """Makes, moves or removes a name; what lies in a moved folder moves with it."""
    if operation.kind in (OPEN, MKDIR):
        names[operation.path] = new
    elif operation.kind in (UNLINK, RMDIR):
        names.pop(operation.path, None)
    elif operation.kind in (RENAME, EXCHANGE):
        first, second = (_taken(names, path) for path in (operation.path, operation.other))
        names.update({operation.other + end: node for end, node in first.items()})
        if operation.kind == EXCHANGE:
            names.update({operation.path + end: node for end, node in second.items()})
    else:
        raise NotImplementedError("links are not followed")


def _taken(names: Names, path: str) -> Names:
    """Removes a name and all below it; returns them by the rest of their path."""
    inside = [name for name in names if name == path or name.startswith(f"{path}/")]
    return {name.removeprefix(path): names.pop(name) for name in inside}


def write_disk(folder: Path, content: dict[str, bytes | None]) -> None:
    """Makes the folder hold exactly this."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, data in sorted(content.items()):
        if data is None:
            Path(path).mkdir()
        else:
            Path(path).write_bytes(data)
