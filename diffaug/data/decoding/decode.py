"""Decodes an image file to upright 8-bit sRGB pixels, or reports why that is impossible.

Unlike with Pillow's `convert("RGB")`, 16-bit values are scaled and not clipped, transparent pixels become white, float
images are refused instead of turned black, and EXIF orientation is applied.
"""

import hashlib
import io
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin, UnidentifiedImageError

from diffaug.files import storage

DecodeStatus = Literal["ok", "not an image", "truncated", "too large", "unsupported mode", "unreadable", "too small"]
Pixels = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_FILE_BYTES = 256 * 2**20
MAX_PIXELS = 64 * 10**6
MIN_SIDE = 4  # px
MAX_ASPECT = 10  # beyond it, the center crop keeps next to nothing; noted, not refused

_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GRAY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", *_GRAY_16)

_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {  # by EXIF orientation
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


@dataclass(frozen=True)
class Decoded:
    """What one file holds; what is unknown is 0 or empty."""

    status: DecodeStatus  # "truncated" also covers damage inside the file
    pixels: Pixels | None = None  # uint8 (H, W, C); C is 1 when every pixel is gray, else 3
    width: int = 0  # of the upright image, in px
    height: int = 0
    mode: str = ""  # Pillow's, of the file's image
    pixel_sha256: str = ""
    sha256: str = ""  # of the file's content
    note: str = ""  # details for a person


class _RejectedError(Exception):
    def __init__(self, status: DecodeStatus, note: str, image: Image.Image | None = None) -> None:
        super().__init__(note)
        width, height = image.size if image else (0, 0)
        self.result = Decoded(status, None, width, height, image.mode if image else "", note=note)


def decode(path: Path) -> Decoded:
    """Decodes a PNG, JPEG, WebP, BMP or TIFF file, whatever its extension says.

    Never raises for a bad file. Limits (`MAX_PIXELS`, `MAX_FILE_BYTES`) are checked before memory is taken.
    A JPEG damaged in its middle can decode to other pixels without any sign of it.
    """
    sha256 = ""
    try:
        content = _read(path)
        sha256 = storage.sha256_bytes(content)
        result = _decode_content(content)
    except _RejectedError as rejected:
        result = rejected.result
    return replace(result, sha256=sha256)


def content_sha256(path: Path) -> str:
    """The sha256 that `decode` reports for the file, without decoding it."""
    try:
        return storage.sha256_bytes(_read(path))
    except _RejectedError:
        return ""


def pixel_sha256(pixels: Pixels) -> str:
    """A hash of shape and pixels: equal for equal pictures, whatever file format holds them."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def peek_size(path: Path) -> tuple[int, int] | None:
    """Height and width in px of the upright image by the file's header, if that can be read."""
    try:
        _require_regular(path)
        with Image.open(path, formats=FORMATS) as image:
            turned = image.format != "TIFF" and _orientation(image) >= 5  # Pillow turns the sides of a TIFF itself
            return image.size if turned else image.size[::-1]
    except Exception:  # a bad file can make a parser raise anything; decode() says what is wrong with it
        return None


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Inside the block, Pillow's bomb warning is an error and its remarks on odd metadata are silent.

    Warning filters belong to the whole process, so this goes around a thread pool, not inside its threads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _read(path: Path) -> bytes:
    try:
        if _require_regular(path) > MAX_FILE_BYTES:
            raise _RejectedError("too large", f"over {MAX_FILE_BYTES // 2**20} MB")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = str(getattr(error, "strerror", None) or error)
        raise _RejectedError("unreadable", reason.lower()) from error


def _require_regular(path: Path) -> int:
    """Size of a regular file in bytes; opening anything else, such as a pipe, could wait for ever."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    return status.st_size


def _decode_content(content: bytes) -> Decoded:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _require_decodable(image)
            return decode_image(image)
    except _RejectedError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise _RejectedError("too large", "more pixels than can be decoded safely") from error
    except UnidentifiedImageError as error:
        raise _RejectedError(*_why_unidentified(content)) from error
    except Exception as error:  # parsers of damaged files raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise _RejectedError("truncated", str(error)) from error


def _require_decodable(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _RejectedError("too large", f"{width} x {height} px; at most {MAX_PIXELS // 10**6} Mpx are read", image)
    if min(width, height) < MIN_SIDE:
        raise _RejectedError("too small", f"{width} x {height} px; each side needs {MIN_SIDE}", image)
    is_png_16 = image.mode == "I" and image.format == "PNG"  # how Pillow before 11 names 16-bit gray PNG
    if image.mode not in _MODES and not is_png_16:
        raise _RejectedError("unsupported mode", f"mode {image.mode} has no agreed black and white", image)


def _why_unidentified(content: bytes) -> tuple[DecodeStatus, str]:
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if not is_webp and not content.startswith(_SIGNATURES):
        return "not an image", "empty file" if not content else "the content is not PNG, JPEG, WebP, BMP or TIFF"
    if content.startswith((b"II", b"MM")):
        try:
            TiffImagePlugin.TiffImageFile(io.BytesIO(content))
        except Exception as error:  # the reason, which Image.open keeps to itself
            if "unknown pixel mode" in str(error):
                return "unsupported mode", "a TIFF of an unusual sample type, such as several float channels"
    return "truncated", "the header is cut short or damaged"


def decode_image(image: Image.Image) -> Decoded:
    """Gray or RGB pixels of an open image of any of Pillow's modes, the first frame of several."""
    frames, mode = getattr(image, "n_frames", 1), image.mode
    image.load()
    notes = [f"first of {frames} frames"] if frames > 1 else []
    if mode == "I" or mode in _GRAY_16:
        pixels = _scaled_to_8_bit(image)
    else:
        pixels = np.asarray(_to_gray_or_srgb(image, notes), dtype=np.uint8)
    pixels = _UPRIGHT.get(_orientation(image), np.asarray)(pixels.reshape(*pixels.shape[:2], -1))
    if pixels.shape[2] == 3 and (pixels[..., :1] == pixels[..., 1:]).all():
        pixels = pixels[..., :1]
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        notes.append(f"{width} x {height} px: most of it is cropped away")
    return Decoded("ok", pixels, width, height, mode, pixel_sha256(pixels), note="; ".join(notes))


def _scaled_to_8_bit(image: Image.Image) -> Pixels:
    """Scales 16-bit gray so that the largest value of its bit depth, 12 in some TIFFs, becomes 255."""
    bits = 16
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = int(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0])
    values = np.asarray(image).astype(np.float32)
    return np.asarray(np.rint(np.clip(values * (255 / (2**bits - 1)), 0, 255)), np.uint8)


def _to_gray_or_srgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """An 8-bit image of mode L or RGB; remarks are appended to `notes`."""
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.mode == "LAB":
        return _through_profile(image, ImageCms.createProfile("LAB"))
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            is_srgb = "srgb" in ImageCms.getProfileDescription(source).lower()
            return image if is_srgb else _through_profile(image, source)
        except (ImageCms.PyCMSError, OSError, ValueError):
            notes.append("its color profile does not fit and is ignored")
    return image.convert("RGB")


def _through_profile(image: Image.Image, source: Any) -> Image.Image:
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # None only when converting in place
    return converted


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where EXIF is absent or damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata must not cost a good picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
