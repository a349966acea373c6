"""Reads TIFF files of sample types that Pillow does not know, such as 64-bit floats and colors of floats.

The samples lie in strips or tiles, uncompressed or deflated.
"""

import zlib
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, BinaryIO

import numpy as np
from PIL import TiffImagePlugin

from diffaug.decoding.formats.deep import require_finite, without_missing
from diffaug.decoding.formats.orientation import turn
from diffaug.decoding.formats.pillow_files import MAX_PAGES, is_reduced
from diffaug.decoding.limits import require_size
from diffaug.decoding.result import Header, Pixels, RejectedError, Samples, Values

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _ORIENTATION = 256, 257, 258, 259, 262, 273, 274
_CHANNELS, _ROWS, _BYTE_COUNTS, _PLANES, _PREDICTOR = 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTE_COUNTS = 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT = 338, 339
_HORIZONTAL, _FLOATING_POINT = 2, 3
_ALPHA = 2
_MAX_TILE = 2**22  # px
_DEFLATED = (8, 32946)
_KINDS = {1: "u", 2: "i", 3: "f"}
_UNUSUAL = "a TIFF of an unusual sample type; save it as 16-bit integers or 32-bit floats, one gray or three colors"

Tags = Mapping[int, Any]


def read_header(file: BinaryIO) -> Header:
    """The header of a TIFF."""
    pages = _directories(file)
    width, height = _size(pages[0])
    turned = pages[0].get(_ORIENTATION, 1) >= 5
    bits = _dtype(file, pages[0]).itemsize * 8
    return Header(width if turned else height, height if turned else width, len(pages), max(9, bits))


def read_samples(file: BinaryIO, page: int) -> Samples:
    """The values of one page; a RejectedError if they can't be read here either."""
    pages = _directories(file)
    if page >= len(pages):
        raise RejectedError("truncated", f"there is no page {page}")
    tags = pages[page]
    dtype, size, channels = _dtype(file, tags), _size(tags), tags.get(_CHANNELS, 1)
    mode = f"{channels} x {dtype.name}"
    require_size(size, channels * (3 * dtype.itemsize + 1), mode)
    values = turn(_values(file, tags, dtype, mode), tags.get(_ORIENTATION, 1))
    values, alpha = _without_alpha(values)
    values, notes = without_missing(values, tags)
    require_finite(values, mode)
    return Samples(
        values,
        mode,
        values.shape[1::-1],
        white=65535 if dtype.name == "uint16" else 0,
        alpha=alpha,
        inverted=tags.get(_PHOTOMETRIC) == 0,
        notes=(*((f"first of {len(pages)} frames",) if len(pages) > 1 and page == 0 else ()), *notes),
    )


def _directories(file: BinaryIO) -> list[Tags]:
    """The tags of each page that is not a smaller copy of another one."""
    file.seek(0)
    head = file.read(8)
    if head[2] == 43:
        head += file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(head)
    pages, seen = list[Tags](), set[int]()
    while tags.next and tags.next not in seen and len(seen) < MAX_PAGES:
        seen.add(tags.next)
        file.seek(tags.next)
        tags.load(file)
        pages.append(dict(tags))
    return [page for page in pages if not is_reduced(page)] or pages[:1]


def _size(tags: Tags) -> tuple[int, int]:
    return int(tags[_WIDTH]), int(tags[_HEIGHT])


def _dtype(file: BinaryIO, tags: Tags) -> np.dtype[Any]:
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    bits, formats, channels = tags.get(_BITS, (1,)), tags.get(_SAMPLE_FORMAT, (1,)), tags.get(_CHANNELS, 1)
    kind = _KINDS.get(formats[0], "")
    known = kind and bits[0] in ((16, 32, 64) if kind == "f" else (8, 16, 32))
    uniform = len(set(bits)) == len(set(formats)) == 1 and tags[_PHOTOMETRIC] in (0, 1, 2)
    with_alpha = channels in (2, 4) and tags.get(_EXTRA_SAMPLES) == (_ALPHA,)
    if not known or not uniform or not (channels in (1, 3) or with_alpha):
        raise RejectedError("unsupported mode", _UNUSUAL, _size(tags))
    return np.dtype(f"{order}{kind}{bits[0] // 8}")


def _values(file: BinaryIO, tags: Tags, dtype: np.dtype[Any], mode: str) -> Values:
    """The samples (H, W, C) in the machine's byte order."""
    (width, height), channels = _size(tags), tags.get(_CHANNELS, 1)
    planes = channels if tags.get(_PLANES, 1) == 2 else 1
    values = np.empty((height, width, channels), dtype.newbyteorder("="))
    for (plane, top, left), (rows, columns), content in _blocks(file, tags, dtype, planes, mode):
        block = _unpredicted(content, dtype, (rows, columns, channels // planes), tags.get(_PREDICTOR, 1))
        channel = slice(plane, plane + 1) if planes > 1 else slice(None)
        values[top : top + rows, left : left + columns, channel] = block[: height - top, : width - left]
    return values


def _blocks(
    file: BinaryIO, tags: Tags, dtype: np.dtype[Any], planes: int, mode: str
) -> Iterator[tuple[tuple[int, int, int], tuple[int, int], bytes]]:
    """Each strip or tile: its plane, top and left, its rows and columns, and its bytes."""
    (width, height), compression = _size(tags), tags.get(_COMPRESSION, 1)
    tiled = _TILE_OFFSETS in tags
    rows, columns = (tags[_TILE_HEIGHT], tags[_TILE_WIDTH]) if tiled else (min(height, tags.get(_ROWS, height)), width)
    if compression not in (1, *_DEFLATED) or tags.get(_PREDICTOR, 1) not in (1, _HORIZONTAL, _FLOATING_POINT):
        raise RejectedError("unsupported mode", f"{_UNUSUAL}, or save it uncompressed", _size(tags), mode)
    if min(rows, columns) < 1 or rows * columns > max(_MAX_TILE, 4 * width * height):
        raise RejectedError("truncated", f"tiles of {columns} x {rows} px", _size(tags), mode)
    offsets, counts = (tags[_TILE_OFFSETS], tags[_TILE_BYTE_COUNTS]) if tiled else (tags[_OFFSETS], tags[_BYTE_COUNTS])
    places = product(range(planes), range(0, height, rows), range(0, width, columns))
    for place, offset, count in zip(places, offsets, counts, strict=True):
        held = rows if tiled else min(rows, height - place[1])
        needed = held * columns * tags.get(_CHANNELS, 1) // planes * dtype.itemsize
        file.seek(offset)
        content = file.read(min(count, needed) if compression == 1 else count)
        if compression in _DEFLATED:
            content = zlib.decompressobj().decompress(content, needed)
        if len(content) < needed:
            missing = needed - len(content)
            raise RejectedError("truncated", f"{missing} of {needed} bytes of samples are missing", _size(tags), mode)
        yield place, (held, columns), content


def _unpredicted(content: bytes, dtype: np.dtype[Any], shape: tuple[int, int, int], predictor: int) -> Values:
    """The samples of a block (rows, columns, channels); see Adobe's TIFF technical notes 1 and 3 on predictors."""
    rows, columns, channels = shape
    if predictor == _FLOATING_POINT:  # differences of bytes, which are sorted by their weight in a row
        steps = np.frombuffer(content, np.uint8).reshape(rows, -1, channels)
        parts = steps.cumsum(axis=1, dtype=np.uint8).reshape(rows, dtype.itemsize, columns * channels)
        return np.ascontiguousarray(parts.transpose(0, 2, 1)).view(dtype.newbyteorder(">")).reshape(shape)
    values = np.frombuffer(content, dtype).reshape(shape)
    if predictor == _HORIZONTAL:
        kind = np.dtype(f"u{dtype.itemsize}")  # sums wrap around
        return values.view(kind.newbyteorder(dtype.byteorder)).cumsum(axis=1, dtype=kind).view(dtype.newbyteorder("="))
    return values


def _without_alpha(values: Values) -> tuple[Values, Pixels | None]:
    """Gray or colors (H, W, 1 or 3), and the opacity (H, W) if there is one."""
    if values.shape[2] in (1, 3):
        return values, None
    opaque = 1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    return values[..., :-1], np.rint(np.clip(values[..., -1] / opaque, 0, 1) * 255).astype(np.uint8)
