"""Checks the directories of a TIFF before Pillow reads the values of all of their tags."""

import os
import struct
from typing import BinaryIO

from diffaug.decoding.result import RejectedError

MOST_DIRECTORIES, MOST_ENTRIES = 2000, 2**16
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def require_small_tags(file: BinaryIO) -> None:
    """A RejectedError if the tags of a TIFF refer to more bytes than it holds, the same ones again and again.

    Does nothing to other files.
    """
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order and len(head) == 16:
        size = file.seek(0, os.SEEK_END)
        big = struct.unpack(f"{order}H", head[2:4])[0] == 43
        first = struct.unpack(f"{order}Q" if big else f"{order}I", head[8:16] if big else head[4:8])[0]
        if _tag_bytes(file, order, first, big=big) > size:
            raise RejectedError("truncated", "its tags refer to more bytes than the file holds")
    file.seek(0)


def _tag_bytes(file: BinaryIO, order: str, offset: int, *, big: bool) -> int:
    """Bytes that the tags of all directories refer to."""
    count_format, link_format = (f"{order}Q", f"{order}Q") if big else (f"{order}H", f"{order}I")
    entry_format, inline = (f"{order}HHQ8x", 8) if big else (f"{order}HHI4x", 4)
    total, entries, seen = 0, 0, set[int]()
    while offset and offset not in seen and len(seen) < MOST_DIRECTORIES and entries < MOST_ENTRIES:
        seen.add(offset)
        file.seek(offset)
        count = _unpack(count_format, file.read(struct.calcsize(count_format)))
        content = file.read(min(count, MOST_ENTRIES) * struct.calcsize(entry_format))
        whole = len(content) // struct.calcsize(entry_format) * struct.calcsize(entry_format)
        for _, kind, values in struct.iter_unpack(entry_format, content[:whole]):
            length = _BYTES.get(kind, 1) * values
            total += length if length > inline else 0
        entries += count
        offset = _unpack(link_format, file.read(struct.calcsize(link_format)))
    return total


def _unpack(form: str, content: bytes) -> int:
    """One number; 0 where the file ends."""
    return int(struct.unpack(form, content)[0]) if len(content) == struct.calcsize(form) else 0
