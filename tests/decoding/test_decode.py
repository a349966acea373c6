import errno
import io
import os
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import PIL
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, ImageOps

from diffaug.decoding import limits, reading
from diffaug.decoding.decode import content_sha256, decode, decode_image, peek, pixel_sha256, strict_pillow
from diffaug.decoding.formats.orientation import orientation_of, upright_size
from diffaug.decoding.intensity import IntensityRange
from diffaug.decoding.reading import hash_of_file
from diffaug.decoding.result import Decoded, RejectedError
from diffaug.files.storage import sha256_bytes
from tests.decoding.odd_files import png_header

RANDOM = np.random.default_rng(0)
COLOR = RANDOM.integers(0, 256, (24, 20, 3), dtype=np.uint8)
GRAY = RANDOM.integers(0, 256, (24, 20), dtype=np.uint8)
ASYMMETRIC = np.arange(5 * 9, dtype=np.uint8).reshape(5, 9) * 5
SWATCH = Image.new("RGB", (8, 8), (200, 60, 30))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "image.png"


@pytest.fixture
def read(file: Path, encoded: Any) -> Callable[..., Decoded]:
    """read(content, or what `encoded` takes) decodes it from a file."""

    def write_and_decode(content: Any, *args: Any, **options: Any) -> Decoded:
        file.write_bytes(content if isinstance(content, bytes | bytearray) else encoded(content, *args, **options))
        return decode(file)

    return write_and_decode


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "BMP", "TIFF", "JPEG"])
@pytest.mark.parametrize("pixels", [COLOR, GRAY], ids=["color", "gray"])
def test_lossless_formats_give_the_pixels_back_and_jpeg_those_of_pillow(file, read, file_format, pixels) -> None:
    result = read(pixels, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    assert (result.status, result.width, result.height, result.pixels.dtype) == ("ok", 20, 24, np.uint8)
    expected = np.asarray(Image.open(file)) if file_format == "JPEG" else pixels
    np.testing.assert_array_equal(result.pixels, expected.reshape(24, 20, -1))
    assert result.sha256 == sha256_bytes(file.read_bytes()) == content_sha256(file)


def test_gray_stored_as_color_has_one_channel_and_the_same_hash(read) -> None:
    result = read(np.repeat(GRAY[..., None], 3, axis=2))
    assert result.mode == "RGB"
    np.testing.assert_array_equal(result.pixels, GRAY[..., None])
    assert result.pixel_sha256 == pixel_sha256(GRAY[..., None]) != pixel_sha256(GRAY[..., None].transpose(1, 0, 2))


@pytest.mark.parametrize("file_format", ["ICO", "PCX", "TGA", "EPS", "SGI", "PDF"])
def test_other_formats_under_a_png_name_are_refused(read, monkeypatch, file_format) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("Ghostscript was started"))
    assert read(COLOR, file_format).status in ("not an image", "unsupported format")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("GIF", {}),
        ("PPM", {}),
        ("JPEG2000", {}),
        ("AVIF", {}),
    ],
)
def test_cut_files_are_never_silently_ok(read, encoded, file_format, options, smooth) -> None:
    pixels = np.full_like(COLOR, 90) + np.arange(20, dtype=np.uint8)[:, None] if smooth else COLOR
    content = encoded(pixels, file_format, **options)
    whole = read(content).pixels
    points = sorted({*np.linspace(1, len(content) - 1, 20).astype(int), *range(len(content) - 20, len(content))})
    for cut in points:
        result = read(content[:cut])
        if result.status == "ok":  # only bytes behind the last pixel are missing
            np.testing.assert_array_equal(result.pixels, whole)
            assert cut >= len(content) - 24
        else:
            assert result.pixels is None
            assert result.status == "truncated" or (cut < 20 and result.status == "not an image")


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_never_raise(read, encoded, data) -> None:
    file_format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]))
    content = bytearray(encoded(COLOR, file_format))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    result = read(content)
    assert (result.pixels is not None) == (result.status == "ok")


def test_a_bomb_takes_no_memory(file: Path) -> None:
    file.write_bytes(png_header(30_000, 30_000))
    script = (
        "import resource, sys; from pathlib import Path; from diffaug.decoding.decode import decode\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "status = decode(Path(sys.argv[1])).status\n"
        "print(status, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    out = subprocess.run([sys.executable, "-c", script, str(file)], check=True, capture_output=True, text=True).stdout
    status, megabytes = out.rsplit(" ", 1)
    assert status == "too large"
    assert int(megabytes) < 50


def test_the_bomb_warning_is_an_error_inside_strict_pillow(read) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with strict_pillow():
            assert read(png_header(10_000, 9_000)).status == "too large"
    assert not caught


def test_the_file_size_limit_comes_before_reading(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with file.open("wb") as sparse:
        sparse.truncate(limits.MAX_FILE_BYTES + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("the file was read"))
    assert decode(file).status == "too large"
    assert content_sha256(file) == ""


def test_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for path in (*tmp_path.iterdir(), tmp_path / "missing.png", Path("nul\0.png")):
        assert decode(path).status == "unreadable", path
        assert peek(path) is None
        assert content_sha256(path) == ""


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(file, read, orientation, file_format) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {"quality": 95} if file_format == "JPEG" else {}
    stored = Image.fromarray(ASYMMETRIC)
    result = read(stored, file_format, exif=exif, **options)
    stored.getexif()[274] = orientation
    upright = np.asarray(ImageOps.exif_transpose(stored))  # Pillow's own rule as oracle
    assert result.pixels.shape == (*upright.shape, 1) == (result.height, result.width, 1)
    assert np.abs(result.pixels[..., 0].astype(int) - upright).max() <= (8 if file_format == "JPEG" else 0)
    assert (peek(file).height, peek(file).width) == upright.shape


def test_damaged_exif_does_not_cost_the_picture(read) -> None:
    with strict_pillow():
        result = read(GRAY, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    np.testing.assert_array_equal(result.pixels, GRAY[..., None])


def test_hidden_color_becomes_white(read) -> None:
    clear_red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear_red.putpixel((2, 3), (0, 0, 255, 255))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 255, 255, 0, 0])
    for result, expected in [
        (read(clear_red), 255),
        (read(clear_red, "WEBP", lossless=True, exact=True), 255),
        (read(Image.new("LA", (8, 8), (0, 128))), 127),
        (read(palette, transparency=1), 255),
        (read(Image.new("RGB", (8, 8), (9, 8, 7)), transparency=(9, 8, 7)), 255),
    ]:
        assert (result.pixels[0, 0] == expected).all()
    assert tuple(read(clear_red).pixels[3, 2]) == (0, 0, 255)


def test_bilevel_and_palette(read) -> None:
    bilevel = Image.new("1", (8, 8))
    ImageDraw.Draw(bilevel).line((0, 0, 7, 7), fill=1)
    np.testing.assert_array_equal(read(bilevel).pixels, 255 * np.eye(8, dtype=np.uint8)[..., None])
    palette = Image.fromarray(COLOR).quantize(16)
    np.testing.assert_array_equal(read(palette).pixels, np.asarray(palette.convert("RGB")))


def test_cmyk_and_lab_become_srgb(read) -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    as_lab = ImageCms.profileToProfile(SWATCH, srgb, lab, outputMode="LAB")
    for image in (SWATCH.convert("CMYK"), as_lab):
        result = read(image, "TIFF")
        assert result.mode == image.mode
        assert np.abs(result.pixels[0, 0].astype(int) - (200, 60, 30)).max() <= 3


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
def test_ycbcr_becomes_srgb(read, compression) -> None:
    result = read(SWATCH.convert("YCbCr"), "TIFF", compression=compression)
    if compression == "raw" and int(PIL.__version__.partition(".")[0]) < 13:
        assert result.status == "truncated"  # Pillow could not read what it wrote
    else:
        assert np.abs(result.pixels[0, 0].astype(int) - (200, 60, 30)).max() <= 3


def wide_profile() -> bytes:
    """sRGB with red and green exchanged: a profile whose effect can't be missed."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for number in range(struct.unpack(">I", profile[128:132])[0]):
        entry = 132 + 12 * number
        if profile[entry : entry + 4] in (b"rXYZ", b"gXYZ"):
            profile[entry : entry + 1] = b"g" if profile[entry : entry + 1] == b"r" else b"r"
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "else".encode("utf-16-be"))


def test_an_embedded_profile_is_applied(read) -> None:
    swatch = Image.new("RGB", (8, 8), (200, 60, 30))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(wide_profile()))
    expected = ImageCms.profileToProfile(swatch, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert np.asarray(expected)[0, 0, 1] > 150  # red and green changed places
    np.testing.assert_array_equal(read(swatch, icc_profile=wide_profile()).pixels, np.asarray(expected))


def test_dicom_without_its_extra_is_told_how_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    file.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 90)
    result = decode(file)
    assert (result.status, result.pixels) == ("unsupported format", None)
    assert "pip install 'diffaug[dicom]'" in result.note


def test_pages_of_one_file_are_hashed_once(file: Path, encoded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Image.fromarray(255 - GRAY)
    file.write_bytes(encoded(GRAY, "TIFF", save_all=True, append_images=[other] * 4))
    hashed: list[object] = []
    monkeypatch.setattr(reading, "hash_of_file", lambda opened: hashed.append(opened) or hash_of_file(opened))
    hashes = {decode(file, page=page).sha256 for page in range(5)}
    assert hashes == {sha256_bytes(file.read_bytes())}
    assert len(hashed) == 1  # by all pages after the first
    file.write_bytes(encoded(GRAY, "TIFF", save_all=True, append_images=[other] * 3))
    assert decode(file, page=1).sha256 == sha256_bytes(file.read_bytes())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
def test_a_want_of_the_machine_is_not_blamed_on_the_file(read, file, monkeypatch, number) -> None:
    assert read(GRAY).status == "ok"
    monkeypatch.setattr(Path, "open", Mock(side_effect=OSError(number, "want")))
    with pytest.raises(OSError, match="want"):
        decode(file)


@pytest.mark.parametrize(("stored", "orientation"), [(0, 1), (1, 1), (6, 6), (8, 8), (9, 1)])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_an_orientation_is_one_of_eight_and_no_pixels_are_needed_to_know_it(encoded, file_format, stored, orientation):
    exif = Image.Exif()
    exif[274] = stored
    image = Image.open(io.BytesIO(encoded(ASYMMETRIC, file_format, exif=exif)))
    image.load = lambda: pytest.fail("the image was decoded")
    assert orientation_of(image) == orientation
    if file_format != "TIFF":  # Pillow turns the sides of a TIFF itself
        assert upright_size(image) == ((5, 9) if orientation >= 5 else (9, 5))


def test_open_images_are_decoded_as_files_are(file, read) -> None:
    deep = Image.fromarray(GRAY.astype(np.uint16) * 257)
    for image in (Image.fromarray(COLOR), Image.fromarray(GRAY), deep, Image.fromarray(COLOR).convert("CMYK")):
        expected, result = read(image, "TIFF"), decode_image(image)
        assert (result.status, result.sha256, expected.sha256) == ("ok", "", sha256_bytes(file.read_bytes()))
        assert replace(result, pixels=None) == replace(expected, pixels=None, sha256="")
        np.testing.assert_array_equal(result.pixels, expected.pixels)
    ranged = decode_image(deep, IntensityRange(0, 25700, ""))
    assert np.abs(ranged.pixels[..., 0] - np.minimum(GRAY, 100) * 2.55).max() <= 0.51
    refused = decode_image(Image.fromarray(GRAY.astype(np.float32)))
    assert (refused.status, refused.pixels) == ("unsupported mode", None) and "data.intensity_range" in refused.note


def test_a_file_that_can_not_be_decoded_is_known_by_its_hash_all_the_same(file, read) -> None:
    for content in (b"text", png_header(30_000, 30_000), b""):
        result = read(content)
        assert (result.sha256, result.pixels, result.pixel_sha256) == (sha256_bytes(content), None, "")
    assert decode(file.with_name("missing.png")).sha256 == ""


def test_a_hash_of_pixels_is_that_of_shape_and_values() -> None:
    assert pixel_sha256(COLOR) == pixel_sha256(np.asfortranarray(COLOR)) != pixel_sha256(COLOR[::-1])
    assert pixel_sha256(COLOR) != pixel_sha256(COLOR.reshape(20, 24, 3))
    assert pixel_sha256(np.zeros((1, 1, 1), np.uint8)) == sha256_bytes(b"(1, 1, 1)\0")


@pytest.mark.parametrize("size", [reading.SMALL_FILE - 1, reading.SMALL_FILE, reading.SMALL_FILE + 1])
def test_small_and_large_files_are_hashed_whole_and_read_from_their_beginning(file, size) -> None:
    content = RANDOM.bytes(size)
    file.write_bytes(content)
    with file.open("rb") as opened:
        sha256, again = reading.hash_and_file(opened)
        assert (sha256, again.read()) == (sha256_bytes(content), content)
    assert content_sha256(file) == sha256_bytes(content)


def test_a_disk_that_fails_is_a_reason_in_words() -> None:
    for error, note in ((OSError(errno.EIO, "Input/output ERROR"), "input/output error"), (OSError("Odd"), "odd")):
        with pytest.raises(RejectedError) as caught:
            reading.hash_and_file(Mock(read=Mock(side_effect=error)))
        assert (caught.value.result.status, caught.value.result.note) == ("unreadable", note)
