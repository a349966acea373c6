"""What the header of a JPEG 2000 promises, before OpenJPEG takes memory for it; and which of its detail is left out.

See ISO/IEC 15444-1, annex A for the markers and annex I for the boxes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from diffaug.decoding.limits import MAX_MEMORY
from diffaug.decoding.result import RejectedError

_BEGIN, _SIZE, _CODING, _CODING_OF_ONE, _TILE, _DATA = 0xFF4F, 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93
_MOST_MARKERS, _MOST_LEVELS = 2**16, 32
_BYTES_PER_BLOCK, _BYTES_PER_TILE = 600, 12_000  # of OpenJPEG 2.5, by the peaks of processes that decode one file


@dataclass(frozen=True)
class Promise:
    """What a file of JPEG 2000 makes OpenJPEG allocate."""

    corners: tuple[int, int, int, int]  # left, top, right and bottom of the image on the grid of the file, in px
    tiles: int
    levels: int  # of resolution that can be left out
    blocks: float  # that are coded together, per pixel, of all components

    @property
    def pixels(self) -> int:
        """Of the whole image."""
        width, height = self.size()
        return width * height

    def size(self, left_out: int = 0) -> tuple[int, int]:
        """Width and height in px without some levels."""
        left, top, right, bottom = (-(-corner // 2**left_out) for corner in self.corners)
        return right - left, bottom - top

    def bytes_per_pixel(self, of_samples: float, left_out: int = 0) -> float:
        """Memory for decoding per pixel of the whole image; blocks are noted also where they are left out."""
        notes = self.blocks * _BYTES_PER_BLOCK + self.tiles * _BYTES_PER_TILE / self.pixels
        return float(of_samples / 4**left_out + notes)

    def left_out(self, of_samples: float) -> int:
        """How many levels of resolution are too much for the memory of an image; each of them halves the sides."""
        fitting = (n for n in range(self.levels) if self.pixels * self.bytes_per_pixel(of_samples, n) <= MAX_MEMORY)
        return next(fitting, self.levels)


def leave_out(image: Image.Image, promise: Promise, levels: int) -> None:
    """Makes an image decode without some levels; Pillow's own `reduce` rounds sides that OpenJPEG rounds up."""
    if levels:
        size, tiles = promise.size(levels), image.tile  # type: ignore[attr-defined]
        (codec, _, *others) = tiles[0].args
        image._size = size
        tiles[:] = [tiles[0]._replace(extents=(0, 0, *size), args=(codec, levels, *others))]


def promise_of(image: Image.Image, file: BinaryIO) -> Promise:
    """The promise of a file whose image is not loaded yet; a RejectedError if it contradicts itself or is cut short."""
    position = file.tell()
    try:
        return _promise(image, file)
    finally:
        file.seek(position)


def _promise(image: Image.Image, file: BinaryIO) -> Promise:
    segments = _segments(file)
    code, content = next(segments)
    if code != _SIZE:
        raise RejectedError("truncated", "the size is missing", image.size, image.mode)
    right, bottom, left, top, width, height, tiles_left, tiles_top, components = struct.unpack(">8IH", content[2:36])
    if (right - left, bottom - top) != image.size or not width or not height:
        raise RejectedError("truncated", "its header says two sizes", image.size, image.mode)
    tiles = -(-(right - tiles_left) // width) * -(-(bottom - tiles_top) // height)
    index = 2 if components > 256 else 1  # bytes of the number of a component
    levels, blocks = _most_levels((left, top, right, bottom), (width, height)), 0.0
    for code, content in segments:
        if code in (_CODING, _CODING_OF_ONE):
            flags, own = (content[0], content[5:]) if code == _CODING else (content[index], content[index + 1 :])
            levels = min(levels, own[0])
            blocks = max(blocks, components * _blocks_per_pixel(own, own[5:] if flags & 1 else b""))
    return Promise((left, top, right, bottom), tiles, levels, blocks)


def _most_levels(corners: tuple[int, int, int, int], tile: tuple[int, int]) -> int:
    """How many levels Pillow can leave out: none of an image with an offset, and none that empties a tile."""
    if corners[0] or corners[1]:
        return 0
    most = _MOST_LEVELS
    for side, end in zip(tile, corners[2:], strict=True):
        last = (end - 1) // side * side  # where the last tile begins
        steps = [2**level for level in range(1, most + 1)]
        is_whole = [last == 0 or (step <= side and -(-last // step) < -(-end // step)) for step in steps]
        most = next((level for level, whole in enumerate(is_whole) if not whole), most)
    return most


def _blocks_per_pixel(coding: bytes, precincts: bytes) -> float:
    """Of one component: those of each resolution, which the precincts of that resolution cut."""
    levels, width, height = coding[0], coding[1] + 2, coding[2] + 2
    blocks = 0.0
    for resolution in range(levels + 1):
        sides = precincts[resolution] if precincts else 255
        log2 = max(0, min(width, (sides & 15) - 1)) + max(0, min(height, (sides >> 4) - 1))
        blocks += 4.0 ** (resolution - levels) / 2**log2
    return blocks


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment of the main header and of those of the tiles."""
    end = file.seek(0, 2)
    place = _begin(file) + 2
    for _ in range(_MOST_MARKERS):
        file.seek(place)
        head = file.read(4)
        if len(head) < 4:
            return
        code, length = struct.unpack(">HH", head)
        if code != _TILE:
            if code >> 8 != 0xFF or code in (0xFFD9, _DATA):
                return
            yield code, file.read(length - 2)
            place += 2 + length
            continue
        own = struct.unpack(">I", file.read(8)[2:6])[0]
        yield from _segments_of_tile(file, place + 12)
        if not own:  # the last one, up to the end
            return
        place += own
        if place > end:
            raise RejectedError("truncated", f"{place - end} bytes are missing")


def _segments_of_tile(file: BinaryIO, place: int) -> Iterator[tuple[int, bytes]]:
    for _ in range(_MOST_MARKERS):
        file.seek(place)
        code, length = struct.unpack(">HH", file.read(4))
        if code == _DATA or code >> 8 != 0xFF:
            return
        yield code, file.read(length - 2)
        place += 2 + length


def _begin(file: BinaryIO) -> int:
    """Where the code stream begins: at once, or in a box."""
    place = 0
    for _ in range(_MOST_MARKERS):
        file.seek(place)
        head = file.read(16)
        if head[:2] == struct.pack(">H", _BEGIN):
            return place
        length, kind = struct.unpack(">I4s", head[:8])
        inside = 16 if length == 1 else 8
        if kind == b"jp2c":
            return place + inside
        length = struct.unpack(">Q", head[8:])[0] if length == 1 else length
        if length < 8:
            break
        place += length
    raise RejectedError("truncated", "there is no code stream")
