"""Brings 8-bit images of any of Pillow's modes to gray or sRGB."""

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from diffaug.decoding.formats.orientation import upright
from diffaug.decoding.result import Pixels, Samples, strips

# One step of rounding in Cb and Cr of a gray pixel moves its channels apart by up to 1.402 + 1.772 = 3 gray levels,
# so a gray picture that went through JPEG is not exactly gray.
GRAY_TOLERANCE = 3
BECAME_WHITE = "transparent pixels became white"
BECAME_BLACK = "transparent pixels became black, since all others are white"
NEARLY_WHITE = 250  # gray level from which nothing is seen over white
_GRAY_MODES = ("1", "L", "LA", "La")
_PROFILE_SPACES = {"RGB": "RGB", "CMYK": "CMYK", "L": "GRAY"}  # color space of a profile that fits, by mode

_Convert = Callable[[Image.Image], Image.Image]


def read_color(image: Image.Image, *, white_alone: bool | None = None) -> Samples:
    """The pixels of an image, with transparent ones over white and its color profile applied.

    `white_alone` says what `is_white_alone` gives, for a part of an image; by default it is found out.
    """
    image.load()
    mode, notes = image.mode, list[str]()
    if white_alone is None:
        white_alone = is_white_alone([image])
    convert, channels = _conversion(image, notes, white_alone=white_alone)
    pixels = np.empty((image.height, image.width, channels), np.uint8)
    parts = strips(image.height, image.width * 4)
    for rows in parts:
        part = convert(image if len(parts) == 1 else image.crop((0, rows.start, image.width, rows.stop)))
        pixels[rows] = np.asarray(part, dtype=np.uint8).reshape(-1, image.width, channels)
    pixels = upright(image, pixels)
    return Samples(pixels, mode, pixels.shape[1::-1], notes=tuple(notes))


def without_needless_color(pixels: Pixels) -> Pixels:
    """One channel, luma, if no pixel of (H, W, 3) has more color than rounding gives to gray."""
    height, width, channels = pixels.shape
    if channels == 1:
        return pixels
    some = pixels[:: height // 32 + 1, :: width // 32 + 1]  # enough to see that most pictures have colors
    if ((some[..., 0] - some[..., 2] + GRAY_TOLERANCE) > 2 * GRAY_TOLERANCE).any():  # uint8 wraps around
        return pixels
    if any(_is_colored(pixels[rows]) for rows in strips(height, width * 12)):
        return pixels
    gray = np.empty((height, width, 1), np.uint8)
    for rows in strips(height, width * 12):
        color = Image.fromarray(np.ascontiguousarray(pixels[rows]))
        gray[rows, :, 0] = np.asarray(color.convert("L"), dtype=np.uint8)
    return gray


def _is_colored(pixels: Pixels) -> bool:
    red, green, blue = np.moveaxis(pixels, 2, 0)  # numpy reduces an axis of three values slowly
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    return bool((highest - lowest).max() > GRAY_TOLERANCE)


def _conversion(image: Image.Image, notes: list[str], *, white_alone: bool) -> tuple[_Convert, int]:
    """How to convert each part of an image, and to how many channels; remarks are appended to `notes`."""
    opaque, plain = _opacity(image, notes, white_alone=white_alone)
    through = _to_srgb(image, plain, notes)
    if through is not None:
        return lambda part: _apply(through, opaque(part).convert(plain)), 3
    target = "L" if plain == "L" else "RGB"
    return lambda part: _in_mode(opaque(part), target), len(target)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # which would copy it


def _opacity(image: Image.Image, notes: list[str], *, white_alone: bool) -> tuple[_Convert, str]:
    """A function that makes parts opaque, and the mode in which their colors are: L, RGB, CMYK or LAB."""
    gray = image.mode in _GRAY_MODES
    plain = "L" if gray else image.mode if image.mode in ("CMYK", "LAB") else "RGB"
    if not image.has_transparency_data:
        return lambda part: part, plain

    ground, note = ("black", BECAME_BLACK) if white_alone else ("white", BECAME_WHITE)

    def over_ground(part: Image.Image) -> Image.Image:
        part = _with_alpha(part)
        if part.getchannel("A").getextrema()[0] == 255:
            return part.convert(plain)
        if note not in notes:
            notes.append(note)
        return Image.alpha_composite(Image.new("RGBA", part.size, ground), part).convert(plain)

    return over_ground, plain


def _with_alpha(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):  # premultiplied by alpha
        image = image.convert(f"{image.mode[:-1]}A")
    return image.convert("RGBA")


def is_white_alone(parts: Iterable[Image.Image]) -> bool:
    """Whether what is drawn on a transparent ground is white, so that nothing of it would be left over white.

    `parts` make up the image.
    """
    drawn = False
    for part in parts:
        if not part.has_transparency_data:
            return False
        for rows in strips(part.height, part.width * 16):
            pixels = np.asarray(_with_alpha(part.crop((0, rows.start, part.width, rows.stop))))
            seen = pixels[pixels[..., 3] > 0]
            if (seen[:, :3] < NEARLY_WHITE).any():
                return False
            drawn = drawn or len(seen) > 0
    return drawn


def _to_srgb(image: Image.Image, plain: str, notes: list[str]) -> ImageCms.ImageCmsTransform | None:
    """The way from LAB or the embedded profile to sRGB; None if there is no need for one."""
    if plain == "LAB":
        return _transform(ImageCms.createProfile("LAB"), "LAB")
    content = image.info.get("icc_profile")
    if not content:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = source.profile.xcolor_space.strip()
        if image.mode == "YCbCr" or space != _PROFILE_SPACES.get(plain):
            notes.append(f"a color profile for {space or 'nothing'} was ignored")
            return None
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return _transform(source, plain)
    except Exception:  # a damaged profile must not cost a good picture
        notes.append("a damaged color profile was ignored")
        return None


def _transform(source: Any, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


def _apply(transform: ImageCms.ImageCmsTransform, part: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(part, transform)
    assert converted is not None  # None only when converting in place
    return converted
