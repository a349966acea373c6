import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def encoded():
    """encode(pixels or Pillow image, format, **options) -> bytes."""

    def encode(image, file_format="PNG", **options) -> bytes:
        buffer = io.BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, file_format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def make_folder(tmp_path, encoded):
    """make({'train/cat': 5}) writes that many different random images as 0.png, 1.png, ... into each folder."""

    def make(counts, *, root="data", size=(12, 12), channels=3):
        for number, (folder, count) in enumerate(counts.items()):
            random = np.random.default_rng(number)
            (tmp_path / root / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = random.integers(0, 256, (*size, 3) if channels == 3 else size, dtype=np.uint8)
                (tmp_path / root / folder / f"{index}.png").write_bytes(encoded(pixels))
        return tmp_path / root

    return make
