"""Which file formats are read, by content and never by extension, and what to do with the others."""

import warnings
import zlib
from collections.abc import Callable

from PIL import features

HEAD_BYTES = 4096
READ = "PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000, AVIF or DICOM"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a Pillow that has never heard of AVIF
    HAS_AVIF, HAS_JPEG_2000 = bool(features.check("avif")), bool(features.check("jpg_2000"))

_CONVERT = "convert it to PNG or TIFF"
_SLICES = "save its slices as PNG or TIFF files"
_DEVELOP = "develop it to JPEG or TIFF"

_BY_START: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    ((b"\x89HDF\r\n\x1a\n",), "HDF5", _SLICES),
    ((b"\x93NUMPY",), "a NumPy array", "save its images as PNG or TIFF files"),
    ((b"NRRD0",), "NRRD", _SLICES),
    ((b"ObjectType", b"NDims"), "MetaImage", _SLICES),
    ((b"ZISRAWFILE", b"\xda\xce\xbe\n", b"p\0\0\0*"), "a microscope's own format", _CONVERT),
    ((b"8BPS",), "Photoshop", _CONVERT),
    ((b"%!PS", b"\xc5\xd0\xd3\xc6"), "PostScript", _CONVERT),
    ((b"%PDF",), "PDF", "save its pages as PNG files"),
    ((b"gimp xcf",), "GIMP", _CONVERT),
    ((b"SIMPLE  =",), "FITS", _CONVERT),
    ((b"v/1\x01",), "OpenEXR", _CONVERT),
    ((b"#?RADIANCE", b"#?RGBE"), "Radiance HDR", _CONVERT),
    ((b"\xff\n", b"\0\0\0\x0cJXL "), "JPEG XL", _CONVERT),
    ((b"\0\0\1\0", b"\0\0\2\0", b"icns"), "an icon", _CONVERT),
    ((b"DDS ", b"qoif", b"FORM"), "a format of games", _CONVERT),
    ((b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"II\x1a\0\0\0HEAPCCDR"), "a camera's raw", _DEVELOP),
    ((b"PK\3\4", b"7z\xbc\xaf", b"Rar!"), "an archive", "unpack it"),
    ((b"\x1aE\xdf\xa3", b"\0\0\1\xba"), "a video", "save its frames as PNG files"),
)
_BRANDS: dict[bytes, tuple[str, str]] = {  # of ISO media files
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), ("HEIC", _CONVERT)),
    b"crx ": ("a camera's raw", _DEVELOP),
}
_AVIF_BRANDS = (b"avif", b"avis")


def unsupported(head: bytes) -> str:
    """What a file of these first `HEAD_BYTES` is and what to do with it; empty unless it is a known other format."""
    if head.startswith(_MOST_COMMON):
        return ""
    for starts, name, remedy in _BY_START:
        if head.startswith(starts):
            return _advice(name, remedy)
    return next((advice for check in _CHECKS if (advice := check(head))), "")


def looks_like_an_image(head: bytes) -> bool:
    """Whether a file begins like one of the formats that Pillow is asked to read."""
    return head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or _is_avif(head)


def _advice(name: str, remedy: str) -> str:
    return f"{name}: {remedy}"


def _nifti(head: bytes) -> str:
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, 1024)
        except zlib.error:
            return _advice("a compressed file", "unpack it")
        if not _is_nifti(head):
            return _advice("a compressed file", "unpack it")
    return _advice("NIfTI", f"{_SLICES}, one group per volume") if _is_nifti(head) else ""


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def _iso_media(head: bytes) -> str:
    if head[4:8] != b"ftyp" or (_is_avif(head) and HAS_AVIF):
        return ""
    if _is_avif(head):
        return _advice("AVIF", "install a Pillow with AVIF support")
    return _advice(*_BRANDS.get(head[8:12], ("a video", "save its frames as PNG files")))


def _is_avif(head: bytes) -> bool:
    brands = head[8 : int.from_bytes(head[:4], "big")]
    return head[4:8] == b"ftyp" and any(brand in brands for brand in _AVIF_BRANDS)


def _riff(head: bytes) -> str:
    return _advice("a video", "save its frames as PNG files") if head[:4] == b"RIFF" and head[8:12] == b"AVI " else ""


def _svg(head: bytes) -> str:
    text = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return _advice("SVG", "draw it to PNG") if text.startswith((b"<?xml", b"<svg")) and b"<svg" in head.lower() else ""


def _jpeg_2000(head: bytes) -> str:
    known = head.startswith(_JPEG_2000) and not HAS_JPEG_2000
    return _advice("JPEG 2000", "install a Pillow with JPEG 2000 support") if known else ""


def _raw_tiff(head: bytes) -> str:
    return _advice("a camera's raw", _DEVELOP) if head.startswith(b"II*\0") and head[8:10] == b"CR" else ""


_CHECKS: tuple[Callable[[bytes], str], ...] = (_nifti, _iso_media, _riff, _svg, _jpeg_2000, _raw_tiff)
_JPEG_2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_COMMON = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # PNG and JPEG
_SIGNATURES = (*_MOST_COMMON, b"GIF87a", b"GIF89a", *_JPEG_2000, *TIFF)
