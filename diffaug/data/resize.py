"""Brings images to one size, chooses this size, and says what that does to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.configuration.settings import DataSettings

Resize = Literal["squeeze", "pad", "crop"]
Sizes = Sequence[tuple[int, int]] | NDArray[np.int64]  # height and width in px of each image

MAX_UNMEASURED_SIDE = 64  # px; the short side where it is neither set nor measured
SQUARE_TOLERANCE = 1.1
MUCH = 0.9  # of the detail that squeezing keeps; with less, padding is a choice worth naming
MAX_ASPECT = 4.0  # longer shapes are squeezed along their long side; chosen by hand


@dataclass(frozen=True)
class ResizeChoice:
    """How images are brought to the working shape."""

    # squeeze: the whole image, its axes scaled apart. pad: the same for classifiers and files, but the generator sees
    # each image in its own proportions. crop: the center
    resize: Resize
    squeeze_detail: float  # mean fraction of an image's pixels that squeezing keeps, see `detail_kept`
    pad_detail: float  # the same for padding
    reason: str  # why, in one sentence


def choose_image_size(sizes: Sizes, settings: DataSettings) -> tuple[int, int]:
    """The working height and width in px of upright images of these heights and widths, if no side was measured.

    The short side is `settings.image_size`, or the median one, at most 64. For the long side see `working_shape`.
    """
    return working_shape(sizes, settings.image_size or min(median_side(sizes), MAX_UNMEASURED_SIDE))


def median_side(sizes: Sizes) -> int:
    """The median short side in px of images of these heights and widths."""
    return round(float(np.median(np.min(sizes, axis=1))))


def working_shape(sizes: Sizes, side: int) -> tuple[int, int]:
    """The height and width in px with this short side that fit images of these heights and widths best.

    The aspect ratio is the geometric median, between 1:4 and 4:1; within 10 % of square it is square.
    """
    heights, widths = np.array(sizes, dtype=np.float64).T
    aspect = float(np.exp(np.median(np.log(widths / heights))))
    if 1 / SQUARE_TOLERANCE <= aspect <= SQUARE_TOLERANCE:
        return side, side
    long = round(side * min(max(aspect, 1 / aspect), MAX_ASPECT))
    return (side, long) if aspect > 1 else (long, side)


def choose_resize(sizes: Sizes, image_size: tuple[int, int], settings: DataSettings) -> ResizeChoice:
    """Decides between squeezing and padding by the detail that each keeps, unless the settings say how."""
    squeeze, pad = detail_kept(sizes, image_size)
    figures = f"squeezing keeps {_share(squeeze)} of the pixels, padding {_share(pad)}"
    if squeeze == pad:
        figures = f"{_share(squeeze)} of the pixels and the proportions are kept"
    if settings.resize != "auto":
        return ResizeChoice(settings.resize, squeeze, pad, f"{settings.resize}, as set; {figures}")
    # Squeezing never keeps less: each axis has a scale of its own. Padding is for classes that differ in proportions.
    advice = "" if pad > MUCH * squeeze else "; --set data.resize=pad if the true proportions tell classes apart"
    return ResizeChoice("squeeze", squeeze, pad, figures + advice)


def _share(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else "less than 1%"


def detail_kept(sizes: Sizes, image_size: tuple[int, int]) -> tuple[float, float]:
    """Mean fraction of an image's pixels, in (0, 1], that stay distinct when it is squeezed, and when it is padded.

    At scales s and t of its axes an image keeps min(s, 1) min(t, 1) of its pixels. Padding scales both by the smaller.
    """
    scales = np.minimum(np.array(image_size) / np.array(sizes, dtype=np.float64), 1)
    return float(scales.prod(axis=1).mean()), float((scales.min(axis=1) ** 2).mean())


def boxes_of(sizes: NDArray[np.int64], image_size: tuple[int, int]) -> NDArray[np.int64]:
    """The largest centered boxes with the proportions of images of these heights and widths; all in px, int64 (N, 2).

    They are as far from the upper edge of the working size as from the lower one, so that mirroring keeps them.
    """
    frame = np.array(image_size)
    exact = sizes * (frame / sizes).min(axis=1, keepdims=True)
    margins = np.minimum(np.rint((frame - exact) / 2), (frame - 1) // 2)
    return np.asarray(frame - 2 * margins, np.int64)


def fit_to_size(
    pixels: NDArray[np.uint8], image_size: tuple[int, int], resize: Resize | Literal["auto"] = "squeeze"
) -> NDArray[np.uint8]:
    """Brings an image (H, W, C) to `image_size`, antialiased, as (h, w, C).

    The whole image is squeezed, also for "pad", which concerns the generator alone. "crop" scales it to cover the
    size and keeps its center.
    """
    height, width, channels = pixels.shape
    if (height, width) == image_size:
        return pixels
    h, w = image_size
    left = top = 0.0
    if resize == "crop":
        scale = max(h / height, w / width)
        left, top = max(0.0, (width - w / scale) / 2), max(0.0, (height - h / scale) / 2)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    resized = image.resize((w, h), Image.Resampling.BICUBIC, box=(left, top, width - left, height - top))
    return np.asarray(resized, dtype=np.uint8).reshape(h, w, channels)


def to_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Gives an image (H, W, C) 1 or 3 channels: gray is repeated, color becomes ITU-R BT.601 luma."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.uint8)[..., None]


@dataclass(frozen=True)
class SizeScore:
    """What the classifier reached at one size."""

    side: int  # short side in px
    balanced_accuracy: float  # cross-validated, in [0, 1]
    standard_error: float  # of the balanced accuracy


@dataclass(frozen=True)
class SizeChoice:
    """The working size by evidence."""

    side: int | None  # short side in px, or None if nothing was measured
    scores: tuple[SizeScore, ...]  # one per size measured, rising; empty if nothing was measured
    images: int  # number of images that were compared
    reason: str  # why this size, or why none was measured, in sentences


class MeasureSize(Protocol):
    """Finds the smallest size at which the classes can be told apart, see `classifiers.working_size`."""

    def __call__(
        self,
        load_at: Callable[[NDArray[np.int64], int], NDArray[np.uint8]],
        labels: NDArray[np.int64],
        groups: NDArray[np.int64],
        *,
        median_side: int,
        seed: int,
    ) -> SizeChoice:
        """As `choose_working_size`."""
