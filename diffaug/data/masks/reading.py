"""Reads the masks of training images into the catalog's folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from diffaug.configuration.settings import DataSettings
from diffaug.data.box_files import is_of_boxes, read_boxes
from diffaug.data.images import ObjectMasks
from diffaug.data.layouts.entries import listed
from diffaug.data.resize import Resize
from diffaug.decoding.decode import content_sha256, strict_pillow
from diffaug.decoding.object_masks import read_mask, turned_as
from diffaug.decoding.result import RejectedError
from diffaug.errors import DamagedError, DataError
from diffaug.files import storage
from diffaug.files.records import read_record, write_record
from diffaug.runtime.parallel import in_threads

PIXELS, INDEX = "masks.npy", "masks.json"
WITHOUT = "or use no masks: --masks none"

Mask = NDArray[np.bool_]
_ROUNDING = 1e-6  # px


class MaskSource(NamedTuple):
    """A file of a mask or of boxes, and the upright image that it belongs to; paths are relative to the data folder."""

    image: str
    file: str
    height: int
    width: int
    label: str


@dataclass(frozen=True)
class MaskFiles:
    """What the masks of a catalog are of, and what they were read from."""

    images: tuple[str, ...] = ()  # in the order of the masks' pixels
    files: tuple[str, ...] = ()  # each once, with its hash; one of boxes may be for many images
    sha256: tuple[str, ...] = ()


_FILES = TypeAdapter(MaskFiles)


@dataclass(frozen=True)
class MaskReader:
    """How a file of a mask becomes a mask of the working size."""

    root: Path
    image_size: tuple[int, int]
    resize: Resize

    def read(self, source: MaskSource) -> Mask:
        """The mask upright and at its own size, bool (H, W).

        Raises:
            DataError: It can't be read, or its size is not that of its image.
        """
        where = self.root / source.file
        try:
            if is_of_boxes(source.file):
                return read_boxes(where, self.root / source.image, (source.height, source.width), source.label)
            mask = read_mask(where)
        except RejectedError as rejected:
            note = rejected.result.note
            raise DataError(f"a mask can't be read: {note}", where=where, fix=f"save it anew, {WITHOUT}") from rejected
        size = (source.height, source.width)
        if mask.shape == size[::-1] != size:
            mask = turned_as(self.root / source.image, mask)
        if mask.shape != size:
            (h, w), (height, width) = mask.shape, size
            what = f"the mask has {w} x {h} px, but its image, {source.image}, has {width} x {height} px"
            raise DataError(what, where=where, fix=f"save it at the size of the image, {WITHOUT}")
        return mask

    def fit(self, mask: Mask, *, inverted: bool) -> Mask:
        """The mask at the working size."""
        return fit_mask(~mask if inverted else mask, self.image_size, self.resize)


def write_masks(
    folder: Path, root: Path, sources: Sequence[MaskSource], settings: DataSettings, reader: MaskReader
) -> MaskFiles:
    """Writes the masks of a catalog, a few at a time; nothing if there are none.

    Raises:
        DataError: A mask can't be read, has not the size of its image, or most look inverted.
    """
    if not sources:
        return MaskFiles()
    drawn = [not is_of_boxes(source.file) for source in sources]
    suspicious = [0, 0]  # of masks that show anything: those that look inverted, and all

    def made(source: MaskSource) -> tuple[Mask, bool, bool]:
        mask, is_drawn = reader.read(source), not is_of_boxes(source.file)
        fitted = reader.fit(mask, inverted=bool(settings.invert_masks) and is_drawn)
        return fitted, is_drawn and looks_inverted(mask), is_drawn and bool(mask.any())

    with strict_pillow(), storage.array_writer(folder / PIXELS, (len(sources), *reader.image_size)) as append:
        for mask, looks_so, shows in in_threads(made, sources):
            append(mask.view(np.uint8))
            suspicious = [suspicious[0] + looks_so, suspicious[1] + shows]
    if settings.invert_masks is None and any(drawn) and 2 * suspicious[0] > suspicious[1]:
        raise _inverted(root, [source.file for source in sources], *suspicious)
    files = tuple(dict.fromkeys(source.file for source in sources))
    hashes = tuple(in_threads(lambda file: content_sha256(root / file), files))
    found = MaskFiles(tuple(source.image for source in sources), files, hashes)
    write_record(folder / INDEX, _FILES, found)
    return found


def mask_files(folder: Path) -> MaskFiles:
    """What `write_masks` has noted in a catalog's folder."""
    return read_record(folder / INDEX, _FILES) if (folder / INDEX).is_file() else MaskFiles()


def load_masks(folder: Path, image_size: tuple[int, int]) -> ObjectMasks:
    """The masks of a catalog, memory-mapped."""
    ids = mask_files(folder).images
    if not ids:
        return ObjectMasks((), np.empty((0, *image_size), np.bool_))
    pixels = storage.read_array(folder / PIXELS, mapped=True)
    if pixels.dtype != np.uint8 or pixels.shape != (len(ids), *image_size):
        what = f"the masks don't fit the catalog: {pixels.dtype} {pixels.shape}"
        raise DamagedError(what, where=folder / PIXELS, fix=storage.REPAIR_HINT)
    return ObjectMasks(ids, pixels.view(np.bool_))


def _inverted(root: Path, files: Sequence[str], suspicious: int, total: int) -> DataError:
    what = (
        f"{suspicious} of {total} masks cover more than half of their image and touch all of its borders, so they may "
        f"show the ground instead of the object: {listed(list(files))}"
    )
    fix = f"add --set data.invert_masks=true if the object is 0, =false if it is not; {WITHOUT}"
    return DataError(what, where=root, fix=fix)


def fit_mask(mask: Mask, image_size: tuple[int, int], resize: Resize) -> Mask:
    """Brings a mask (H, W) to `image_size` as `resize.fit_to_size` brings its image, bool (h, w).

    A pixel belongs to the object if it shows any part of it, so that small objects are not lost.
    """
    height, width = mask.shape
    h, w = image_size
    top = left = 0.0
    if resize == "crop":
        scale = max(h / height, w / width)
        top, left = max(0.0, (height - h / scale) / 2), max(0.0, (width - w / scale) / 2)
    by_row = _touched(mask, h, top, height - top)
    return np.ascontiguousarray(_touched(by_row.T, w, left, width - left).T)


def _touched(mask: Mask, count: int, begin: float, end: float) -> Mask:
    """Whether any row in each of `count` equal parts from `begin` to `end` is set, bool (count, W)."""
    edges = begin + np.arange(count + 1) * ((end - begin) / count)
    rows = np.empty((count, mask.shape[1]), np.bool_)
    for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        rows[number] = mask[math.floor(low + _ROUNDING) : math.ceil(high - _ROUNDING)].any(axis=0)
    return rows


def looks_inverted(mask: Mask) -> bool:
    """Whether most of a mask (H, W) is set, and all four borders are touched, as around an object."""
    borders = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return bool(mask.mean() > 0.5 and all(border.any() for border in borders))
