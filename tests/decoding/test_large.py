"""Large PNG files are read in bands: as the whole would be, and reduced."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffaug.decoding.decode import decode
from diffaug.decoding.formats import pillow_files, reduced
from diffaug.decoding.formats.orientation import turn
from diffaug.decoding.formats.png_bands import PngBands
from diffaug.decoding.formats.reduced import block_means
from diffaug.decoding.intensity import IntensityRange
from diffaug.decoding.object_masks import read_mask
from tests.decoding.odd_files import png

KINDS = [(0, 8), (0, 16), (2, 8), (2, 16), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]  # color type and bits
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PALETTE = (b"PLTE" + bytes(range(256)) * 3, b"tRNS" + bytes([0, 128, 255]))
AS_16_BIT = IntensityRange(0, 65535, "")


def filtered(samples: np.ndarray, step: int, filters: list[int]) -> bytes:
    """Rows of bytes (H, W) with the filter of each row, by section 9.2 of the PNG specification."""
    rows = []
    above = np.zeros(samples.shape[1] + step, int)
    for kind, row in zip(filters, samples.astype(int), strict=True):
        here = np.concatenate([np.zeros(step, int), row])
        left, corner, up = here[:-step], above[:-step], above[step:]
        distances = np.abs(np.stack([up - corner, left - corner, left + up - 2 * corner]))
        paeth = np.choose(distances.argmin(axis=0), [left, up, corner])
        guess = (np.zeros_like(up), left, up, (left + up) // 2, paeth)[kind]
        rows.append(bytes([kind]) + (row - guess).astype(np.uint8).tobytes())
        above = here
    return b"".join(rows)


@st.composite
def images(draw: st.DrawFn) -> bytes:
    """A PNG of random samples and filters; about half of them have few values, as drawn pictures have."""
    (kind, bits), width, height = draw(st.sampled_from(KINDS)), draw(st.integers(4, 20)), draw(st.integers(4, 40))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    step = CHANNELS[kind] * bits // 8
    samples = random.integers(0, draw(st.sampled_from([2, 256])), (height, width * step), dtype=np.uint8)
    data = zlib.compress(filtered(samples, step, random.integers(0, 5, height).tolist()))
    parts = [b"IDAT" + data[start : start + 50] for start in range(0, len(data), 50)]
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return png(head, *(PALETTE if kind == 3 else ()), *parts, b"IEND")


def whole(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@settings(max_examples=25, deadline=None)
@given(images(), st.integers(1, 50))
def test_bands_are_the_rows_of_the_image(content, rows) -> None:
    bands = [whole(band) for band in PngBands.of(io.BytesIO(content)).cut(rows)]
    assert [band.height for band in bands[:-1]] == [rows] * (len(bands) - 1)
    for name in ("RGBA", None):
        stacked = np.concatenate([np.asarray(band.convert(name) if name else band) for band in bands])
        expected = whole(content)
        np.testing.assert_array_equal(stacked, np.asarray(expected.convert(name) if name else expected))


@pytest.fixture
def made_large():
    """A function: from then on images of more than 15 px count as large, and bands have 8 rows."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda: [patch.setattr(pillow_files, "LARGE", 15), patch.setattr(reduced, "STRIP_BYTES", 1)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(images())
def test_a_large_image_is_reduced_to_the_means_of_what_it_was(tmp_path, content) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        ordinary, mask = decode(tmp_path / "a.png", intensity=AS_16_BIT), read_mask(tmp_path / "a.png")
        patch.setattr(pillow_files, "LARGE", 15)
        patch.setattr(reduced, "STRIP_BYTES", 1)
        large = decode(tmp_path / "a.png", intensity=AS_16_BIT)
        np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), mask)
    same = ("status", "width", "height", "mode", "sha256", "is_deep", *(() if ordinary.is_deep else ("note",)))
    assert [getattr(large, name) for name in same] == [getattr(ordinary, name) for name in same]
    scale = next((scale for scale in (2, 4) if ordinary.height * ordinary.width <= 15 * scale**2), 8)
    assert large.pixels.shape[:2] == (-(-ordinary.height // scale), -(-ordinary.width // scale))
    for y, x in np.ndindex(large.pixels.shape[:2]):
        block = ordinary.pixels[y * scale : (y + 1) * scale, x * scale : (x + 1) * scale]
        if large.pixels.shape[2] == ordinary.pixels.shape[2]:  # means of few colors may be gray
            assert np.abs(large.pixels[y, x] - block.mean(axis=(0, 1))).max() <= 1.01


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("behind", [False, True])
def test_a_large_image_is_turned_as_a_whole(tmp_path, made_large, orientation, behind) -> None:
    values = np.random.default_rng(0).integers(0, 256, (16, 24), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    head, data = b"IHDR" + struct.pack(">IIBBBBB", 24, 16, 8, 0, 0, 0, 0), filtered(values, 1, [0] * 16)
    parts = [b"eXIf" + exif.tobytes()[6:], b"IDAT" + zlib.compress(data)]
    (tmp_path / "a.png").write_bytes(png(head, *(reversed(parts) if behind else parts), b"IEND"))
    mask = read_mask(tmp_path / "a.png")
    made_large()
    found, expected = decode(tmp_path / "a.png"), turn(block_means(values[..., None], 8), orientation)
    np.testing.assert_array_equal(found.pixels, expected)
    assert (found.height, found.width) == turn(values, orientation).shape
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), mask)


def test_damage_is_seen_as_in_an_image_that_is_read_at_once(tmp_path, made_large) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 10), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    places = range(content.index(b"IDAT") + 4, len(content) - 16)
    flipped = [content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] for place in places]
    files = [tmp_path / f"{number}.png" for number in range(2 * len(places))]
    for file, damaged in zip(files, [*flipped, *(content[:place] for place in places)], strict=True):
        file.write_bytes(damaged)
    ordinary = [decode(file).status for file in files]
    made_large()
    assert [decode(file).status for file in files] == ordinary
    assert ordinary.count("truncated") > 0.97 * len(ordinary)


@pytest.mark.parametrize("odd", [(1, 0, b""), (8, 1, b""), (8, 0, b"acTL"), (8, 0, b"CgBI")])
def test_what_cannot_be_cut_is_read_at_once(odd) -> None:
    bits, interlaced, name = odd
    head = b"IHDR" + struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, interlaced)
    content = png(head, *([name + b"\0" * 8] if name else []), b"IDAT" + zlib.compress(bytes(72)), b"IEND")
    assert PngBands.of(io.BytesIO(content)) is None


def test_images_of_ordinary_size_are_not_cut(tmp_path) -> None:
    Image.new("L", (4000, 4000)).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        assert pillow_files.bands_of(Image.open(file), file) is None


@pytest.mark.parametrize(("orientation", "size"), [(1, (64, 40)), (6, (40, 64))])
def test_the_size_of_a_reduced_jpeg_is_that_of_the_whole(tmp_path, made_large, orientation, size) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (64, 40)).save(tmp_path / "a.jpg", exif=exif)
    made_large()
    found = decode(tmp_path / "a.jpg")
    assert (found.width, found.height) == size and found.pixels.shape[1::-1] == (size[0] // 8, size[1] // 8)
