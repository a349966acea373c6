"""The first pass: each file is decoded once, in parallel, and its picture kept in a part that is committed at once.

A pass that was interrupted continues where it stopped: what a part holds is taken from there while its file has the
size and times that it had.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from joblib import cpu_count
from numpy.typing import NDArray

from diffaug.data.reading.parts import (
    Found,
    Reader,
    Source,
    part_numbers,
    pictures_file,
    read_part,
    whole_parts,
    write_part,
)
from diffaug.data.reading.pictures import Pictures
from diffaug.data.reading.sources import is_known, stamps_of
from diffaug.files.temporaries import remove
from diffaug.runtime.parallel import Progress, run_unordered

PART_FILES, PART_BYTES = 512, 16 * 2**20  # the most files in a part, and bytes of files
SAMPLED = 4096  # files whose sizes stand for those of all
SECONDS_PER_FILE, SECONDS_PER_BYTE = 2e-4, 4e-8  # measured with PNGs of 32 px and JPEGs of 512 px
WORTH_PROCESSES = 3.0  # seconds of work; starting processes takes about one

STAMP = ["size", "changed", "entered"]
SHAPE = ["picture_height", "picture_width", "picture_channels"]
_TEXTS = {"file", "status", "mode", "pixel_sha256", "sha256", "note"}
_TYPES = {name: pa.large_string() if name in _TEXTS else pa.int64() for name in (*Found._fields, "part", "begin")}
_SCHEMA = pa.schema(_TYPES | {"is_deep": pa.bool_()})


@dataclass(frozen=True, eq=False)
class FirstPass:
    """What was found.

    Attributes:
        table: One row per source, in their order: `Found`, and the part that holds its picture and where it begins.
        folder: Of the parts.
    """

    table: pd.DataFrame
    folder: Path

    def pictures(self) -> Pictures:
        """The picture of each usable image, memory-mapped."""
        usable = self.table.loc[self.table["status"] == "ok", ["part", "begin", *SHAPE]]
        parts, numbers = np.unique(usable["part"], return_inverse=True)
        files = [np.memmap(pictures_file(self.folder, part), np.uint8, "r") for part in parts.tolist()]
        places = np.column_stack([numbers, usable["begin"]]).astype(np.int64)
        return Pictures(files, places, usable[SHAPE].to_numpy(np.int64))


def first_pass(reader: Reader, sources: Sequence[Source], folder: Path, progress: Progress) -> FirstPass:
    """Reads all sources, or what an interrupted pass with parts in `folder` did not; `progress` counts them.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; finished parts stay in `folder`.
    """
    folder = folder / reader.key
    for other in folder.parent.glob("*"):
        if other != folder:
            remove(other)
    kept = list(_still_valid(folder, reader.root, sources))
    have = {source for table in kept for source in _sources(table)}
    left = [source for source in sources if source not in have] if have else sources
    done = len(have)
    if have or not left:
        progress(done, len(sources))
    read: dict[int, pa.Table] = {}
    with closing(_read_parts(reader, left, folder)) as finished:
        for number in finished:
            read[number] = _table_of(read_part(folder, number), number)
            done += len(read[number])
            progress(done, len(sources))
    table = pa.concat_tables([*kept, *(read[number] for number in sorted(read))])
    return FirstPass((_in_order(table, sources) if have else table).to_pandas(use_threads=False), folder)


def _read_parts(reader: Reader, sources: Sequence[Source], folder: Path) -> Generator[int]:
    """Reads sources; yields the number of each finished part."""
    first = 1 + max(part_numbers(folder), default=-1)
    sizes = _sizes(reader.root, sources)
    chunks = enumerate(_chunks(sources, sizes.tolist()), first)
    tasks = {number: partial(write_part, reader, chunk, folder, number) for number, chunk in chunks}
    work = SECONDS_PER_FILE * len(sources) + SECONDS_PER_BYTE * float(sizes.sum())
    if work > WORTH_PROCESSES and cpu_count() > 1:
        with closing(run_unordered(tasks, uses_torch=False)) as finished:
            yield from (number for number, _ in finished)
        return
    for number, task in tasks.items():
        task(threads=True)
        yield number


def _sizes(root: Path, sources: Sequence[Source]) -> NDArray[np.int64]:
    """About how many bytes each file has, int64 (N,): some of them stand for those that follow."""
    step = len(sources) // SAMPLED + 1
    return stamps_of(root, (source.file for source in sources[::step]))[:, 0].repeat(step)[: len(sources)]


def _chunks(sources: Sequence[Source], sizes: Sequence[int]) -> Iterator[Sequence[Source]]:
    begin = volume = 0
    for end, size in enumerate(sizes):
        if end > begin and (end - begin == PART_FILES or volume + size > PART_BYTES):
            yield sources[begin:end]
            begin, volume = end, 0
        volume += size
    if begin < len(sources):
        yield sources[begin:]


def _table_of(found: Sequence[Found], part: int) -> pa.Table:
    """Rows with the number of their part and the place of each picture in it."""
    lengths = [row.picture_height * row.picture_width * row.picture_channels for row in found]
    begins = np.cumsum([0, *lengths[:-1]])
    columns: list[Iterable[object]] = [*zip(*found, strict=True), [part] * len(found), begins]
    return pa.Table.from_pydict(dict(zip(_SCHEMA.names, columns, strict=True)), schema=_SCHEMA)


def _still_valid(folder: Path, root: Path, sources: Sequence[Source]) -> Iterator[pa.Table]:
    """The rows of whole parts whose files are as they were."""
    wanted: set[Source] = set()
    for number, found in whole_parts(folder):
        wanted = wanted or set(sources)
        table = _table_of(found, number)
        now = stamps_of(root, (row.file for row in found))
        same = is_known(now, np.column_stack([table[name] for name in STAMP]))
        asked = np.array([source in wanted for source in _sources(table)])
        yield table.filter(pa.array(same & asked))


def _in_order(table: pa.Table, sources: Sequence[Source]) -> pa.Table:
    place = {source: number for number, source in enumerate(_sources(table))}
    return table.take([place[source] for source in sources])


def _sources(table: pa.Table) -> list[Source]:
    return list(map(Source, table["file"].to_pylist(), table["page"].to_pylist()))
