"""Trees of files for the tests of layouts, written from short specifications."""

import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image


def braces(pattern: str) -> Iterator[str]:
    """`a/{1,2}.png` is `a/1.png` and `a/2.png`, as in a shell; braces do not nest."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        yield pattern
        return
    for part in found[1].split(","):
        yield from braces(pattern[: found.start()] + part + pattern[found.end() :])


@cache
def photo() -> bytes:
    """A small picture of many colors."""
    return _encoded(np.random.default_rng(0).integers(20, 230, (12, 12, 3), dtype=np.uint8))


@cache
def mask() -> bytes:
    """A small black and white picture."""
    return _encoded((np.indices((12, 12)).sum(axis=0) > 12).astype(np.uint8) * 255)


def grow(root: Path, files: str, *, masks: str = "", tables: dict[str, str | bytes] | None = None) -> Path:
    """Writes `files`, patterns of `braces` between spaces; a `/` at the end makes an empty folder."""
    binary = {path for pattern in masks.split() for path in braces(pattern)}
    root.mkdir(parents=True, exist_ok=True)
    for path in [path for pattern in files.split() for path in braces(pattern)] + sorted(binary):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).write_bytes(mask() if path in binary else photo())
    for path, text in (tables or {}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def _encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
