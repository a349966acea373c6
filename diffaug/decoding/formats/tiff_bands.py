"""Cuts a large TIFF into bands of rows, each a small TIFF of its own, so that the whole is never in memory.

See TIFF 6.0, sections 2 (directories), 8 (strips) and 15 (tiles).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import TiffImagePlugin

from diffaug.decoding.result import RejectedError

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
OFFSETS, ORIENTATION, CHANNELS, ROWS, BYTE_COUNTS, PLANES = 273, 274, 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTE_COUNTS, NO_DATA = 322, 323, 324, 325, 42113
# Of a band as of the whole: predictor, palette, alpha, format and range of samples, tables of JPEG and fax, profile.
_SHARED: tuple[int, ...] = (BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, CHANNELS, PLANES, TILE_WIDTH, TILE_HEIGHT)
_SHARED += (280, 281, 292, 293, 317, 320, 332, 338, 339, 340, 341, 347, 530, 34675)
_PLAIN, _OLD_JPEG, _DEFLATED = 1, 6, (8, 32946)
_YCBCR = 6
_FORMS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 11: "f", 12: "d"}  # of values, by TIFF's type of a field
_LONG = 4
_READ_BYTES = 2**16
MOST_PIXELS = 2**23  # of a band whose strips or tiles are not cut themselves


@dataclass(frozen=True)
class TiffBands:
    """A page of a TIFF that can be cut; width and height in px are those of its samples before turning."""

    file: BinaryIO
    tags: TiffImagePlugin.ImageFileDirectory_v2
    width: int
    height: int
    scale: int  # bands have a multiple of so many rows

    @classmethod
    def of(cls, file: BinaryIO, tags: TiffImagePlugin.ImageFileDirectory_v2, scale: int) -> TiffBands | None:
        """A page by its tags; None if it must be read as a whole.

        That is so if its strips or tiles are too large and packed in another way than by Deflate, and if some pixels
        have no value, which take the least of all others.
        """
        bands = cls(file, tags, int(tags[WIDTH]), int(tags[HEIGHT]), scale)
        size = file.seek(0, 2)
        unmeasured = (TILE_BYTE_COUNTS if TILE_OFFSETS in tags else BYTE_COUNTS) not in tags
        if NO_DATA in tags or bands._packing == _OLD_JPEG or unmeasured or sum(bands._places[1]) > size:
            return None
        return bands if bands._flows or bands._unit * bands.width <= MOST_PIXELS else None

    def cut(self, rows: int) -> Iterator[bytes]:
        """TIFF files of about `rows` rows each, the last one of the rest.

        Raises:
            RejectedError: Samples are missing.
            zlib.error: They are damaged.
        """
        if self._flows:
            samples = _Flow(self)
            for top in range(0, self.height, rows):
                count = min(rows, self.height - top)
                content = samples.read(count * self._row_bytes)
                packed = content if self._packing == _PLAIN else zlib.compress(content, 0)
                yield self._tiff(count, count, [packed])
            return
        step = max(1, rows // self._unit) * self._unit
        for top in range(0, self.height, step):
            count = min(step, self.height - top)
            yield self._tiff(count, self._block_rows, list(self._blocks(top, count)))

    @property
    def orientation(self) -> int:
        """EXIF orientation, 1 to 8."""
        value = self.tags.get(ORIENTATION, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1

    @property
    def bytes_per_pixel(self) -> float:
        """Bytes of the samples of a pixel, at least one."""
        return max(1.0, self._bits / 8)

    @property
    def _bits(self) -> int:
        """Of all samples of a pixel."""
        bits, channels = self.tags.get(BITS, (1,)), int(self.tags.get(CHANNELS, 1))
        return int(sum(bits)) if len(bits) == channels else int(bits[0]) * channels

    @property
    def _row_bytes(self) -> int:
        return -(-self.width * self._bits // 8)

    @property
    def _packing(self) -> int:
        return int(self.tags.get(COMPRESSION, _PLAIN))

    @property
    def _planes(self) -> int:
        return int(self.tags.get(CHANNELS, 1)) if self.tags.get(PLANES, 1) == 2 else 1

    @property
    def _flows(self) -> bool:
        """Whether strip after strip is a flow of rows, which is cut anywhere."""
        deflated = self._packing in _DEFLATED and self.tags.get(FILL_ORDER, 1) == 1
        by_rows = self._planes == 1 and TILE_OFFSETS not in self.tags and self.tags.get(PHOTOMETRIC) != _YCBCR
        return by_rows and (deflated or self._packing == _PLAIN)

    @property
    def _block_rows(self) -> int:
        rows = self.tags[TILE_HEIGHT] if TILE_OFFSETS in self.tags else self.tags.get(ROWS, self.height)
        return max(1, min(int(rows), 2**31))

    @property
    def _unit(self) -> int:
        """The least number of rows, of whole strips or tiles, that can be reduced."""
        return math.lcm(self._block_rows, self.scale)

    @property
    def _places(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Offset and length of each strip or tile."""
        tiled = TILE_OFFSETS in self.tags
        offsets = self.tags[TILE_OFFSETS if tiled else OFFSETS]
        counts = self.tags[TILE_BYTE_COUNTS if tiled else BYTE_COUNTS]
        return tuple(offsets), tuple(counts)

    def _blocks(self, top: int, rows: int) -> Iterator[bytes]:
        """The strips or tiles of some rows, plane after plane."""
        across = -(-self.width // int(self.tags[TILE_WIDTH])) if TILE_OFFSETS in self.tags else 1
        per_plane = -(-self.height // self._block_rows) * across
        first, last = top // self._block_rows * across, -(-(top + rows) // self._block_rows) * across
        offsets, counts = self._places
        for plane in range(self._planes):
            for number in range(plane * per_plane + first, plane * per_plane + last):
                self.file.seek(offsets[number])
                yield self.file.read(counts[number])

    def _tiff(self, rows: int, block_rows: int, blocks: list[bytes]) -> bytes:
        """A TIFF of strips or tiles, which stand behind its only directory."""
        order = "<" if self.tags.prefix == b"II" else ">"
        tiled = TILE_OFFSETS in self.tags
        fields: dict[int, tuple[int, Any]] = {
            tag: (self.tags.tagtype[tag], self.tags[tag]) for tag in _SHARED if tag in self.tags
        }
        fields |= {WIDTH: (_LONG, self.width), HEIGHT: (_LONG, rows)}
        fields |= {} if tiled else {ROWS: (_LONG, block_rows)}
        fields[TILE_BYTE_COUNTS if tiled else BYTE_COUNTS] = (_LONG, tuple(map(len, blocks)))
        ends, offsets = 0, []
        for block in blocks:
            offsets.append(ends)
            ends += len(block)
        place = TILE_OFFSETS if tiled else OFFSETS
        begin = len(_directory({**fields, place: (_LONG, tuple(offsets))}, order))
        directory = _directory({**fields, place: (_LONG, tuple(begin + offset for offset in offsets))}, order)
        return b"".join([directory, *blocks])


class _Flow:
    """The rows of strips that lie one behind another, unpacked as they are read."""

    def __init__(self, bands: TiffBands) -> None:
        self._parts, self._left = _unpacked(bands), b""

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        parts, missing = [self._left[:count]], count - len(self._left)
        self._left = self._left[count:]
        while missing > 0:
            part = next(self._parts)
            parts.append(part[:missing])
            self._left, missing = part[missing:], missing - len(part)
        return b"".join(parts)


def _unpacked(bands: TiffBands) -> Iterator[bytes]:
    """The bytes of all strips, in small parts."""
    for number, (offset, packed_bytes) in enumerate(zip(*bands._places, strict=True)):
        rows = min(bands._block_rows, bands.height - number * bands._block_rows)
        left, unread = rows * bands._row_bytes, packed_bytes
        bands.file.seek(offset)
        inflated, packed = zlib.decompressobj(), b""
        while left > 0:
            if not packed:
                packed = bands.file.read(min(unread, _READ_BYTES))
                unread -= len(packed)
            if not packed or inflated.eof:
                raise RejectedError("truncated", f"{left} bytes of a strip are missing")
            if bands._packing == _PLAIN:
                part, packed = packed[:left], b""
            else:
                part = inflated.decompress(packed, min(left, _READ_BYTES))
                packed = inflated.unconsumed_tail
            if part:
                left -= len(part)
                yield part


def _directory(fields: dict[int, tuple[int, Any]], order: str) -> bytes:
    """The head of a TIFF with one directory and the values that do not fit into it."""
    head = struct.pack(f"{order}2sHL", b"II" if order == "<" else b"MM", 42, 8)
    entries, values, begin = [struct.pack(f"{order}H", len(fields))], list[bytes](), 8 + 2 + 12 * len(fields) + 4
    for tag, field in sorted(fields.items()):
        packed, count, kind = _packed(*field, order)
        if len(packed) > 4:
            place = struct.pack(f"{order}L", begin)
            values.append(packed + b"\0" * (len(packed) % 2))
            begin += len(values[-1])
        else:
            place = packed.ljust(4, b"\0")
        entries.append(struct.pack(f"{order}HHL4s", tag, kind, count, place))
    return b"".join([head, *entries, b"\0" * 4, *values])


def _packed(kind: int, value: Any, order: str) -> tuple[bytes, int, int]:
    """A value as bytes, how many there are, and their type."""
    if isinstance(value, bytes):
        return value, len(value), kind
    values = value if isinstance(value, tuple) else (value,)
    kind = kind if kind in _FORMS else _LONG
    return struct.pack(f"{order}{len(values)}{_FORMS[kind]}", *values), len(values), kind
