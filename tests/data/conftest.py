from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EncodedImage = Callable[..., bytes]
MakeFolder = Callable[..., Path]


@pytest.fixture
def encoded() -> EncodedImage:
    """encode(pixels or Pillow image, format, **options) -> bytes."""

    def encode(image: np.ndarray[Any, Any] | Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, file_format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def make_folder(tmp_path: Path, encoded: EncodedImage) -> MakeFolder:
    """make({'train/cat': 5}) writes that many different random images as 0.png, 1.png, ... into each folder."""

    def make(
        counts: Mapping[str, int], *, root: str = "data", size: tuple[int, int] = (12, 12), channels: int = 3
    ) -> Path:
        shape = (*size, 3) if channels == 3 else size
        for number, (folder, count) in enumerate(counts.items()):
            random = np.random.default_rng(number)
            (tmp_path / root / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = random.integers(0, 256, shape, dtype=np.uint8)
                (tmp_path / root / folder / f"{index}.png").write_bytes(encoded(pixels))
        return tmp_path / root

    return make
