"""The first pass: each file is decoded once, in parallel, and its picture kept in a part that is committed at once.

A pass that was interrupted continues where it stopped: what a part holds is taken from there while its file has the
size and times that it had.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import cpu_count
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from diffaug._version import __version__
from diffaug.data.reading.pictures import Pictures, Pixels, reduced
from diffaug.data.reading.sources import UNKNOWN, Stamps, is_known, is_trusted, stamp_of, stamps_of
from diffaug.decoding.decode import decode, strict_pillow
from diffaug.decoding.intensity import IntensityRange
from diffaug.decoding.result import Decoded, DecodeStatus
from diffaug.files import storage
from diffaug.files.temporaries import remove
from diffaug.runtime.parallel import Progress, in_threads, run_unordered

PARTS_AT_ONCE = 16  # that become one table
PART_FILES, PART_BYTES = 512, 16 * 2**20  # the most files in a part, and bytes of files
SECONDS_PER_FILE, SECONDS_PER_BYTE = 2e-4, 4e-8  # measured with PNGs of 32 px and JPEGs of 512 px
WORTH_PROCESSES = 3.0  # seconds of work; starting processes takes about one
MAX_ATTEMPTS = 3


class Source(NamedTuple):
    """One image of the data folder."""

    file: str  # relative to the root
    page: int = 0


class Found(NamedTuple):
    """What a file holds, see `Decoded`, and its picture's shape; zeros where there is none."""

    file: str
    page: int
    size: int
    changed: int
    entered: int
    status: DecodeStatus
    width: int
    height: int
    mode: str
    pixel_sha256: str
    sha256: str
    note: str
    is_deep: bool
    picture_height: int
    picture_width: int
    picture_channels: int


STAMP = ["size", "changed", "entered"]
SHAPE = ["picture_height", "picture_width", "picture_channels"]


@dataclass(frozen=True)
class _Part:
    checksum: int
    found: list[Found]


_PART = TypeAdapter(_Part)


@dataclass(frozen=True)
class Reader:
    """How a file becomes a picture.

    Attributes:
        root: The data folder.
        intensity: Which values of images over 8 bits become black and white.
        side: Short side in px that pictures keep even if they are larger than `MAX_AREA` then.
    """

    root: Path
    intensity: IntensityRange | None = None
    side: int = 0

    @property
    def key(self) -> str:
        """Changes with whatever changes the pictures of the same files."""
        return storage.fingerprint([__version__, str(self.root.resolve()), self.rule, self.side])

    @property
    def rule(self) -> tuple[object, ...]:
        """What the values of images over 8 bits are mapped by; empty if there are none."""
        used = self.intensity
        return (used.low, used.high, used.white, used.kinds) if used else ()

    def decode(self, source: Source) -> Decoded:
        """The whole image at full size."""
        return decode(self.root / source.file, page=source.page, intensity=self.intensity)

    def read(self, source: Source) -> tuple[Found, Pixels | None]:
        """One row, and the picture if the file is usable; a file that changes meanwhile is read again."""
        for _ in range(MAX_ATTEMPTS):
            began, stamp = time.time(), stamp_of(f"{self.root}/{source.file}")
            decoded = self.decode(source)
            if stamp_of(f"{self.root}/{source.file}") == stamp:
                break
        else:
            decoded = Decoded("unreadable", note="it changes while it is read")
        picture = None if decoded.pixels is None else reduced(decoded.pixels, self.side)
        size, changed, entered = stamp if is_trusted(stamp, began) else UNKNOWN
        height, width, channels = (0, 0, 0) if picture is None else picture.shape
        found = Found(
            file=source.file,
            page=source.page,
            size=size,
            changed=changed,
            entered=entered,
            status=decoded.status,
            width=decoded.width,
            height=decoded.height,
            mode=decoded.mode,
            pixel_sha256=decoded.pixel_sha256,
            sha256=decoded.sha256,
            note=decoded.note,
            is_deep=decoded.is_deep,
            picture_height=height,
            picture_width=width,
            picture_channels=channels,
        )
        return found, picture


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
        usable = self.table[self.table["status"] == "ok"]
        parts, numbers = np.unique(usable["part"], return_inverse=True)
        files = [np.memmap(_pictures_of(self.folder, part), np.uint8, "r") for part in parts.tolist()]
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
    stamps = stamps_of(reader.root, (source.file for source in sources))
    tables = _still_valid(_stored_parts(folder), sources, stamps)
    have = {source for table in tables for source in _sources(table)}
    left = [number for number, source in enumerate(sources) if source not in have]
    if have or not left:
        progress(len(have), len(sources))
    done, numbers = len(have), list[int]()
    with closing(_read_parts(reader, [sources[at] for at in left], stamps[left, 0], folder)) as finished:
        for number, images in finished:
            numbers.append(number)
            done += images
            progress(done, len(sources))
    for start in range(0, len(numbers), PARTS_AT_ONCE):
        tables.append(_load_parts(folder, sorted(numbers)[start : start + PARTS_AT_ONCE]))
    return FirstPass(_in_order(tables, sources), folder)


def _read_parts(
    reader: Reader, sources: Sequence[Source], sizes: NDArray[np.int64], folder: Path
) -> Generator[tuple[int, int]]:
    """Reads sources of these file sizes in bytes; yields the number of each finished part and that of its images."""
    first = 1 + max((int(file.stem) for file in folder.glob("*.json")), default=-1)
    chunks = dict(enumerate(_chunks(sources, sizes.tolist()), first))
    tasks = {number: partial(_read_part, reader, chunk, folder, number) for number, chunk in chunks.items()}
    work = SECONDS_PER_FILE * len(sources) + SECONDS_PER_BYTE * float(sizes.sum())
    if work > WORTH_PROCESSES and cpu_count() > 1:
        with closing(run_unordered(tasks, uses_torch=False)) as finished:
            yield from ((number, len(chunks[number])) for number, _ in finished)
        return
    for number, task in tasks.items():
        task(threads=True)
        yield number, len(chunks[number])


def _chunks(sources: Sequence[Source], sizes: Sequence[int]) -> Iterator[list[Source]]:
    chunk: list[Source] = []
    volume = 0
    for source, size in zip(sources, sizes, strict=True):
        if chunk and (len(chunk) == PART_FILES or volume + size > PART_BYTES):
            yield chunk
            chunk, volume = [], 0
        chunk.append(source)
        volume += size
    if chunk:
        yield chunk


def _read_part(reader: Reader, sources: Sequence[Source], folder: Path, number: int, *, threads: bool = False) -> None:
    """Reads some files and keeps what was found; a part counts once its record is there and whole."""
    found: list[Found] = []
    pictures: list[bytes] = []
    with strict_pillow():
        for row, picture in (in_threads if threads else map)(reader.read, sources):
            found.append(row)
            pictures += [] if picture is None else [picture.tobytes()]
    content = b"".join(pictures)
    storage.write_unfinished(_pictures_of(folder, number), content)
    record = _PART.dump_json(_Part(zlib.crc32(content), found))
    storage.write_unfinished(folder / f"{number:06d}.json", record)


def _pictures_of(folder: Path, part: int) -> Path:
    return folder / f"{part:06d}.pictures"


def _stored_parts(folder: Path) -> Iterator[pd.DataFrame]:
    """The whole parts that an interrupted pass left."""
    for file in sorted(folder.glob("*.json")):
        number = int(file.stem)
        try:
            part = _PART.validate_json(file.read_bytes())
            content = _pictures_of(folder, number).read_bytes()
        except (ValidationError, FileNotFoundError):
            continue
        if zlib.crc32(content) == part.checksum:
            yield _as_table(_placed(part, number))


def _load_parts(folder: Path, numbers: Sequence[int]) -> pd.DataFrame:
    parts = ((number, _PART.validate_json((folder / f"{number:06d}.json").read_bytes())) for number in numbers)
    return _as_table(chain.from_iterable(_placed(part, number) for number, part in parts))


def _placed(part: _Part, number: int) -> Iterator[tuple[Any, ...]]:
    """The rows of a part, with its number and the place of each picture in it."""
    begin = 0
    for found in part.found:
        yield (*found, number, begin)
        begin += found.picture_height * found.picture_width * found.picture_channels


def _as_table(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    return pd.DataFrame.from_records(list(rows), columns=[*Found._fields, "part", "begin"])


def _still_valid(parts: Iterable[pd.DataFrame], sources: Sequence[Source], stamps: Stamps) -> list[pd.DataFrame]:
    """The rows of parts whose files are as they were."""
    now: dict[Source, Sequence[int]] = dict(zip(sources, stamps.tolist(), strict=True))
    valid = []
    for table in parts:
        wanted = [now.get(source, UNKNOWN) for source in _sources(table)]
        valid.append(table[is_known(np.array(wanted, np.int64), table[STAMP].to_numpy(np.int64))])
    return valid


def _in_order(tables: Sequence[pd.DataFrame], sources: Sequence[Source]) -> pd.DataFrame:
    table = pd.concat(tables, ignore_index=True)
    found = _sources(table)
    if found == list(sources):
        return table
    place = {source: number for number, source in enumerate(found)}
    return table.iloc[[place[source] for source in sources]].reset_index(drop=True)


def _sources(table: pd.DataFrame) -> list[Source]:
    return [Source(*pair) for pair in zip(table["file"].tolist(), table["page"].tolist(), strict=True)]
