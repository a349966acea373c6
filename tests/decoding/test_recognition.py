"""A format that is not read is named by its first bytes, with what to do; those that are read are never refused."""

import gzip
import struct

import pytest

from diffaug.decoding.formats import recognition
from diffaug.decoding.formats.recognition import looks_like_an_image, unsupported
from tests.decoding.odd_files import RAMP_8, RAMP_16, nifti, saved, tiff_of

CONVERT, DEVELOP = "convert it to PNG or TIFF", "develop it to JPEG or TIFF"
VIDEO = "a video: save its frames as PNG files"
NIFTI = "NIfTI: save its slices as PNG or TIFF files, one group per volume"


def iso(brand: bytes, *others: bytes) -> bytes:
    """The first box of an ISO media file."""
    brands = brand + b"\0\0\0\0" + b"".join(others)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands


NIFTI_2 = struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n" + bytes(600)


@pytest.mark.parametrize(
    ("head", "advice"),
    [
        (b"PK\3\4", "an archive: unpack it"),
        (b"\x93NUMPY\x01", "a NumPy array: save its images as PNG or TIFF files"),
        (b"II\x1a\0\0\0HEAPCCDR", f"a camera's raw: {DEVELOP}"),
        (b"II*\0\x10\0\0\0CR\2\0", f"a camera's raw: {DEVELOP}"),
        (iso(b"crx "), f"a camera's raw: {DEVELOP}"),
        (iso(b"heic", b"mif1"), f"HEIC: {CONVERT}"),
        (iso(b"mif1", b"heic"), f"HEIC: {CONVERT}"),
        (iso(b"isom", b"mp41"), VIDEO),
        (b"\x1aE\xdf\xa3", VIDEO),
        (b"RIFF\0\0\0\0AVI LIST", VIDEO),
        (nifti(), NIFTI),
        (nifti(big_endian=True), NIFTI),
        (nifti(compressed=True), NIFTI),
        (NIFTI_2, NIFTI),
        (gzip.compress(NIFTI_2, mtime=0), NIFTI),
        (b"\0" * 344 + b"ni1\0", NIFTI),
        (gzip.compress(b"text" * 500, mtime=0), "a compressed file: unpack it"),
        (b"\x1f\x8bdamaged", "a compressed file: unpack it"),
        (b"<svg width='3'>", "SVG: draw it to PNG"),
        (b"\xef\xbb\xbf \r\n\t<?XML version='1.0'?>" + b"<!-- -->" * 200 + b"<SVG>", "SVG: draw it to PNG"),
    ],
)
def test_other_formats_are_named_with_what_to_do(head, advice) -> None:
    assert unsupported(head) == advice


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"text",
        b"<?xml version='1.0'?><svgless/>"[:21],
        b"<?xml version='1.0'?><annotation/>",
        b"not <svg",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"RIFF\0\0\0\0WAVE",
        b"XXXX\0\0\0\0AVI ",
        b"\0\0\0\x10fxyp" + b"heic",
        b"MM\0*\0\0\0\x10CR",
        b"\0" * 345 + b"n+1\0",
        saved(RAMP_8),
        saved(RAMP_8, "JPEG"),
        saved(RAMP_8, "GIF"),
        tiff_of(RAMP_16),
    ],
)
def test_what_is_read_or_unknown_is_not_refused(head) -> None:
    assert unsupported(head) == ""


@pytest.mark.parametrize(("there", "known"), [(True, ""), (False, "install a Pillow with {} support")])
def test_what_this_pillow_can_not_read_is_told(monkeypatch, there, known) -> None:
    monkeypatch.setattr(recognition, "HAS_AVIF", there)
    monkeypatch.setattr(recognition, "HAS_JPEG_2000", there)
    for head in (iso(b"avif", b"mif1"), iso(b"mif1", b"avif"), iso(b"avis")):
        assert unsupported(head) == (known and f"AVIF: {known.format('AVIF')}")
        assert looks_like_an_image(head)
    for head in (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51\0"):
        assert unsupported(head) == (known and f"JPEG 2000: {known.format('JPEG 2000')}")
        assert looks_like_an_image(head)


def test_damaged_images_are_told_from_what_is_none() -> None:
    images = [saved(RAMP_8, name) for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP")]
    images += [start + b"\0" * 20 for start in (b"GIF87a", b"MM\0*", b"II+\0", b"MM\0+")]
    assert all(looks_like_an_image(image[:16]) for image in images)
    others = [b"", b"RIFF\0\0\0\0WAVE", b"XXXX\0\0\0\0WEBP", b"BM", iso(b"heic"), iso(b"mp42")]
    others.append(struct.pack(">I", 12) + b"ftypmif1avif")  # the brand is outside of its box
    assert not any(map(looks_like_an_image, others))
