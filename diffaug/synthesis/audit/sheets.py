"""Captioned contact sheets: many images as one picture, to be looked at by a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.grids import GAP, contact_sheet
from diffaug.runtime.console import printable

COLUMNS = 8
MAX_ROWS = 24
FONT_SIZE = 12
CAPTION_HEIGHT = 20
MIN_WIDTH = 400
PAPER, INK = 255, 0

Pixels = NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One line of a sheet.

    Attributes:
        caption: What it shows.
        pixels: uint8 (N, H, W, C), N up to `COLUMNS`.
    """

    caption: str
    pixels: Pixels


def accepted_sheet(images: LabeledImages) -> Pixels:
    """The first eight images of each class, as they were generated and not chosen.

    Args:
        images: The pool, at least one image.
    """
    return captioned_sheet(
        [
            Row(f"{images.classes[index]}: {images.class_counts[index]} accepted", images.pixels[own[:COLUMNS]])
            for index, own in _spread(_by_class(images), MAX_ROWS)
        ]
    )


def rejected_sheet(images: LabeledImages, reasons: Sequence[str]) -> Pixels:
    """The first eight images rejected of each class for each reason, grouped by reason.

    Args:
        images: Rejected images, at least one.
        reasons: Why, one for each image.
    """
    told = np.array(reasons, dtype=str)
    rows = [
        Row(f"{reason}: {images.classes[index]}", images.pixels[chosen[:COLUMNS]])
        for reason in dict.fromkeys(reasons)
        for index, own in _by_class(images)
        if len(chosen := own[told[own] == reason])
    ]
    return captioned_sheet(_spread(rows, MAX_ROWS))


def nearest_sheet(images: LabeledImages, nearest: Pixels) -> Pixels:
    """Of each class the eight images most like a training image, and below each the training image.

    Args:
        images: The pool, at least one image.
        nearest: The training image most like each, uint8 (N, H, W, C).
    """
    rows = []
    for index, own in _spread(_by_class(images), MAX_ROWS // 2):
        difference = np.abs(images.pixels[own].astype(np.int16) - nearest[own]).mean(axis=(1, 2, 3))
        closest = own[np.argsort(difference, kind="stable")[:COLUMNS]]
        rows.append(Row(f"{images.classes[index]}: most like a training image", images.pixels[closest]))
        rows.append(Row("the training image that each is most like", nearest[closest]))
    return captioned_sheet(rows)


def _by_class(images: LabeledImages) -> list[tuple[int, NDArray[np.int64]]]:
    """Class index and positions of its images, for the classes that have any."""
    positions = [(index, np.flatnonzero(images.labels == index)) for index in range(len(images.classes))]
    return [(index, own) for index, own in positions if len(own)]


def _spread(items: Sequence[T], limit: int) -> list[T]:
    """All of them, or `limit` evenly spaced ones."""
    return [items[number] for number in np.unique(np.linspace(0, len(items) - 1, limit).round().astype(int))]


def captioned_sheet(rows: Sequence[Row]) -> Pixels:
    """Lays out rows of images, each under its caption; small images are enlarged by a whole factor.

    Args:
        rows: At least one; all images of one shape.

    Returns:
        uint8 (H, W, C).
    """
    strips = [contact_sheet(row.pixels, len(row.pixels)) for row in rows]
    width = max(MIN_WIDTH, *(strip.shape[1] + 2 * GAP for strip in strips))
    parts = [part for row, strip in zip(rows, strips, strict=True) for part in _captioned(row.caption, strip, width)]
    return np.concatenate(parts)


def _captioned(caption: str, strip: Pixels, width: int) -> list[Pixels]:
    height, used, channels = strip.shape
    body = np.full((height + GAP, width, channels), PAPER, np.uint8)
    body[:height, GAP : GAP + used] = strip
    return [_caption(caption, width, channels), body]


def _caption(text: str, width: int, channels: int) -> Pixels:
    """The text as a strip of `CAPTION_HEIGHT`, shortened where it is too long."""
    image = Image.new("L", (width, CAPTION_HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(image), _font()
    text = whole = printable(text).replace("\n", " ")
    while draw.textlength(text, font=font) > width - 2 * GAP:
        whole = whole[:-1]
        text = f"{whole}..."
    draw.text((GAP, CAPTION_HEIGHT - GAP), text, fill=INK, font=font, anchor="ld")
    return np.repeat(np.asarray(image)[..., None], channels, axis=2)


@lru_cache
def _font() -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings along; Pillow's own has no letter outside ASCII."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), FONT_SIZE)
