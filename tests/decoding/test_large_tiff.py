"""Large TIFF files are read in bands, as the whole would be, and reduced."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from diffaug.decoding import limits
from diffaug.decoding.decode import decode
from diffaug.decoding.formats import pillow_files, reduced, tiff_bands
from diffaug.decoding.formats.orientation import turn
from diffaug.decoding.formats.reduced import block_means
from diffaug.decoding.intensity import IntensityRange
from diffaug.decoding.object_masks import read_mask
from tests.decoding.odd_files import saved, tiff, tiff_of, tiff_page, tiled

RANDOM = np.random.default_rng(0)
COLOR = RANDOM.integers(0, 256, (45, 37, 3), dtype=np.uint8)
DEEP = RANDOM.integers(0, 2**16, (45, 37), dtype=np.uint16)
AS_16_BIT = IntensityRange(0, 65535, "")


def packed(values: object, compression: str, rows: int) -> bytes:
    return saved(Image.fromarray(values), "TIFF", compression=compression, tiffinfo={278: rows})


def in_strips(values: np.ndarray, rows: int, order: str = "<", **tags: int) -> bytes:
    """Deflated strips of a number of rows."""
    row = values[:1].nbytes
    data, known = tiff_page(values, order, t259=8, t278=rows, **tags)
    strips = [zlib.compress(data[start : start + rows * row]) for start in range(0, len(data), rows * row)]
    return tiff((strips, known), order=order)


FILES = {
    "plain": tiff_of(COLOR),
    "one strip, deflated": in_strips(COLOR, 45),
    "strips, big-endian, 16 bit": in_strips(DEEP, 7, ">"),
    "16 bit color": in_strips(COLOR.astype(np.uint16) * 257, 6),
    "float": tiff_of((DEEP / 7).astype(np.float32), ">"),
    "white is 0": in_strips(COLOR[..., 0], 9, t262=0),
    "turned": in_strips(COLOR, 4),
    "bits": saved(Image.fromarray(COLOR[..., 0] > 99), "TIFF"),
    "fax": packed(COLOR[..., 0] > 99, "group4", 5),
    "LZW": packed(COLOR, "tiff_lzw", 7),
    "JPEG": packed(COLOR, "jpeg", 16),
    "packed bits": packed(COLOR[..., 1], "packbits", 3),
    "alpha": packed(np.dstack([COLOR, COLOR[..., :1]]), "tiff_lzw", 8),
    "palette": saved(Image.fromarray(COLOR).quantize(9), "TIFF", compression="tiff_lzw"),
    "tiles": tiled(COLOR),
    "tiles of planes": tiled(COLOR, separate=True),
    "tiles, 16 bit": tiled(DEEP[..., None], ">", 2),
}


@pytest.fixture
def made_large():
    """A function: from then on images of more than 15 px count as large, and bands are short."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda: [patch.setattr(pillow_files, "LARGE", 15), patch.setattr(reduced, "STRIP_BYTES", 1)]


@pytest.mark.parametrize("name", FILES)
def test_a_large_image_is_reduced_to_the_means_of_what_it_was(tmp_path, made_large, name) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(FILES[name])
    ordinary, mask = decode(file, intensity=AS_16_BIT), read_mask(file)
    made_large()
    large = decode(file, intensity=AS_16_BIT)
    same = ("status", "width", "height", "mode", "sha256", "is_deep", *(() if ordinary.is_deep else ("note",)))
    assert [getattr(large, one) for one in same] == [getattr(ordinary, one) for one in same]
    means = block_means(ordinary.pixels.astype(float), 8)
    assert large.status == "ok" and large.pixels.shape == means.shape
    assert np.abs(large.pixels - means).max() <= 1.01
    np.testing.assert_array_equal(read_mask(file), mask)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_image_is_turned_as_a_whole(tmp_path, made_large, orientation) -> None:
    (tmp_path / "a.tif").write_bytes(in_strips(COLOR, 6, t274=orientation))
    mask = read_mask(tmp_path / "a.tif")
    made_large()
    found = decode(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.pixels, turn(block_means(COLOR, 8), orientation))
    assert (found.height, found.width) == turn(COLOR[..., 0], orientation).shape
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), mask)


def test_the_second_page_is_reduced_too(tmp_path, made_large) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(tiff_page(COLOR), tiff_page(255 - COLOR)))
    made_large()
    np.testing.assert_array_equal(decode(tmp_path / "a.tif", page=1).pixels, block_means(255 - COLOR, 8))


@pytest.mark.parametrize("name", ["plain", "one strip, deflated", "LZW", "tiles"])
def test_a_file_that_was_cut_is_refused(tmp_path, made_large, name) -> None:
    made_large()
    content = FILES[name]
    for place in range(10, len(content), len(content) // 9):
        (tmp_path / "a.tif").write_bytes(content[:place])
        assert decode(tmp_path / "a.tif").status == "truncated"


def test_missing_and_changed_bytes_of_a_strip_are_seen(tmp_path, made_large) -> None:
    made_large()
    data, tags = tiff_page(COLOR, t259=8)
    for strip in (
        zlib.compress(data)[:-60],
        zlib.compress(data[:-1]),
        b"\0" * 99,
        zlib.compress(data)[:99] + b"\7" * 99,
    ):
        (tmp_path / "a.tif").write_bytes(tiff((strip, tags)))
        assert decode(tmp_path / "a.tif").status == "truncated"
    (tmp_path / "a.tif").write_bytes(tiff(([data[:-1]], tags | {259: 1})))
    assert decode(tmp_path / "a.tif").status == "truncated"


def bands(content: bytes, scale: int = 8) -> tiff_bands.TiffBands | None:
    file = io.BytesIO(content)
    return tiff_bands.TiffBands.of(file, Image.open(file).tag_v2, scale)


def test_what_cannot_be_cut_is_read_at_once(monkeypatch) -> None:
    assert bands(in_strips(DEEP, 9)) is not None
    data, tags = tiff_page(DEEP)
    assert bands(tiff((data, tags | {42113: b"7"}))) is None  # pixels without a value
    assert bands(tiff((data, tags | {278: 5, 273: [8] * 9, 279: [len(data)] * 9}))) is None  # strips that share bytes
    monkeypatch.setattr(tiff_bands, "MOST_PIXELS", 37 * 16)
    assert bands(packed(COLOR, "tiff_lzw", 16)) is not None
    assert bands(packed(COLOR, "tiff_lzw", 17)) is None
    assert bands(in_strips(COLOR, 45)) is not None


def test_no_band_is_large() -> None:
    found = bands(in_strips(COLOR, 45))
    heights = [Image.open(io.BytesIO(band)).height for band in found.cut(8)]
    assert heights == [8] * 5 + [5]


def test_memory_of_the_samples_is_enough(tmp_path, made_large, monkeypatch) -> None:
    (tmp_path / "a.tif").write_bytes(FILES["LZW"])
    monkeypatch.setattr(limits, "MAX_MEMORY", COLOR.nbytes)
    assert decode(tmp_path / "a.tif").status == "too large"
    made_large()
    assert decode(tmp_path / "a.tif").status == "ok"
