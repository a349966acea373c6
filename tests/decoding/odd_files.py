"""Builds files byte by byte, so that what they hold does not depend on the libraries that read them."""

import gzip
import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

H, W = 6, 5
RAMP_8 = np.arange(H * W, dtype=np.uint8).reshape(H, W) * 8
COLOR = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
RAMP_16 = (np.arange(H * W).reshape(H, W) * 2259).astype(np.uint16)  # 0 to 65511
COLOR_16 = np.random.default_rng(1).integers(0, 65536, (H, W, 3)).astype(np.uint16)


def saved(image: Any, file_format: str = "PNG", **options: Any) -> bytes:
    """What Pillow writes."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, file_format, **options)
    return buffer.getvalue()


def png(*chunks: bytes) -> bytes:
    """A PNG of chunks that are given as type and content."""
    parts = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_of(values: np.ndarray, color_type: int, *extra: bytes, bits: int = 16) -> bytes:
    """A PNG of samples (H, W[, C]) of 8 or 16 bits, with chunks before the pixels."""
    height, width = values.shape[:2]
    rows = values.astype(f">u{bits // 8}").reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    return png(head, *extra, b"IDAT" + data, b"IEND")


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height pixels that are not there."""
    return png(struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"\0" * 100))


def tiff(*pages: tuple[bytes | list[bytes], dict[int, Any]], order: str = "<") -> bytes:
    """A TIFF of pages, each with its samples as bytes, or as one bytes object per strip or tile, and its tags."""
    content, link = bytearray(b"II*\0\0\0\0\0" if order == "<" else b"MM\0*\0\0\0\0"), 4
    for data, tags in pages:
        strips = data if isinstance(data, list) else [data]
        starts = [len(content) + sum(map(len, strips[:k])) for k in range(len(strips))]
        where = (324, 325) if 322 in tags else (273, 279)
        entries = {where[0]: starts, where[1]: [len(strip) for strip in strips], **tags}
        content += b"".join(strips)
        content += b"\0" * (len(content) % 2)
        encoded = {tag: _entry(value, order) for tag, value in sorted(entries.items())}
        struct.pack_into(f"{order}I", content, link, len(content))
        outside = len(content) + 2 + 12 * len(encoded) + 4
        directory, tail = struct.pack(f"{order}H", len(encoded)), b""
        for tag, (kind, count, value) in encoded.items():
            field = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(f"{order}I", outside + len(tail))
            tail += value if len(value) > 4 else b""
            directory += struct.pack(f"{order}HHI", tag, kind, count) + field
        link = len(content) + len(directory)
        content += directory + b"\0" * 4 + tail
    return bytes(content)


def _entry(value: Any, order: str) -> tuple[int, int, bytes]:
    if isinstance(value, bytes):
        return 2, len(value) + 1, value + b"\0"
    values = value if isinstance(value, Sequence) else [value]
    if max(values) > 65535:
        return 4, len(values), struct.pack(f"{order}{len(values)}I", *values)
    return 3, len(values), struct.pack(f"{order}{len(values)}H", *values)


def tiff_page(values: np.ndarray, order: str = "<", **tags: int) -> tuple[bytes, dict[int, Any]]:
    """A page for `tiff` with the values (H, W[, C]); tags are t262=0 and so on."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = [values.dtype.itemsize * 8] * channels
    photometric = 2 if channels >= 3 else 1
    known = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: channels, 278: height}
    known |= {339: [kind] * channels} if kind > 1 else {}
    return values.astype(values.dtype.newbyteorder(order)).tobytes(), known | {int(k[1:]): v for k, v in tags.items()}


def tiff_of(values: np.ndarray, order: str = "<", **tags: Any) -> bytes:
    """A TIFF of one page."""
    return tiff(tiff_page(values, order, **tags), order=order)


def tiled(values: np.ndarray, order: str = "<", predictor: int = 1, *, separate: bool = False) -> bytes:
    """A TIFF of values (H, W, C) in deflated tiles of 4 x 4 px, predicted as in Adobe's technical notes 1, 3."""
    height, width, channels = values.shape
    padded = np.pad(values, ((0, -height % 4), (0, -width % 4), (0, 0)), mode="edge")
    planes = np.split(padded, channels, axis=2) if separate else [padded]
    corners = [(top, left) for top in range(0, height, 4) for left in range(0, width, 4)]
    tiles = [plane[top : top + 4, left : left + 4] for plane in planes for top, left in corners]
    sides = {322: 4, 323: 4, 259: 8, 317: predictor, 284: 2 if separate else 1}
    content = [zlib.compress(_predicted(np.ascontiguousarray(tile), order, predictor)) for tile in tiles]
    return tiff((content, tiff_page(values)[1] | sides), order=order)


def _predicted(tile: np.ndarray, order: str, predictor: int) -> bytes:
    if predictor == 2:
        kind = f"u{tile.itemsize}"
        tile = np.diff(tile.view(kind), axis=1, prepend=np.zeros_like(tile[:, :1]).view(kind)).view(tile.dtype)
    if predictor == 3:
        weighted = tile.astype(tile.dtype.newbyteorder(">")).view(np.uint8).reshape(len(tile), -1, tile.itemsize)
        parts = weighted.transpose(0, 2, 1).reshape(len(tile), -1, tile.shape[2])
        return np.diff(parts, axis=1, prepend=np.zeros_like(parts[:, :1])).tobytes()
    return tile.astype(tile.dtype.newbyteorder(order)).tobytes()


def packed_12(values: np.ndarray) -> bytes:
    """Values of 12 bits, two in three bytes, of rows of even width."""
    first, second = values[:, 0::2].astype(int), values[:, 1::2].astype(int)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2).astype(np.uint8).tobytes()


def dicom(
    values: np.ndarray,
    photometric: str = "MONOCHROME2",
    *,
    preamble: bool = True,
    deflated: bool = False,
    **attributes: Any,
) -> bytes:
    """A DICOM file of frames (N, H, W), an image (H, W), or a color image (H, W, 3)."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=["test"])
    color = photometric in ("RGB", "YBR_FULL")
    dataset.Rows, dataset.Columns = values.shape[-3:-1] if color else values.shape[-2:]
    if values.ndim == 3 and not color:
        dataset.NumberOfFrames = len(values)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3 if color else 1, photometric
    dataset.BitsAllocated = dataset.BitsStored = values.dtype.itemsize * 8
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    if color:
        dataset.PlanarConfiguration = 0
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    dataset["PixelData"] = _pixel_data(values)
    buffer = io.BytesIO()
    if not preamble:
        dataset.save_as(buffer, implicit_vr=True, little_endian=True, enforce_file_format=False)
        return buffer.getvalue()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian if deflated else ExplicitVRLittleEndian
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _pixel_data(values: np.ndarray) -> Any:
    from pydicom.dataelem import DataElement

    content = values.tobytes()
    return DataElement("PixelData", "OW" if values.dtype.itemsize > 1 else "OB", content + b"\0" * (len(content) % 2))


def nifti(*, compressed: bool = False, big_endian: bool = False) -> bytes:
    """The header of a NIfTI-1 file and some samples."""
    content = struct.pack(">i" if big_endian else "<i", 348).ljust(344, b"\0") + b"n+1\0" + b"\0" * 1000
    return gzip.compress(content, mtime=0) if compressed else content


def ppm(kind: int, values: np.ndarray, maximum: int | None = 255, comment: str = "") -> bytes:
    """A binary (4, 5, 6) or plain (1, 2, 3) PNM."""
    height, width = values.shape[:2]
    head = f"P{kind}\n{comment}{width} {height}\n" + ("" if maximum is None else f"{maximum}\n")
    if kind < 4:
        return head.encode() + " ".join(map(str, values.ravel())).encode() + b"\n"
    dtype = ">u2" if (maximum or 0) > 255 else np.uint8
    body = np.packbits(values, axis=1) if kind == 4 else values.astype(dtype)
    return head.encode() + body.tobytes()
