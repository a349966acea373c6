"""Reads PBM, PGM, PPM and PFM: Pillow reduces their depth, and takes seconds for some maxima."""

import re
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from diffaug.decoding.limits import require_size
from diffaug.decoding.result import Header, RejectedError, Samples, Values

_SPACE = rb"(?:\s|#[^\n\r]*[\n\r])+"
_HEADER = re.compile(rb"P([1-6])" + 2 * (_SPACE + rb"(\d{1,9})") + rb"(?=[\s#])")
_MAXIMUM = re.compile(_SPACE + rb"(\d{1,5})(?=[\s#])")
_PFM = re.compile(rb"P([fF])\s+(\d{1,9})\s+(\d{1,9})\s+(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s")
_LONGEST_TEXT = 2**22  # bytes of a plain file, whose numbers are parsed


@dataclass(frozen=True)
class _Layout:
    kind: str
    width: int
    height: int
    maximum: int  # 0 for floats
    offset: int  # of the first sample
    little_endian: bool = False

    @property
    def channels(self) -> int:
        return 3 if self.kind in "36F" else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        if not self.maximum:
            return np.dtype(np.float32)
        return np.dtype(np.uint16 if self.maximum > 255 else np.uint8)

    @property
    def is_plain(self) -> bool:
        return self.kind in "123"


def is_netpbm(head: bytes) -> bool:
    """Whether a file begins like PBM, PGM, PPM or PFM."""
    return re.match(rb"P[1-6fF][\s#]", head) is not None and _layout(head) is not None


def read_header(head: bytes) -> Header:
    """The header of a file of which `is_netpbm` holds."""
    layout = _known(head)
    return Header(layout.height, layout.width, bits=max(8, layout.maximum.bit_length()) if layout.maximum else 32)


def read_samples(file: BinaryIO, head: bytes) -> Samples:
    """The values of the first picture."""
    layout = _known(head)
    file.seek(layout.offset)
    values = _plain(file, layout) if layout.is_plain else _binary(file, layout)
    values = values.reshape(layout.height, layout.width, layout.channels)
    size = (layout.width, layout.height)
    mode = f"P{layout.kind}"
    if not layout.maximum:
        return Samples(values[::-1], mode, size)  # the last row comes first
    if values.max() > layout.maximum:
        raise RejectedError("truncated", f"a value is above the maximum of {layout.maximum}", size, mode)
    if layout.maximum > 255:
        return Samples(values, mode, size, white=layout.maximum)
    if layout.maximum < 255:
        levels = np.rint(np.arange(256) * (255 / layout.maximum)).clip(0, 255).astype(np.uint8)
        values = levels[values]
    return Samples(255 - values if layout.kind in "14" else values, mode, size)


def _layout(head: bytes) -> _Layout | None:
    if found := _PFM.match(head):
        kind, width, height, scale = found.groups()
        return _Layout(kind.decode(), int(width), int(height), 0, found.end(), float(scale) < 0)
    found = _HEADER.match(head)
    if not found:
        return None
    kind, width, height = found.group(1).decode(), int(found.group(2)), int(found.group(3))
    if kind in "14":
        return _Layout(kind, width, height, 1, found.end() + 1)
    maximum = _MAXIMUM.match(head, found.end())
    if not maximum or not 0 < int(maximum.group(1)) < 2**16:
        return None
    return _Layout(kind, width, height, int(maximum.group(1)), maximum.end() + 1)


def _known(head: bytes) -> _Layout:
    """The layout of a file of which `is_netpbm` holds; a RejectedError if its size is out of bounds."""
    layout = _layout(head)
    assert layout is not None
    bytes_per_sample = 2 * layout.dtype.itemsize + 1
    require_size((layout.width, layout.height), layout.channels * bytes_per_sample, f"P{layout.kind}")
    return layout


def _binary(file: BinaryIO, layout: _Layout) -> Values:
    count = layout.width * layout.height * layout.channels
    if layout.kind == "4":
        row = (layout.width + 7) // 8
        bits = np.frombuffer(_exactly(file, row * layout.height), np.uint8).reshape(layout.height, row)
        return np.unpackbits(bits, axis=1, count=layout.width)
    values = np.frombuffer(_exactly(file, count * layout.dtype.itemsize), layout.dtype)
    return values if layout.little_endian == (sys.byteorder == "little") else values.byteswap()


def _exactly(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise RejectedError("truncated", f"{len(content)} of {count} bytes of samples are there")
    return content


def _plain(file: BinaryIO, layout: _Layout) -> Values:
    """Numbers as text; the digits of a bitmap need no space between them."""
    text = file.read(_LONGEST_TEXT + 1)
    if len(text) > _LONGEST_TEXT:
        raise RejectedError("too large", f"over {_LONGEST_TEXT // 2**20} MB of numbers as text; save it as binary")
    text = re.sub(rb"#[^\n\r]*", b" ", text)
    count = layout.width * layout.height * layout.channels
    tokens = re.findall(rb"\S", text) if layout.kind == "1" else text.split()
    if len(tokens) < count:
        raise RejectedError("truncated", f"{len(tokens)} of {count} values are there")
    values = np.array(tokens[:count]).astype(np.int64)
    if values.min() < 0 or values.max() > layout.maximum:
        raise RejectedError("truncated", f"a value is outside 0 to {layout.maximum}")
    return values.astype(layout.dtype)
