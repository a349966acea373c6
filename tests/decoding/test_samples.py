"""Samples of small files by the module that reads their format."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffaug.decoding import result
from diffaug.decoding.formats import deep, netpbm, pillow_files, raw_tiff, reduced, tiff_bands
from diffaug.decoding.formats.color import (
    BECAME_BLACK,
    BECAME_WHITE,
    is_white_alone,
    read_color,
    without_needless_color,
)
from diffaug.decoding.formats.png_bands import PngBands
from diffaug.decoding.formats.reduced import block_means, opened, read_reduced
from diffaug.decoding.result import STRIP_BYTES, RejectedError
from tests.decoding.odd_files import (
    COLOR,
    RAMP_8,
    RAMP_16,
    H,
    W,
    png,
    png_of,
    ppm,
    saved,
    tiff,
    tiff_of,
    tiff_page,
    tiled,
)
from tests.decoding.test_large_tiff import DEEP, bands, in_strips
from tests.decoding.test_odd_files import ALPHA, UNIT, planes


def refusal(call: Any, *arguments: Any) -> tuple[Any, ...]:
    with pytest.raises(RejectedError) as raised:
        call(*arguments)
    found = raised.value.result
    return found.status, found.note, (found.width, found.height), found.mode


def test_colors_are_the_same_in_strips_of_rows(monkeypatch) -> None:
    monkeypatch.setattr(result, "STRIP_BYTES", 1)
    np.testing.assert_array_equal(read_color(Image.fromarray(COLOR)).values, COLOR)


@pytest.mark.parametrize("side", [3, 40, 70])
def test_colors_are_kept_at_any_size(side) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    assert without_needless_color(pixels).shape == (side, side, 3)
    assert without_needless_color(pixels[..., :1].repeat(3, axis=2)).shape == (side, side, 1)


@pytest.mark.parametrize(("mode", "color"), [("LA", (100, 128)), ("RGBA", (100, 50, 20, 128))])
def test_premultiplied_colors_are_those_they_were(mode, color) -> None:
    image = Image.new(mode, (4, 4), color)
    found, expected = (read_color(one).values[0, 0].astype(int) for one in (image.convert(f"{mode[:-1]}a"), image))
    assert np.abs(found - expected).max() <= 2 and expected[0] == pytest.approx(255 - 155 * 128 / 255, abs=1)


def test_only_what_is_seen_can_be_white_alone() -> None:
    clear, white = Image.new("RGBA", (4, 4)), Image.new("RGBA", (4, 4), "white")
    assert not is_white_alone([clear])
    assert is_white_alone([clear, white])
    assert not is_white_alone([white, Image.new("RGBA", (4, 4), (9, 9, 9, 1))])


def test_lab_becomes_srgb() -> None:
    swatch, lab = Image.new("RGB", (4, 4), (200, 60, 30)), ImageCms.createProfile("LAB")
    as_lab = ImageCms.profileToProfile(swatch, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    assert np.abs(read_color(as_lab).values[0, 0].astype(int) - (200, 60, 30)).max() <= 3


@pytest.mark.parametrize(("mode", "white"), [("I;16", 65535), ("I", 0), ("F", 0)])
def test_only_the_depth_of_integers_says_what_is_white(mode, white) -> None:
    image = Image.new(mode, (5, 6))
    assert deep.read_deep(image, image.copy).white == white


@pytest.mark.parametrize(
    ("tags", "white"),
    [({341: (9.5,), 281: (7,)}, 9.5), ({281: 7}, 7), ({281: ()}, 0), ({281: (np.nan,)}, 0), ({281: "no"}, 0), ({}, 0)],
)
def test_a_declared_white_is_a_finite_number(tags, white) -> None:
    assert deep._declared_white(tags) == white


@pytest.mark.parametrize("missing", ["7", "8"])
def test_values_stay_where_all_or_none_are_missing(missing) -> None:
    values = np.full((4, 4, 1), 7, np.int16)
    found, notes = deep.without_missing(values, {42113: missing})
    assert found is values and notes == ()


def raw(content: bytes, page: int = 0) -> Any:
    return raw_tiff.read_samples(io.BytesIO(content), page)


def big_tiff(values: np.ndarray) -> bytes:
    """A little-endian BigTIFF of gray values, with the tags that have no default."""
    tags = {256: W, 257: H, 258: values.itemsize * 8, 262: 1, 273: 16, 279: values.nbytes, 339: 3}
    entries = b"".join(struct.pack("<HHQQ", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16 + values.nbytes)
    return head[:16] + values.tobytes() + struct.pack("<Q", len(tags)) + entries + bytes(8)


def test_a_tiff_may_be_large_and_leave_out_what_has_a_default() -> None:
    values = UNIT.astype("<f8")
    content = values.tobytes(), {k: v for k, v in tiff_page(values)[1].items() if k not in (259, 277, 278)}
    for found in (raw(tiff(content)), raw(big_tiff(values))):
        np.testing.assert_array_equal(found.values[..., 0], values)
        assert (found.notes, found.white) == ((), 0)


def test_integers_of_a_raw_tiff_have_a_white_and_floats_an_opacity() -> None:
    found = raw(planes(np.dstack([RAMP_16] * 3)))
    assert (found.white, found.mode) == (65535, "3 x uint16")
    found = raw(tiff_of(np.dstack([UNIT, UNIT[::-1]]), t338=2))
    np.testing.assert_array_equal(found.alpha, np.rint(UNIT[::-1] * 255))


def test_tiles_of_a_raw_tiff_reach_over_its_edges() -> None:
    np.testing.assert_array_equal(raw(tiled(UNIT.astype(float)[..., None])).values[..., 0], UNIT.astype(float))


def test_a_refused_raw_tiff_is_named() -> None:
    values = UNIT.astype(float)
    status, note, size, _ = refusal(raw, tiff_of(RAMP_16.astype(np.uint64)))
    assert (status, size) == ("unsupported mode", (W, H)) and "unusual" in note
    data, tags = tiff_page(values)
    note = "8 of 240 bytes of samples are missing"
    assert refusal(raw, tiff((data[:-8], tags))) == ("truncated", note, (W, H), "1 x float64")


@pytest.mark.parametrize("order", "<>")
def test_bands_of_strips_are_the_rows_of_the_image(order) -> None:
    cut = [Image.open(io.BytesIO(band)) for band in bands(in_strips(DEEP, 7, order)).cut(8)]
    np.testing.assert_array_equal(np.concatenate([np.asarray(band) for band in cut]), DEEP)
    assert all(279 in band.tag_v2 and 325 not in band.tag_v2 for band in cut)


@pytest.mark.parametrize(("stored", "orientation"), [(0, 1), (1, 1), (8, 8), (9, 1)])
def test_an_orientation_of_bands_is_one_of_eight(stored, orientation) -> None:
    assert bands(tiff_of(RAMP_8, t274=stored)).orientation == orientation


@pytest.mark.parametrize(("content", "count"), [(tiff_of(COLOR), 3), (tiff_of(COLOR, t258=8), 3), (tiff_of(DEEP), 2)])
def test_bytes_of_a_pixel_are_those_of_all_samples(content, count) -> None:
    assert bands(content).bytes_per_pixel == count


def test_bands_need_the_lengths_of_strips_but_no_number_of_channels() -> None:
    file = io.BytesIO(tiff_of(RAMP_8, t284=2))
    tags = Image.open(file).tag_v2
    del tags[277]
    assert len(list(tiff_bands.TiffBands.of(file, tags, 2).cut(4))) == 2
    del tags[279]
    assert tiff_bands.TiffBands.of(file, tags, 2) is None


def test_values_of_tags_keep_their_kind_or_become_long() -> None:
    assert tiff_bands._packed(11, 0.5, ">") == (struct.pack(">f", 0.5), 1, 11)
    assert tiff_bands._packed(16, (5, 6), "<") == (struct.pack("<2L", 5, 6), 2, 4)


def test_missing_bytes_of_bands_are_counted() -> None:
    found = bands(tiff((RAMP_8.tobytes()[:-3], tiff_page(RAMP_8)[1])))
    assert refusal(list, found.cut(8))[:2] == ("truncated", "3 bytes of a strip are missing")
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in RAMP_8))
    head = b"IHDR" + struct.pack(">IIBBBBB", W, H, 8, 0, 0, 0, 0)
    found = PngBands.of(io.BytesIO(png(head, b"IDAT" + zlib.compress(bytes(30)), b"IEND")))
    assert refusal(list, found.cut(8))[:2] == ("truncated", "6 bytes of samples are missing")
    wrong = PngBands.of(io.BytesIO(png(head, b"IDAT" + rows[:-4], b"IDAT" + bytes(4), b"IEND")))
    with pytest.raises(zlib.error):
        list(wrong.cut(8))


@pytest.mark.parametrize(("maximum", "known"), [(0, False), (1, True), (65535, True), (65536, False)])
def test_a_maximum_has_one_to_16_bits(maximum, known) -> None:
    assert netpbm.is_netpbm(f"P5 4 4 {maximum}\n".encode()) is known


def test_a_portable_map_has_its_mode_and_depth() -> None:
    floats = b"Pf 5 6 -1.0\n" + UNIT.astype("<f4").tobytes()
    for content, bits in ((ppm(5, RAMP_8), 8), (ppm(2, RAMP_16, 65535), 16), (floats, 32)):
        assert netpbm.read_header(content).bits == bits
        assert netpbm.read_samples(io.BytesIO(content), content).mode == content[:2].decode()


def test_numbers_as_text_are_bounded(monkeypatch) -> None:
    content = ppm(2, RAMP_8, 100)
    assert refusal(netpbm.read_samples, io.BytesIO(content), content)[:2] == (
        "truncated",
        "a value is outside 0 to 100",
    )
    assert refusal(netpbm.read_samples, io.BytesIO(b"P2\n5 6\n100\n0 8"), content)[:2] == (
        "truncated",
        "2 of 30 values are there",
    )
    monkeypatch.setattr(netpbm, "_LONGEST_TEXT", 20)
    assert refusal(netpbm.read_samples, io.BytesIO(content), content)[0] == "too large"


def test_what_is_white_alone_is_seen_in_a_reduced_image(monkeypatch) -> None:
    monkeypatch.setattr(pillow_files, "LARGE", 29)
    for values, kind, note in [
        (np.dstack([RAMP_8 * 0 + 255, ALPHA]), 4, (BECAME_BLACK,)),
        (np.dstack([RAMP_16, RAMP_16]), 4, ()),
    ]:
        file = io.BytesIO(png_of(values, kind, bits=8 * values.itemsize))
        found = read_reduced(Image.open(file), PngBands.of(file))
        assert found.notes == note and found.values.shape == (3, 3, 1)


def test_what_is_white_in_one_band_alone_becomes_white(monkeypatch) -> None:
    monkeypatch.setattr(pillow_files, "LARGE", 29)
    monkeypatch.setattr(reduced, "STRIP_BYTES", 1)
    white = np.dstack([RAMP_8 * 0 + 255, ALPHA]).repeat(2, axis=0)
    file = io.BytesIO(png_of(np.concatenate([white, white * np.uint8([0, 1])]), 4, bits=8))
    assert read_reduced(Image.open(file), PngBands.of(file)).notes == (BECAME_WHITE,)


def test_a_band_is_not_taller_than_memory_allows() -> None:
    file = io.BytesIO(saved(Image.new("L", (20_000, 90))))
    heights = [band.height for band in opened(Image.open(file), PngBands.of(file))]
    assert sum(heights) == 90 and max(heights) * 20_000 * 4 <= STRIP_BYTES


def test_means_of_integers_are_rounded() -> None:
    for kind, mean in ((np.uint16, 2), (np.int32, 2), (np.float32, 1.75)):
        assert block_means(np.array([[1, 2], [2, 2]], kind)[..., None], 2).item() == mean
