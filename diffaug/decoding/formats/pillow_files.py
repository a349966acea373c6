"""Opens one page of a file with Pillow, within limits."""

import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO

from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

from diffaug.decoding.formats.jpeg_2000 import leave_out, promise_of
from diffaug.decoding.formats.orientation import upright_size
from diffaug.decoding.formats.png_bands import PngBands
from diffaug.decoding.formats.recognition import HAS_AVIF, HAS_JPEG_2000
from diffaug.decoding.formats.tiff_bands import TiffBands
from diffaug.decoding.limits import require_size
from diffaug.decoding.result import Header, RejectedError

MAX_PAGES = 1000
MAX_GIF_BLOCKS = 4096  # extensions and frames looked at
MAX_SCANS = 100  # of a progressive JPEG; encoders use 6 to 14, and each costs a pass over the image
LARGE = 16 * 10**6  # px; larger JPEG, PNG and TIFF are decoded at a half, a quarter or an eighth of their size
REDUCED_FORMATS = ("JPEG", "MPO", "JPEG2000")  # by their decoders
WIDEST = 2**16  # px of an image that is read in bands
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")

_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", *DEEP_MODES)
_OPTIONAL = {"JPEG2000": HAS_JPEG_2000, "AVIF": HAS_AVIF, "WEBP": bool(features.check("webp"))}
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", *(name for name, known in _OPTIONAL.items() if known))

# Bytes per pixel while decoding: Pillow's image, the result, and what the decoder of a format takes besides.
_BYTES = {"1": 2, "L": 2, "P": 4, "I;16": 4, "I;16B": 4, "I": 9, "F": 9}
_BYTES_OF_COLOR, _BYTES_OF_DEEP_COLOR = 7, 10
_BYTES_OF_FORMAT = {"JPEG2000": 13, "WEBP": 8, "AVIF": 8, "GIF": 8}

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _TILE_SIDES, _DESCRIPTION, _SAMPLE_FORMAT = 254, 255, (322, 323), 270, 339
_DNG, _NDPI, _SUB_IFDS, _PHOTOMETRIC, _COLOR_FILTER_ARRAY, _CHANNELS = 50706, 65420, 330, 262, 32803, 277

Bands = PngBands | TiffBands
"""What cuts the page of a file into bands."""

MOST_DIRECTORIES, MOST_ENTRIES = 2000, 2**16
_BYTES_OF_KIND = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def open_page(file: BinaryIO, page: int = 0, *, whole: bool = False) -> tuple[Image.Image, list[int]]:
    """An image that is not loaded yet, and the frames of its file that are pages.

    With `whole` it must be possible to decode a JPEG 2000 without `reduce_while_decoding`.
    """
    require_small_tags(file)
    image = Image.open(file, formats=FORMATS)
    require_decodable(image, file, whole=whole)
    frames = _frames(image, file)
    if page >= len(frames):
        raise RejectedError("truncated", f"there is no page {page}", image.size, image.mode)
    if frames[page]:
        image.seek(frames[page])
        require_decodable(image, file, whole=whole)
    return image, frames


def header_of(image: Image.Image, pages: int) -> Header:
    """The header of an image that is not loaded yet."""
    width, height = upright_size(image)
    return Header(height, width, pages, bits_of(image))


def rawmode_of(image: Image.Image) -> str:
    """The layout of the samples in the file in Pillow's words, such as `RGB;16B`; empty if it does not say."""
    tiles: list[Any] = getattr(image, "tile", [])  # of what is left to decode: decoder, box, offset, arguments
    arguments = tiles[0][3] if tiles else ""
    first = arguments if isinstance(arguments, str) else (arguments or ("",))[0]
    return first if isinstance(first, str) else ""


def is_libtiff(image: Image.Image) -> bool:
    """Whether libtiff decodes an image that is not loaded yet."""
    tiles: list[Any] = getattr(image, "tile", [])
    return bool(tiles) and tiles[0][0] == "libtiff"


def is_deep_color(image: Image.Image) -> bool:
    """Whether Pillow would keep only the upper 8 bits of each sample."""
    rawmode = rawmode_of(image)
    return ";16" in rawmode and image.mode in ("RGB", "RGBA") and not rawmode.startswith("RGBa")


def is_signed(image: Image.Image) -> bool:
    """Whether the samples of a TIFF are signed integers."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] == 2


def bits_of(image: Image.Image) -> int:
    """Bits per sample of an image that is not loaded yet: 8 if its values are pixels."""
    if image.mode in DEEP_MODES and isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0])
    if image.mode == "I" and image.format == "PNG":  # how Pillow before 11 names 16-bit gray PNG
        return 16
    if image.mode in ("I", "F"):
        return 32
    deep = image.mode in DEEP_MODES or is_deep_color(image) or is_signed(image)
    return 16 if deep else 8


def bands_of(image: Image.Image, file: BinaryIO) -> Bands | None:
    """What cuts the file of a large image that is not loaded yet; None for others, which are read at once."""
    if image.format not in ("PNG", "TIFF") or image.width * image.height <= LARGE:
        return None
    position = file.tell()
    found: Bands | None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        found = TiffBands.of(file, image.tag_v2, scale_of(image))
    else:
        found = PngBands.of(file)
    file.seek(position)
    return found if found and found.width <= WIDEST else None


def scale_of(image: Image.Image) -> int:
    """The divisor of the sides, 1, 2, 4 or 8, that leaves a large image at most `LARGE` px if possible."""
    return next((scale for scale in (1, 2, 4) if image.width * image.height / scale**2 <= LARGE), 8)


def require_decodable(image: Image.Image, file: BinaryIO, *, whole: bool = False) -> None:
    """A RejectedError if the header promises what can't be decoded within the limits."""
    if image.mode not in _MODES:
        raise RejectedError("unsupported mode", f"mode {image.mode} is not read", image.size, image.mode)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _require_plain_tiff(image)
    bytes_per_pixel = _bytes_per_pixel(image)
    if image.format == "JPEG2000":
        promise = promise_of(image, file)
        left_out = 0 if whole else promise.left_out(bytes_per_pixel)
        bytes_per_pixel = promise.bytes_per_pixel(bytes_per_pixel, left_out)
    elif image.format in ("JPEG", "MPO"):
        bytes_per_pixel = _jpeg_bytes_per_pixel(image)
    elif bands := bands_of(image, file):
        bytes_per_pixel = bands.bytes_per_pixel  # which never are in memory whole, but take time
    require_size(image.size, bytes_per_pixel, image.mode)


def _bytes_per_pixel(image: Image.Image) -> float:
    """Memory that decoding takes per pixel, as a rule."""
    of_mode = _BYTES_OF_DEEP_COLOR if is_deep_color(image) else _BYTES.get(image.mode, _BYTES_OF_COLOR)
    return float(of_mode + _BYTES_OF_FORMAT.get(str(image.format), 0))


def reduce_while_decoding(image: Image.Image, file: BinaryIO) -> None:
    """Makes a large JPEG or JPEG 2000 decode at a fraction of its size, which takes a fraction of the memory."""
    if image.info.get("progressive"):
        _require_few_scans(image, file)
    scale = scale_of(image)
    if image.format in ("JPEG", "MPO") and scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    if image.format == "JPEG2000":
        promise = promise_of(image, file)
        leave_out(image, promise, promise.left_out(_bytes_per_pixel(image)))


def _require_few_scans(image: Image.Image, file: BinaryIO) -> None:
    position, scans = file.tell(), 0
    file.seek(0)
    while scans <= MAX_SCANS and (content := file.read(2**20)):
        scans += content.count(b"\xff\xda")
    file.seek(position)
    if scans > MAX_SCANS:
        raise RejectedError("too large", f"a JPEG of more than {MAX_SCANS} scans", image.size, image.mode)


def _jpeg_bytes_per_pixel(image: Image.Image) -> float:
    """A progressive JPEG is held as a whole, in 2 bytes per coefficient; others are decoded by rows."""
    channels = len(image.getbands())
    progressive = 2 * channels if image.info.get("progressive") else 0
    large = image.width * image.height > LARGE
    return progressive + (1.2 if large else _BYTES_OF_COLOR)


def _require_plain_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    tags, size, mode = image.tag_v2, image.size, image.mode
    is_raw = _DNG in tags or tags.get(_PHOTOMETRIC) == _COLOR_FILTER_ARRAY
    if is_raw or (_SUB_IFDS in tags and is_reduced(image.tag_v2)):
        raise RejectedError("unsupported format", "a camera's raw: develop it to JPEG or TIFF", size, mode)
    if str(tags.get(_DESCRIPTION, "")).startswith("Aperio") or _NDPI in tags:
        note = "a whole-slide image: cut it into tiles and save these as PNG or TIFF files"
        raise RejectedError("unsupported format", note, size, mode)
    sides = [tags.get(tag, 0) for tag in _TILE_SIDES]
    if sides[0] * sides[1] > max(2**22, 4 * size[0] * size[1]):
        raise RejectedError("truncated", f"tiles of {sides[0]} x {sides[1]} px are larger than the image", size, mode)
    separate = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2 and tags.get(_CHANNELS, 1) > 1
    if separate and max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8:  # Pillow would take each byte for a sample
        raise UnidentifiedImageError("16-bit color in separate planes")
    missing = _parts_missing(tags, tags.get(_CHANNELS, 1) if separate else 1)
    if missing > 0:
        raise RejectedError("truncated", f"{missing} of its strips are missing", size, mode)


def _parts_missing(tags: Mapping[int, Any], planes: int) -> int:
    """Strips or tiles that a TIFF does not name; Pillow leaves their pixels black."""
    width, height = int(tags[256]), int(tags[257])
    offsets, columns, rows = tags.get(273, ()), width, int(tags.get(278, height))
    if 324 in tags:
        offsets, columns, rows = tags[324], int(tags.get(322, width)), int(tags.get(323, height))
    return planes * -(-height // max(1, rows)) * -(-width // max(1, columns)) - len(offsets)


def _frames(image: Image.Image, file: BinaryIO) -> list[int]:
    """The frames that are pages: not the previews of a camera, and not the thumbnails and masks of a TIFF."""
    if image.format in ("JPEG", "MPO"):
        return [0]
    if image.format == "GIF":
        return list(range(_gif_frames(file)))
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return list(range(max(1, min(getattr(image, "n_frames", 1), MAX_PAGES))))
    full = []
    with suppress(Exception):  # the end, or damage that begins here
        for frame in range(MAX_PAGES):
            image.seek(frame)
            full += [] if is_reduced(image.tag_v2) else [frame]
    image.seek(0)
    return full or [0]


def is_reduced(tags: Mapping[int, Any]) -> bool:
    """Whether a page is a smaller copy, or the mask, of another one."""
    return bool(tags.get(_NEW_SUBFILE_TYPE, 0) & 0b101) or tags.get(_SUBFILE_TYPE) == 2


def _gif_frames(file: BinaryIO) -> int:
    """Counted by the blocks of the file, since Pillow decodes every frame on its way."""
    position, count = file.tell(), 0
    file.seek(10)
    flags = file.read(3)[0]
    file.seek(_table_bytes(flags), os.SEEK_CUR)
    for _ in range(MAX_GIF_BLOCKS):
        kind = file.read(1)
        if kind == b",":
            count += 1
            flags = (file.read(9)[8:] or b"\0")[0]
            file.seek(_table_bytes(flags), os.SEEK_CUR)
        if kind not in (b",", b"!") or count == MAX_PAGES:
            break
        file.read(1)  # the kind of an extension, or the code size of a frame
        while (length := file.read(1)) > b"\0":
            file.seek(length[0], os.SEEK_CUR)
    file.seek(position)
    return max(1, count)


def _table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 128 else 0


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
            length = _BYTES_OF_KIND.get(kind, 1) * values
            total += length if length > inline else 0
        entries += count
        offset = _unpack(link_format, file.read(struct.calcsize(link_format)))
    return total


def _unpack(form: str, content: bytes) -> int:
    """One number; 0 where the file ends."""
    return int(struct.unpack(form, content)[0]) if len(content) == struct.calcsize(form) else 0
