"""What is written is exactly this: other libraries read it back, and equal content has equal bytes."""

import io
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffaug.files.encoding import fingerprint, finite, json_bytes, parquet_bytes, png_bytes, sha256_file


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (3, 5, 3), (1, 1, 3), (2, 1)])
def test_images_of_8_and_16_bits_are_read_back_by_other_libraries(dtype: type, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    content = png_bytes(pixels)
    read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = pixels.squeeze(2) if shape[2:] == (1,) else pixels
    np.testing.assert_array_equal(read[..., ::-1] if read.ndim == 3 else read, expected)
    assert read.dtype == dtype
    with Image.open(io.BytesIO(content)) as image:
        image.load()  # checks the sums of all chunks
        assert not image.info


def test_tables_are_written_without_their_index() -> None:
    table = pd.DataFrame({"a": [3, 1]}, index=["x", "y"])
    assert pq.read_table(io.BytesIO(parquet_bytes(table))).column_names == ["a"]


def test_json_is_written_as_it_has_always_been() -> None:
    content = {"ü": [1, np.float32(0.5)], 2: float("inf"), "cut\udce9": (True, None)}
    expected = '{\n  "ü": [\n    1,\n    0.5\n  ],\n  "2": null,\n  "cut\\udce9": [\n    true,\n    null\n  ]\n}\n'
    assert json_bytes(content) == expected.encode()


def test_what_json_has_no_word_for_is_refused() -> None:
    class Ratio:
        item = 3

    for content in (np.zeros(1), [np.zeros((1, 1))], Ratio(), {1}):
        assert finite(content) is content or isinstance(content, list)
        with pytest.raises(TypeError):
            json_bytes(content)


def test_fingerprints_are_short_and_depend_on_the_content_alone() -> None:
    assert fingerprint([]) == "4f53cda18c2baa0c"  # sha256 of "[]"
    assert fingerprint({"b": 1, "a": Path("x/y")}) == fingerprint({"a": "x/y", "b": 1})


def test_a_file_that_cannot_be_hashed_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        sha256_file(tmp_path)
    assert caught.value.filename == str(tmp_path)
