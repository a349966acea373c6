"""Transplants: where in a real image of the background class an object of another class is painted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from diffaug.data.images import LabeledImages, ObjectMasks
from diffaug.data.resize import fit_to_size
from diffaug.similarity.copies import CopyDetector, Matches, copy_threshold
from diffaug.similarity.thresholds import COPY_FALSE_POSITIVE_RATE, COPY_RATIO
from diffaug.synthesis.filters.objects import RealObjects, grown

Mask = NDArray[np.bool_]
Masks = NDArray[np.bool_]
"""Masks (N, H, W)."""

MARGIN = 1
"""Pixels around a mask that are painted, too, so that the object fits in. Set by hand."""

GROUND = 3
"""Pixels around what is painted that say how bright the ground is. By hand, as the ring of `objects`."""

CUT_OUT_SIDE = 16  # px; what is compared of an object
CUT_OUT_MARGIN = 0.25  # of the longer side of an object, on each side of a cut-out; 0 did as well on made marks
FEWEST_COMPARED = 3  # objects of a class, below which the threshold of copies can't be calibrated


@dataclass(frozen=True)
class ClassObjects:
    """The objects of one class: its real images that have a mask, with these.

    Attributes:
        images: All real images.
        positions: Of the M images among them, int64.
        masks: Of images of any class.
        numbers: The mask of each of the M images among them, int64; none is empty.
        ids: Of the M images.
        groups: int64 (M,); images of one group show the same.
        seed: Decides by which of them the threshold of copies is calibrated, where there are many.
        device: Where they are compared.
    """

    images: LabeledImages
    positions: NDArray[np.int64]
    masks: ObjectMasks
    numbers: NDArray[np.int64]
    ids: tuple[str, ...]
    groups: NDArray[np.int64]
    seed: int = 0
    device: str = "cpu"

    def __len__(self) -> int:
        return len(self.ids)

    def outlines(self, chosen: Sequence[tuple[int, int]]) -> Masks:
        """Where objects are to be, bool (N, H, W): for each the shape of one mask at the place of another."""
        return np.stack([moved(self._mask(shape), self._mask(place)) for shape, place in chosen])

    def placed(self, chosen: Sequence[tuple[int, int]]) -> Masks:
        """The masks to paint in, bool (N, H, W): the outlines with their margin."""
        return np.stack([with_margin(outline) for outline in self.outlines(chosen)])

    def moved_onto(self, images: NDArray[np.uint8], chosen: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
        """Images (N, H, W, C) on which the real object of each shape lies at its place, as bright above the ground."""
        onto = zip(images, chosen, strict=True)
        return np.stack([self._moved_onto(image, shape, self._mask(place)) for image, (shape, place) in onto])

    def _moved_onto(self, image: NDArray[np.uint8], shape: int, place: Mask) -> NDArray[np.uint8]:
        mask, real = self._mask(shape), np.asarray(self.images.pixels[self.positions[shape]])
        outline = moved(mask, place)
        painted = with_margin(outline)
        from_box, to_box = bounding_box(mask), bounding_box(outline)
        rows, columns = np.nonzero(painted)
        rows_there = np.clip(rows + from_box[0].start - to_box[0].start, 0, mask.shape[0] - 1)
        columns_there = np.clip(columns + from_box[1].start - to_box[1].start, 0, mask.shape[1] - 1)
        object_above = real[rows_there, columns_there] - _ground(real, with_margin(mask))
        result = image.copy()
        result[painted] = np.rint(object_above + _ground(image, painted)).clip(0, 255)
        return result

    def copied(self, painted: NDArray[np.uint8], outlines: Masks) -> tuple[Matches, float]:
        """Which of these objects each of N painted ones is most like, and the ratio below which it is a copy.

        Only what is inside of the outlines is compared: the rest is a real image by intention. Copies of made marks
        (`benchmarks/marks.py`) were not found on any surface while the cut-outs showed some of it. An object of one
        color shows nothing to compare, so it is no copy.
        """
        detector, threshold = self._compared
        own = cut_outs(painted, outlines)
        found = detector.match(own)
        is_flat = np.ptp(own, axis=(1, 2)).max(axis=1) == 0
        return replace(found, ratios=np.where(is_flat, np.float32(1), found.ratios)), threshold

    def _mask(self, number: int) -> Mask:
        return np.asarray(self.masks.pixels[self.numbers[number]])

    @property
    def real(self) -> RealObjects:
        """All of them, as the check of painted objects is calibrated on them."""
        pixels = [self.images.pixels[position] for position in self.positions.tolist()]
        return RealObjects(pixels, [self._mask(number) for number in range(len(self))], self.groups)

    @property
    def copy_threshold(self) -> float:
        """The ratio below which a painted object is a copy of one of these."""
        return self._compared[1]

    @cached_property
    def _compared(self) -> tuple[CopyDetector, float]:
        """What finds copies of these objects, and the ratio below which it does."""
        images = (self.images.pixels[position] for position in self.positions.tolist())
        own = cut_outs(images, map(self._mask, range(len(self))))
        detector = CopyDetector(own, self.groups, self.device)
        if len(np.unique(self.groups)) < FEWEST_COMPARED:
            return detector, COPY_RATIO
        return detector, copy_threshold(detector, own, self.groups, share=COPY_FALSE_POSITIVE_RATE, seed=self.seed)


@dataclass(frozen=True)
class Backgrounds:
    """What transplants and crossed variations are made of, beside the images of the class itself.

    Attributes:
        class_index: The background class.
        masks: Of images of any class.
        groups: Of all real images, (N,); images of one group show the same.
        drawn: Names of the classes whose masks diffaug has drawn.
    """

    class_index: int
    masks: ObjectMasks
    groups: NDArray[np.int64]
    drawn: tuple[str, ...] = ()

    def objects(
        self, images: LabeledImages, positions: NDArray[np.intp], *, seed: int = 0, device: str = "cpu"
    ) -> ClassObjects:
        """The objects of the class whose images are at `positions` of all real images."""
        found = [(position, self._numbers.get(images.ids[position], -1)) for position in positions.tolist()]
        shown = [(position, number) for position, number in found if number >= 0 and self.masks.pixels[number].any()]
        kept, numbers = np.array(shown, np.int64).reshape(-1, 2).T
        ids = tuple(images.ids[position] for position in kept.tolist())
        return ClassObjects(images, kept, self.masks, numbers, ids, self.groups[kept], seed, device)

    def own_masks(self, ids: Sequence[str], shape: tuple[int, int]) -> Masks:
        """Where real images of the background class show an object themselves, bool (N, H, W)."""
        known, empty = self._numbers, np.zeros(shape, np.bool_)
        return np.stack([self.masks.pixels[known[name]] if name in known else empty for name in ids])

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.masks.ids)}


def moved(mask: Mask, other: Mask) -> Mask:
    """A mask with its bounding box centered where that of another mask is, as far as the frame allows."""
    result = np.zeros_like(mask)
    rows, columns = bounding_box(mask)
    to_rows, to_columns = bounding_box(other)
    top = _start(rows, to_rows, mask.shape[0])
    left = _start(columns, to_columns, mask.shape[1])
    height, width = rows.stop - rows.start, columns.stop - columns.start
    result[top : top + height, left : left + width] = mask[rows, columns]
    return result


def with_margin(mask: Mask) -> Mask:
    """The mask and what lies within `MARGIN` px of it."""
    return grown(mask, MARGIN)


def bounding_box(mask: Mask) -> tuple[slice, slice]:
    """The rows and columns of a mask that is not empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def cut_outs(images: Iterable[NDArray[np.uint8]], masks: Iterable[Mask]) -> NDArray[np.uint8]:
    """The object in each of N images (H, W, C) on a ground of its mean color, uint8 (N, side, side, C)."""
    size = (CUT_OUT_SIDE, CUT_OUT_SIDE)
    cut = []
    for image, mask in zip(images, masks, strict=True):
        box = bounding_box(mask)
        margin = round(CUT_OUT_MARGIN * max(mask[box].shape))
        shown = np.pad(mask[box], margin)
        ground = np.rint(image[mask].mean(axis=0)).astype(np.uint8)
        canvas = np.broadcast_to(ground, (*shown.shape, image.shape[2])).copy()
        canvas[shown] = image[mask]
        cut.append(fit_to_size(canvas, size))
    return np.stack(cut)


def _ground(image: NDArray[np.uint8], painted: Mask) -> NDArray[np.float64]:
    """The median color (C,) around what is painted; of the whole image where nothing is left around it."""
    around = grown(painted, GROUND) & ~painted
    shown = image[around] if around.any() else image.reshape(-1, image.shape[2])
    return np.asarray(np.median(shown, axis=0))


def _start(own: slice, other: slice, length: int) -> int:
    """Where an interval begins that is centered on another one inside of a length."""
    extent: int = own.stop - own.start
    return int(min(max(0, (other.start + other.stop - extent) // 2), length - extent))
