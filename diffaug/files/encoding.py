"""Content as bytes and hashes: equal content always has equal bytes and an equal hash."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.files.naming import naming_its_file

if TYPE_CHECKING:
    import numpy as np


def png_bytes(pixels: np.ndarray[Any, Any]) -> bytes:
    """Encodes uint8 or uint16 pixels (H, W), (H, W, 1) or (H, W, 3) as PNG without metadata."""
    from PIL import Image

    buffer = io.BytesIO()
    squeezed = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    if squeezed.ndim == 3 and squeezed.dtype.itemsize == 2:
        return _color_png_16(squeezed)
    Image.fromarray(squeezed).save(buffer, format="PNG")
    return buffer.getvalue()


def _color_png_16(pixels: np.ndarray[Any, Any]) -> bytes:
    """A PNG of uint16 pixels (H, W, 3), which Pillow does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0), b"IDAT" + zlib.compress(rows), b"IEND"]
    parts = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def sha256_bytes(content: bytes) -> str:
    """Hexadecimal sha256."""
    return hashlib.sha256(content).hexdigest()


@naming_its_file
def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(content: Any) -> str:
    """A short stable hash of JSON-like content, paths included."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), default=os.fspath)
    return sha256_bytes(canonical.encode())[:16]


def json_bytes(content: Any) -> bytes:
    """Readable JSON; non-finite numbers become null."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is not UTF-8 holds lone surrogates; replaced this way they are JSON escapes and read back.
    return text.encode(errors="backslashreplace")


def finite(content: Any) -> Any:
    """JSON-like content with text keys, plain numbers, and None for NaN and infinity."""
    if isinstance(content, Mapping):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if hasattr(content, "item") and getattr(content, "ndim", 1) == 0:
        content = content.item()
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
