"""Captioned contact sheets: many images as one picture for visual inspection."""

from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation

from diffaug.data.images import LabeledImages, ObjectMasks
from diffaug.diffusion.generator.grids import GAP, contact_sheet
from diffaug.runtime.console import printable
from diffaug.synthesis.pool.origins import SAMPLED

COLUMNS, MAX_ROWS = 8, 24
FONT_SIZE, CAPTION_HEIGHT, MIN_WIDTH = 12, 20, 400
PAPER, INK = 255, 0

Pixels = NDArray[np.uint8]
Row = tuple[str, Pixels]
"""A caption and the images below it, uint8 (N, H, W, C)."""
T = TypeVar("T")


def accepted_sheet(images: LabeledImages) -> Pixels:
    """The first eight images of each class, and of each origin if these are known, of a pool of at least one image."""
    rows = []
    for index, own in _by_class(images):
        count = f"{images.classes[index]}: {len(own)} accepted"
        origins = np.array(images.origins or [""] * len(images))[own]
        for origin in dict.fromkeys(origins.tolist()):
            chosen = own[origins == origin]
            of_origin = f", {len(chosen)} of them {origin}" if set(origins.tolist()) - {"", SAMPLED} else ""
            rows.append((count + of_origin, images.pixels[chosen[:COLUMNS]]))
    return captioned_sheet(_spread(rows, MAX_ROWS))


def masks_sheet(images: LabeledImages, masks: ObjectMasks, drawn: Collection[str] = ()) -> Pixels:
    """The first eight images per class with a mask, with its outline; `drawn` names the classes whose masks were."""
    mask_of = {name: mask for name, mask in zip(masks.ids, masks.pixels, strict=True) if mask.any()}
    rows = []
    for index, own in _by_class(images):
        name, found = images.classes[index], [place for place in own.tolist() if images.ids[place] in mask_of]
        how = "drawn by diffaug" if name in drawn else "as given"
        outlined = [_outlined(images.pixels[place], mask_of[images.ids[place]]) for place in found[:COLUMNS]]
        if found:
            rows.append((f"{name}: {len(found)} masks, {how}", np.stack(outlined)))
    return captioned_sheet(_spread(rows, MAX_ROWS))


def _outlined(image: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """The image (H, W, C) with black and white dots on the pixels around the mask (H, W)."""
    around = binary_dilation(mask, np.ones((3, 3))) & ~mask
    dots = np.where(np.indices(mask.shape).sum(axis=0) % 2, 255, 0).astype(np.uint8)
    return np.where(around[..., None], dots[..., None], image)


def rejected_sheet(images: LabeledImages, reasons: Sequence[str]) -> Pixels:
    """The first eight of at least one rejected image for each reason and class."""
    reason_of = np.array(reasons, dtype=str)
    rows = [
        (f"{reason}: {images.classes[index]}", images.pixels[chosen[:COLUMNS]])
        for reason in dict.fromkeys(reasons)
        for index, own in _by_class(images)
        if len(chosen := own[reason_of[own] == reason])
    ]
    return captioned_sheet(_spread(rows, MAX_ROWS))


def nearest_sheet(images: LabeledImages, nearest: Pixels) -> Pixels:
    """The eight images per class that are closest to a training image, above that training image."""
    rows = []
    for index, own in _spread(_by_class(images), MAX_ROWS // 2):
        difference = np.abs(images.pixels[own].astype(np.int16) - nearest[own]).mean(axis=(1, 2, 3))
        closest = own[np.argsort(difference, kind="stable")[:COLUMNS]]
        rows.append((f"{images.classes[index]}: closest to a training image", images.pixels[closest]))
        rows.append(("the closest training image of each", nearest[closest]))
    return captioned_sheet(rows)


def _by_class(images: LabeledImages) -> list[tuple[int, NDArray[np.int64]]]:
    positions = [(index, np.flatnonzero(images.labels == index)) for index in range(len(images.classes))]
    return [(index, own) for index, own in positions if len(own)]


def _spread(items: Sequence[T], limit: int) -> list[T]:
    return [items[number] for number in np.unique(np.linspace(0, len(items) - 1, limit).round().astype(int))]


def captioned_sheet(rows: Sequence[Row]) -> Pixels:
    """Lays out rows of images, each under its caption; small images are enlarged by an integer factor."""
    strips = [contact_sheet(pixels, len(pixels)) for _, pixels in rows]
    width = max(MIN_WIDTH, *(strip.shape[1] + 2 * GAP for strip in strips))
    parts = []
    for (caption, _), strip in zip(rows, strips, strict=True):
        height, used, channels = strip.shape
        body = np.full((height + GAP, width, channels), PAPER, np.uint8)
        body[:height, GAP : GAP + used] = strip
        parts += [_caption(caption, width, channels), body]
    return np.concatenate(parts)


def _caption(text: str, width: int, channels: int) -> Pixels:
    """The text as a strip of `CAPTION_HEIGHT`, shortened if it is too long."""
    image = Image.new("L", (width, CAPTION_HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(image), _font()
    text = whole = printable(text, keep="\n").replace("\n", " ")
    while draw.textlength(text, font=font) > width - 2 * GAP:
        whole = whole[:-1]
        text = f"{whole}..."
    draw.text((GAP, CAPTION_HEIGHT - GAP), text, fill=INK, font=font, anchor="ld")
    return np.repeat(np.asarray(image)[..., None], channels, axis=2)


@lru_cache
def _font() -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib; Pillow's own has only ASCII letters."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), FONT_SIZE)
