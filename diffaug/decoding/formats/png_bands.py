"""Cuts a large PNG into bands of rows, each a small PNG of its own, so that the whole is never in memory.

See the PNG specification (third edition), sections 5 and 9, for chunks and filters.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from diffaug.decoding.formats.orientation import orientation_of
from diffaug.decoding.result import Pixels, RejectedError

_SIGNATURE, _HEADER = b"\x89PNG\r\n\x1a\n", ">IIBBBBB"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
_TURNING = (b"eXIf", b"iTXt", b"zTXt", b"tEXt")  # chunks that may hold an orientation
_SKIPPED = (b"IDAT", b"IEND")
_UNUSUAL = (b"acTL", b"CgBI")  # in animations, and in a variant whose colors have another order
_LONGEST_CHUNKS, _READ_BYTES = 2**22, 2**16
# How Pillow hands out the bytes of a pixel as they are, by their number: a mode, and layouts of which each gives some.
_AS_THEY_ARE = {
    1: ("L", ["L"]),
    2: ("LA", ["LA"]),
    3: ("RGB", ["RGB"]),
    4: ("RGBA", ["RGBA"]),
    6: ("RGB", ["RGB;16B", "RGB;16L"]),
    8: ("RGBA", ["RGBA;16B", "RGBA;16L"]),
}


@dataclass(frozen=True)
class PngBands:
    """The header of a PNG of 8 or 16 bits per sample that can be cut."""

    file: BinaryIO
    width: int
    height: int
    bits: int
    kind: int  # the color type
    shared: bytes  # chunks before the samples that the bands have, too
    turning: bytes  # chunks, also behind the samples, that may hold an orientation
    begin: int  # where the first chunk of samples begins

    @classmethod
    def of(cls, file: BinaryIO) -> PngBands | None:
        """The header of an open PNG; None if it is interlaced, animated or of fewer bits."""
        file.seek(len(_SIGNATURE))
        _, _, width, height, bits, kind, _, _, interlaced = struct.unpack(f">I4s{_HEADER[1:]}", file.read(21))
        file.seek(4, os.SEEK_CUR)
        shared, turning, begin = b"", b"", 0
        while len(head := file.read(8)) == 8 and len(shared + turning) < _LONGEST_CHUNKS:
            length, name = struct.unpack(">I4s", head)
            if name in _UNUSUAL:
                return None
            if name == b"IDAT":
                begin = begin or file.tell() - 8
            if name in _SKIPPED or length > _LONGEST_CHUNKS:
                file.seek(length + 4, os.SEEK_CUR)
                continue
            chunk = head + file.read(length + 4)
            turning += chunk if name in _TURNING else b""
            shared += chunk if name not in _TURNING and not begin else b""
        usual = bits in (8, 16) and kind in _CHANNELS and not interlaced
        return cls(file, width, height, bits, kind, shared, turning, begin) if usual and begin else None

    def cut(self, rows: int) -> Iterator[bytes]:
        """PNG files of `rows` rows each, the last one of the rest.

        Raises:
            RejectedError: Samples are missing.
            zlib.error: They are damaged.
        """
        length = 1 + self.width * self.bytes_per_pixel  # a row begins with the number of its filter
        self.file.seek(self.begin)
        samples, above = _Samples(self.file), b""
        for top in range(0, self.height, rows):
            count = min(rows, self.height - top)
            filtered = above + samples.read(count * length)  # filters look at the row above
            plain = np.zeros((count, length), np.uint8)
            plain[:, 1:] = self._unfiltered(filtered, len(filtered) // length)[-count:]
            above = plain[-1].tobytes()
            yield self._png(plain, self.shared)
        samples.require_end()

    @property
    def orientation(self) -> int:
        """EXIF orientation, 1 to 8, of the whole."""
        if not self.turning:
            return 1
        row = np.zeros((1, 1 + self.width * self.bytes_per_pixel), np.uint8)
        return orientation_of(Image.open(io.BytesIO(self._png(row, self.turning))))

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of the samples of a pixel."""
        return _CHANNELS[self.kind] * self.bits // 8

    def _unfiltered(self, filtered: bytes, rows: int) -> Pixels:
        """The bytes of the samples (rows, bytes per row)."""
        mode, layouts = _AS_THEY_ARE[self.bytes_per_pixel]
        stored, size = zlib.compress(filtered, 0), (self.width, rows)
        parts = [Image.frombytes(mode, size, stored, "zip", layout).tobytes() for layout in layouts]
        planes = [np.frombuffer(part, np.uint8) for part in parts]
        return (planes[0] if len(planes) == 1 else np.column_stack(planes)).reshape(rows, -1)

    def _png(self, plain: Pixels, chunks: bytes) -> bytes:
        header = struct.pack(_HEADER, self.width, len(plain), self.bits, self.kind, 0, 0, 0)
        samples = _chunk(b"IDAT", zlib.compress(plain.data, 0))
        return b"".join([_SIGNATURE, _chunk(b"IHDR", header), chunks, samples, _chunk(b"IEND", b"")])


class _Samples:
    """The samples of a PNG, unpacked as they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._inflated, self._packed, self._chunks = zlib.decompressobj(), b"", _data_of_chunks(file)

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        parts, left = list[bytes](), count
        while left:
            self._packed = self._packed or next(self._chunks, b"")
            if not self._packed or self._inflated.eof:
                raise RejectedError("truncated", f"{left} bytes of samples are missing")
            parts.append(self._inflated.decompress(self._packed, left))
            self._packed = self._inflated.unconsumed_tail
            left -= len(parts[-1])
        return b"".join(parts)

    def require_end(self) -> None:
        """Reads the checksum behind the last sample, which zlib compares."""
        while not self._inflated.eof and (packed := self._packed or next(self._chunks, b"")):
            self._inflated.decompress(packed, 1)
            self._packed = self._inflated.unconsumed_tail


def _data_of_chunks(file: BinaryIO) -> Iterator[bytes]:
    while (head := file.read(8))[4:] == b"IDAT":
        left = int.from_bytes(head[:4], "big")
        while left and (part := file.read(min(left, _READ_BYTES))):
            yield part
            left -= len(part)
        file.seek(4, os.SEEK_CUR)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))
