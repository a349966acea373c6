from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, ImageOps

from diffaug.data import decode as module
from diffaug.data.decode import content_sha256, decode, peek_size, pixel_sha256, strict_pillow
from diffaug.files.storage import sha256_bytes

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (24, 20, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (24, 20), dtype=np.uint8)
ASYMMETRIC = np.arange(5 * 9, dtype=np.uint8).reshape(5, 9) * 5


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "image.png"


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height pixels that are not there."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    parts = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("pixels", [COLOUR, GREY], ids=["colour", "grey"])
def test_lossless_formats_give_the_pixels_back(file: Path, encoded: Any, file_format: str, pixels: np.ndarray) -> None:
    content = encoded(pixels, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    file.write_bytes(content)
    result = decode(file)
    assert result.verdict == "ok"
    assert result.pixels is not None and result.pixels.dtype == np.uint8
    np.testing.assert_array_equal(result.pixels, pixels.reshape(24, 20, -1))
    assert (result.width, result.height) == (20, 24)
    assert result.sha256 == sha256_bytes(content) == content_sha256(file)


def test_jpeg_equals_pillow(file: Path, encoded: Any) -> None:
    file.write_bytes(encoded(COLOUR, "JPEG"))
    np.testing.assert_array_equal(decode(file).pixels, np.asarray(Image.open(file)))


def test_grey_stored_as_colour_has_one_channel_and_the_same_hash(file: Path, encoded: Any) -> None:
    file.write_bytes(encoded(np.repeat(GREY[..., None], 3, axis=2)))
    result = decode(file)
    assert result.mode == "RGB"
    np.testing.assert_array_equal(result.pixels, GREY[..., None])
    assert pixel_sha256(result.pixels) == pixel_sha256(GREY[..., None])


def test_pixel_hash_tells_shapes_apart() -> None:
    flat = np.zeros((4, 6, 1), np.uint8)
    assert pixel_sha256(flat) != pixel_sha256(flat.transpose(1, 0, 2))


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, this is text", b"<html><body>404</body></html>", b"\0" * 500, b"BMW is a car", b"%!PS-Adobe-3.0"],
)
def test_what_is_no_image(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert decode(file).verdict == "not an image"
    assert peek_size(file) is None


@pytest.mark.parametrize("file_format", ["GIF", "PPM", "ICO", "PCX", "TGA"])
def test_other_formats_under_a_png_name_are_refused(file: Path, encoded: Any, file_format: str) -> None:
    file.write_bytes(encoded(COLOUR, file_format))
    assert decode(file).verdict == "not an image"


def test_postscript_never_reaches_ghostscript(file: Path, encoded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(encoded(COLOUR, "EPS"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    assert decode(file).verdict == "not an image"


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
    ],
)
def test_cut_files_are_never_silently_ok(
    file: Path, encoded: Any, file_format: str, options: dict[str, Any], smooth: bool
) -> None:
    pixels = np.full_like(COLOUR, 90) + np.arange(20, dtype=np.uint8)[:, None] if smooth else COLOUR
    content = encoded(pixels, file_format, **options)
    file.write_bytes(content)
    whole = decode(file).pixels
    points = sorted({*np.linspace(1, len(content) - 1, 50).astype(int), *range(len(content) - 20, len(content))})
    for cut in points:
        file.write_bytes(content[:cut])
        result = decode(file)
        if result.verdict == "ok":  # only bytes behind the last pixel are missing
            np.testing.assert_array_equal(result.pixels, whole)
            assert cut >= len(content) - 24
        else:
            assert result.pixels is None
            assert result.verdict == "truncated" or (cut < 20 and result.verdict == "not an image")


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_never_raise(tmp_path: Path, encoded: Any, data: st.DataObject) -> None:
    file_format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]))
    content = bytearray(encoded(COLOUR, file_format))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(content)
    assert (decode(path).pixels is not None) == (decode(path).verdict == "ok")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(65_000, 1_000), (10_000, 9_000), (60_000, 60_000)])
def test_bombs_are_refused_by_their_header(file: Path, size: tuple[int, int]) -> None:
    file.write_bytes(png_header(*size))
    assert decode(file).verdict == "too large"


def test_a_bomb_takes_no_memory(file: Path) -> None:
    file.write_bytes(png_header(30_000, 30_000))
    script = (
        "import resource, sys; from pathlib import Path; from diffaug.data.decode import decode\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "verdict = decode(Path(sys.argv[1])).verdict\n"
        "print(verdict, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    out = subprocess.run([sys.executable, "-c", script, str(file)], check=True, capture_output=True, text=True).stdout
    verdict, megabytes = out.rsplit(" ", 1)
    assert verdict == "too large"
    assert int(megabytes) < 50


def test_the_bomb_warning_is_an_error_inside_strict_pillow(file: Path) -> None:
    file.write_bytes(png_header(10_000, 9_000))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with strict_pillow():
            assert decode(file).verdict == "too large"
    assert not caught


def test_the_file_size_limit_comes_before_reading(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with file.open("wb") as sparse:
        sparse.truncate(module.MAX_FILE_BYTES + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("the file was read"))
    assert decode(file).verdict == "too large"
    assert content_sha256(file) == ""


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 3)])
def test_too_small(file: Path, encoded: Any, size: tuple[int, int]) -> None:
    file.write_bytes(encoded(np.zeros(size, np.uint8)))
    result = decode(file)
    assert result.verdict == "too small"
    assert (result.height, result.width) == size


def test_an_extreme_aspect_ratio_is_noted(file: Path, encoded: Any) -> None:
    file.write_bytes(encoded(np.zeros((4, 60), np.uint8)))
    assert "cropped" in decode(file).note


@pytest.mark.parametrize("mode", ["F", "I"])
def test_float_and_32_bit_tiffs_are_refused(file: Path, encoded: Any, mode: str) -> None:
    file.write_bytes(encoded(Image.new(mode, (8, 8)), "TIFF"))
    assert decode(file).verdict == "unsupported mode"


def test_a_tiff_of_three_float_channels_is_refused_as_such(file: Path, encoded: Any) -> None:
    content = bytearray(encoded(COLOUR, "TIFF"))
    bits = content.index(struct.pack("<HHH", 8, 8, 8))
    content[bits : bits + 6] = struct.pack("<HHH", 32, 32, 32)
    file.write_bytes(content)
    assert decode(file).verdict == "unsupported mode"


def test_unreadable(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    folder = tmp_path / "folder.png"
    folder.mkdir()
    for path in (pipe, folder, tmp_path / "missing.png", Path("nul\0.png")):
        assert decode(path).verdict == "unreadable", path
        assert peek_size(path) is None
        assert content_sha256(path) == ""


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(file: Path, encoded: Any, orientation: int, file_format: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {"quality": 95} if file_format == "JPEG" else {}
    stored = Image.fromarray(ASYMMETRIC)
    file.write_bytes(encoded(stored, file_format, exif=exif, **options))
    tagged = stored.copy()
    tagged.getexif()[274] = orientation
    upright = np.asarray(ImageOps.exif_transpose(tagged))  # Pillow's own rule as oracle
    result = decode(file)
    assert result.pixels is not None
    assert result.pixels.shape == (*upright.shape, 1) == (result.height, result.width, 1)
    assert np.abs(result.pixels[..., 0].astype(int) - upright).max() <= (8 if file_format == "JPEG" else 0)
    assert peek_size(file) == upright.shape


def test_damaged_exif_does_not_cost_the_picture(file: Path, encoded: Any) -> None:
    file.write_bytes(encoded(GREY, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"))
    with strict_pillow():
        np.testing.assert_array_equal(decode(file).pixels, GREY[..., None])


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_ramp_is_scaled_not_clipped(file: Path, encoded: Any, file_format: str) -> None:
    ramp = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    file.write_bytes(encoded(ramp, file_format))
    result = decode(file)
    assert result.pixels is not None
    values = result.pixels[..., 0].astype(float)
    assert (np.diff(values.ravel()) >= 0).all()
    assert np.abs(values - ramp / 257).max() <= 0.51
    assert (values.min(), values.max()) == (0, 255)


def test_16_bit_colour_png(file: Path) -> None:
    ramp = np.linspace(0, 65535, 64).reshape(8, 8)
    colour = np.stack([ramp, ramp[::-1], ramp], axis=2).astype(">u2")
    chunks = [
        b"IHDR" + struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(b"".join(b"\0" + row.tobytes() for row in colour)),
        b"IEND",
    ]
    body = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    result = decode(file)
    assert result.pixels is not None
    assert np.abs(result.pixels.astype(float) - colour.astype(float) / 257).max() <= 1


def test_12_bit_tiff_uses_its_own_white(file: Path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 65  # 0 to 4095
    first, second = values[:, 0::2], values[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2).astype(np.uint8).tobytes()
    tags = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 8)]
    tags.append((279, len(packed)))
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    file.write_bytes(b"II*\0" + struct.pack("<I", 8) + directory + b"\0" * 4 + packed)
    result = decode(file)
    assert result.pixels is not None
    assert np.abs(result.pixels[..., 0] - values / 4095 * 255).max() <= 0.51


def test_hidden_colour_becomes_white(file: Path, encoded: Any) -> None:
    clear_red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear_red.putpixel((2, 3), (0, 0, 255, 255))
    half_black = Image.new("LA", (8, 8), (0, 128))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 255, 255, 0, 0])
    cases = [
        (encoded(clear_red), (0, 0), 255),
        (encoded(clear_red, "WEBP", lossless=True, exact=True), (0, 0), 255),
        (encoded(half_black), (0, 0), 127),
        (encoded(palette, "PNG", transparency=1), (0, 0), 255),
        (encoded(Image.new("RGB", (8, 8), (9, 8, 7)), "PNG", transparency=(9, 8, 7)), (0, 0), 255),
    ]
    for content, (x, y), expected in cases:
        file.write_bytes(content)
        pixels = decode(file).pixels
        assert pixels is not None
        assert (pixels[y, x] == expected).all()
    file.write_bytes(cases[0][0])
    assert tuple(decode(file).pixels[3, 2]) == (0, 0, 255)  # type: ignore[index]


def test_bilevel_and_palette(file: Path, encoded: Any) -> None:
    bilevel = Image.new("1", (8, 8))
    ImageDraw.Draw(bilevel).line((0, 0, 7, 7), fill=1)
    file.write_bytes(encoded(bilevel))
    np.testing.assert_array_equal(decode(file).pixels, 255 * np.eye(8, dtype=np.uint8)[..., None])
    palette = Image.fromarray(COLOUR).quantize(16)
    file.write_bytes(encoded(palette))
    np.testing.assert_array_equal(decode(file).pixels, np.asarray(palette.convert("RGB")))


def test_cmyk_lab_and_ycbcr_become_srgb(file: Path, encoded: Any) -> None:
    swatch = Image.new("RGB", (8, 8), (200, 60, 30))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    as_lab = ImageCms.profileToProfile(swatch, srgb, lab, outputMode="LAB")
    for image in (swatch.convert("CMYK"), as_lab, swatch.convert("YCbCr")):
        file.write_bytes(encoded(image, "TIFF"))
        result = decode(file)
        assert result.mode == image.mode
        assert np.abs(result.pixels[0, 0].astype(int) - (200, 60, 30)).max() <= 3  # type: ignore[index]


def wide_profile() -> bytes:
    """sRGB with red and green exchanged: a profile whose effect can't be missed."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for number in range(struct.unpack(">I", profile[128:132])[0]):
        entry = 132 + 12 * number
        if profile[entry : entry + 4] in (b"rXYZ", b"gXYZ"):
            profile[entry : entry + 1] = b"g" if profile[entry : entry + 1] == b"r" else b"r"
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "else".encode("utf-16-be"))


def test_an_embedded_profile_is_applied(file: Path, encoded: Any) -> None:
    swatch = Image.new("RGB", (8, 8), (200, 60, 30))
    file.write_bytes(encoded(swatch, icc_profile=wide_profile()))
    expected = ImageCms.profileToProfile(
        swatch, ImageCms.ImageCmsProfile(io.BytesIO(wide_profile())), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert np.asarray(expected)[0, 0, 1] > 150  # red and green changed places
    np.testing.assert_array_equal(decode(file).pixels, np.asarray(expected))


def test_a_damaged_or_foreign_profile_is_ignored_and_noted(file: Path, encoded: Any) -> None:
    for profile in (b"not a profile", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()):
        file.write_bytes(encoded(COLOUR, icc_profile=profile))
        result = decode(file)
        np.testing.assert_array_equal(result.pixels, COLOUR)
        assert "profile" in result.note


@pytest.mark.parametrize(("file_format", "options"), [("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_first_frame_is_taken_and_noted(file: Path, encoded: Any, file_format: str, options: dict[str, Any]) -> None:
    other = Image.fromarray(255 - COLOUR)
    content = encoded(Image.fromarray(COLOUR), file_format, save_all=True, append_images=[other, other], **options)
    file.write_bytes(content)
    result = decode(file)
    np.testing.assert_array_equal(result.pixels, COLOUR)
    assert result.note.startswith("first of ")
