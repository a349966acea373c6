"""Which part of a file is read, and what is said of one that can't be."""

import numpy as np
import pytest

from diffaug.decoding.decode import decode
from diffaug.decoding.formats import pillow_files, reduced
from diffaug.decoding.formats.reduced import block_means
from diffaug.decoding.reading import read_file
from tests.decoding.odd_files import png_of, tiff, tiff_page


def test_all_bits_of_a_later_page_are_its_own(tmp_path) -> None:
    """Pillow gives half of the bits at a time, so the page is opened twice."""
    first, second = np.random.default_rng(0).integers(0, 65536, (2, 6, 5, 3), dtype=np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff(tiff_page(first), tiff_page(second)))
    for page, values in enumerate((first, second)):
        np.testing.assert_array_equal(read_file(tmp_path / "a.tif", page).values, values)


def test_a_large_image_is_read_in_bands(tmp_path, monkeypatch) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 12), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(png_of(values, 0, bits=8))
    monkeypatch.setattr(pillow_files, "LARGE", 15)
    monkeypatch.setattr(reduced, "STRIP_BYTES", 1)
    found = read_file(tmp_path / "a.png")
    np.testing.assert_array_equal(found.values, block_means(values[..., None], 4))  # to 15 px
    assert found.size == (12, 20)


@pytest.mark.parametrize(
    ("content", "status", "note"),
    [
        (b"", "not an image", "empty file"),
        (b"text", "not an image", "the content is not PNG"),
        (b"GIF89a", "truncated", "cut short"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, content, status, note) -> None:
    (tmp_path / "a").write_bytes(content)
    found = decode(tmp_path / "a")
    assert found.status == status and note in found.note
