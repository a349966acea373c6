"""A part of the first pass: some files are decoded, their pictures and what was found go into two files.

Worker processes import this module, so it does without pandas, whose import takes longer than some parts do.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from diffaug._version import __version__
from diffaug.data.reading.pictures import Pixels, reduced
from diffaug.data.reading.sources import UNKNOWN, is_trusted, stamp_of
from diffaug.decoding.decode import decode, strict_pillow
from diffaug.decoding.intensity import IntensityRange
from diffaug.decoding.limits import Budget, OfProcesses, shared
from diffaug.decoding.result import Decoded, DecodeStatus
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.runtime.parallel import in_threads

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


@dataclass(frozen=True)
class Part:
    """What was found in some files."""

    checksum: int  # of the rows, and of the pictures, which follow each other in a file of their own
    found: list[Found]  # one row per image


_PART = TypeAdapter(Part)


@dataclass(frozen=True)
class Reader:
    """How a file becomes a picture."""

    root: Path  # the data folder
    intensity: IntensityRange | None = None  # which values of images over 8 bits become black and white
    side: int = 0  # short side in px that pictures keep even if they are larger than `MAX_AREA` then

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

    def read(self, source: Source, budget: Budget | None = None) -> tuple[Found, Pixels | None]:
        """One row, and the picture if the file is usable; a file that changes meanwhile is read again.

        A large image waits until `budget`, by default that of all threads, has memory for it.
        """
        path = f"{self.root}/{source.file}"
        for _ in range(MAX_ATTEMPTS):
            began, stamp = time.time(), stamp_of(path)
            with shared(budget):
                decoded = self.decode(source)
                picture = None if decoded.pixels is None else reduced(decoded.pixels, self.side)
                decoded = replace(decoded, pixels=None)
            if stamp_of(path) == stamp:
                break
        else:
            decoded, picture = Decoded("unreadable", note="it changes while it is read"), None
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


def write_part(reader: Reader, sources: Sequence[Source], folder: Path, number: int, *, threads: bool = False) -> None:
    """Reads some files and keeps what was found; a part counts once its record is there and whole."""
    found: list[Found] = []
    pictures: list[bytes] = []
    with strict_pillow():
        read = partial(reader.read, budget=None if threads else OfProcesses(folder / "memory"))
        for row, picture in (in_threads if threads else map)(read, sources):
            found.append(row)
            pictures += [] if picture is None else [picture.tobytes()]
    content = b"".join(pictures)
    storage.write_unfinished(pictures_file(folder, number), content)
    storage.write_unfinished(_record(folder, number), _PART.dump_json(Part(_checksum(content, found), found)))


def read_part(folder: Path, number: int) -> list[Found]:
    """The rows of a part that was just written."""
    return _PART.validate_json(_record(folder, number).read_bytes()).found


def whole_parts(folder: Path) -> Iterator[tuple[int, list[Found]]]:
    """The numbers and rows of the parts that an interrupted pass left whole."""
    for number in part_numbers(folder):
        try:
            part = _PART.validate_json(storage.read_bytes(_record(folder, number)))
            content = storage.read_bytes(pictures_file(folder, number))
        except (ValidationError, DamagedError):
            continue
        if _checksum(content, part.found) == part.checksum:
            yield number, part.found


def _checksum(pictures: bytes, found: list[Found]) -> int:
    return zlib.crc32(_PART.dump_json(Part(0, found)), zlib.crc32(pictures))


def part_numbers(folder: Path) -> list[int]:
    """The numbers of the parts in a folder, whole or not."""
    return sorted(int(file.stem) for file in folder.glob("*.json"))


def pictures_file(folder: Path, number: int) -> Path:
    """The pictures of a part, one after another."""
    return folder / f"{number:06d}.pictures"


def _record(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"
