"""Chunks on the disk: candidates of one class that are generated and filtered together, each kept as one file.

Chunk j of a class holds candidates j n to (j + 1) n - 1. Its content depends on seed, class and j alone, so any process
may compute it, and its file exists either completely or not at all.
"""

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from diffaug.errors import DamagedError
from diffaug.files import locks, storage

REASON, PNG, DESCRIPTOR = "reason", "png", "descriptor"
SUFFIX, SHA256_BYTES = ".chunk", 32


@dataclass(frozen=True)
class ChunkStore:
    """The finished chunks of one seed, data, generator and settings; several processes may use the folder at once."""

    folder: Path

    def finished(self, class_index: int) -> set[int]:
        """Numbers of the finished chunks of a class."""
        return {int(path.stem) for path in self._folder(class_index).glob(f"*{SUFFIX}") if path.stem.isdecimal()}

    def write(self, class_index: int, number: int, chunk: pd.DataFrame) -> None:
        """Keeps a chunk, preceded by its sha256, in Arrow's format."""
        table, sink = pa.Table.from_pandas(chunk, preserve_index=False), pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
        content = sink.getvalue().to_pybytes()
        storage.write_bytes(self._path(class_index, number), hashlib.sha256(content).digest() + content)

    def read(self, class_index: int, number: int, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A finished chunk as `ChunkMaker.make` returned it, or some of its columns."""
        path = self._path(class_index, number)
        stored = storage.read_bytes(path)
        sha256, content = stored[:SHA256_BYTES], stored[SHA256_BYTES:]
        fix = f"remove it, and it is computed again: rm {shlex.quote(str(path))}"
        if hashlib.sha256(content).digest() != sha256:
            raise DamagedError("a chunk of the pool was changed after it was written", where=path, fix=fix)
        try:
            table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
        except pa.ArrowInvalid:
            what = "a chunk of the pool has an unknown format"
            fix = f"remove its folder, whose chunks are computed again: rm -r {shlex.quote(str(self.folder))}"
            raise DamagedError(what, where=path, fix=fix) from None
        chunk: pd.DataFrame = (table if columns is None else table.select(columns)).to_pandas()
        return chunk

    @contextmanager
    def claim(self, class_index: int, number: int) -> Iterator[bool]:
        """Yields whether this process is to compute a chunk; a process that dies loses its claim."""
        with locks.claim(self._folder(class_index) / f"{number:06d}.lock") as mine:
            yield mine and not self._path(class_index, number).is_file()

    def _folder(self, class_index: int) -> Path:
        return self.folder / f"{class_index:04d}"

    def _path(self, class_index: int, number: int) -> Path:
        return self._folder(class_index) / f"{number:06d}{SUFFIX}"
