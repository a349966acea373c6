"""The catalog: every image of a data folder with status, label and split, and the usable ones at one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from diffaug.data import problems
from diffaug.data.domain import DomainReport
from diffaug.data.images import NO_LABEL, LabeledImages, ObjectMasks, SeenImages, UnlabeledImages, count_by_name
from diffaug.data.layouts.entries import ALL_SPLITS, SPLITS, Split
from diffaug.data.leaks import Leak
from diffaug.data.masks.reading import load_masks
from diffaug.data.problems import Refusal
from diffaug.data.reading.pictures import Pictures
from diffaug.data.resize import ResizeChoice, SizeChoice, boxes_of
from diffaug.data.splits import units_of
from diffaug.decoding.intensity import IntensityRange
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.files.records import read_record, write_record

COLUMNS = (
    *("path", "label", "split", "group", "mask", "file", "page", "sha256", "pixel_sha256", "picture"),
    *("width", "height", "mode", "status", "note"),
    *("picture_height", "picture_width", "picture_channels"),  # zero where there is no picture
    *("weight", "left_out"),
)
SHAPE = ["picture_height", "picture_width", "picture_channels"]
TABLE, PIXELS, PICTURES, ABOUT = "table.parquet", "pixels.npy", "pictures.npy", "catalog.json"
LARGEST_SIDE = 2**31  # px
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


@dataclass(frozen=True)
class GroupProposal:
    """A rule for `data.group_by` that file names suggest."""

    pattern: str  # regular expression whose capture is the group
    groups: int  # groups that it finds
    evidence: str  # one sentence with examples
    confirmed: bool  # images of one group show nearly the same more often than by chance


@dataclass(frozen=True, eq=False)
class About:
    """What holds for the images as a whole."""

    classes: Annotated[tuple[str, ...], Field(min_length=1)]  # in the order of `sorted_classes`
    image_size: tuple[Side, Side]  # height and width in px that all images were brought to
    channels: Annotated[int, Field(ge=1, le=3)]  # 1 gray, 3 RGB
    root: Path
    reading: str  # how the folder was read, in one sentence
    resize: ResizeChoice
    size: SizeChoice | None  # None if the size was set
    intensity: IntensityRange | None  # None if no image has more than 8 bits
    proposal: GroupProposal | None  # groups to choose, if there are none
    leaks: tuple[Leak, ...]  # test images that show a training image
    domain: DomainReport  # how far unlabeled images look like the labeled ones
    problems: list[str]  # what a person should know, in sentences
    refusal: Refusal | None  # why nothing can be trained on the images
    fingerprint: str  # changes with any file, label, split, and the working size
    scan_fingerprint: str  # changes with any path, label, group, mask or given split


_ABOUT = TypeAdapter(About)


@dataclass(frozen=True, eq=False)
class Catalog(About):
    """The content of a data folder.

    Attributes:
        table: One row per image, sorted by path, including unusable files. Columns: `COLUMNS`; path is the file's,
            relative to `root`, and ends with `#page=2` for the second page; label is empty for unlabeled images; split,
            group and mask are empty if there is none; picture is the path of the first image that shows nearly the same
            picture and empty if no other one does; width and height are those of the upright image in px; weight is how
            far an unlabeled image looks like the labeled ones, 1 for these; left_out is why an unlabeled image is not
            used. A row is in use if its split is not empty.
        pixels: uint8 (M, H, W, C), memory-mapped, of the rows `usable`.
        pictures: The same images, each whole and in its own proportions, but small.
        object_masks: Of training images, also of those left out by `without`.
        positions: Where in `pixels` the rows `usable` are, int64; None: in their order.
    """

    table: pd.DataFrame
    pixels: NDArray[np.uint8]
    pictures: Pictures
    object_masks: ObjectMasks
    positions: NDArray[np.int64] | None = None

    def images(self, split: Split) -> LabeledImages:
        """The labeled images of one split, still on the disk. Only those of "train" may reach a generator."""
        pixels, ids = self._pixels_of(split), tuple(self.rows(split)["path"])
        return LabeledImages(pixels, self.labels(split), self.classes, ids, self._boxes(split))

    def masks(self) -> ObjectMasks:
        """The masks of the images of train that have one, in the order of these images; some may be empty."""
        return self.object_masks.of(self.rows("train")["path"])

    def unlabeled(self) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Pixels uint8 (U, H, W, C) of the unlabeled images, still on the disk, and their paths."""
        return self._pixels_of("unlabeled"), tuple(self.rows("unlabeled")["path"])

    def unlabeled_images(self) -> UnlabeledImages:
        """The unlabeled images with their weights, still on the disk; none shows a test or validation image."""
        weights = self.rows("unlabeled")["weight"].to_numpy(np.float64)
        groups = self.seen_groups()[len(self.rows("train")) :]
        return UnlabeledImages(*self.unlabeled(), weights, self._boxes("unlabeled"), groups)

    def seen_images(self, *, unlabeled: bool = True) -> SeenImages:
        """All images that a generator of this catalog sees: those of train and, if it uses them, the unlabeled ones.

        A sample that shows one of them is a copy, with or without a label.
        """
        train, others = self.images("train"), self.unlabeled_images()
        if not unlabeled or not len(others):
            return SeenImages(train.pixels, train.ids, train.labels, self.groups("train"))
        pixels, labels = np.concatenate([train.pixels, others.pixels]), np.full(len(others), NO_LABEL)
        ids, groups = train.ids + others.ids, self.seen_groups()
        return SeenImages(pixels, ids, np.concatenate([train.labels, labels]), groups)

    def pictures_of(self, split: Split) -> Pictures:
        """The pictures of one split, none of more than `MAX_AREA` px, in the order of its images."""
        return self.pictures[self._places[split]].small()

    def seen_groups(self, *, unlabeled: bool = True) -> NDArray[np.int64]:
        """The groups of `seen_images`; reads no pixels."""
        return units_of(pd.concat([self.rows("train"), *([self.rows("unlabeled")] if unlabeled else [])]))

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Class index of each labeled image of one split, int64 (N,)."""
        return indices_of(self.rows(split)["label"], self.classes)

    def counts_by_name(self, split: Split) -> dict[str, int]:
        """Images of each class of one split by name, in class order; reads no pixels."""
        return count_by_name(self.labels(split), self.classes)

    def rows(self, split: Split) -> pd.DataFrame:
        """The rows of one split, in the order of its images."""
        return self._rows[split]

    def groups(self, split: Split) -> NDArray[np.int64]:
        """One number per image of a split, int64 (N,); images of one group or one picture share a number."""
        return units_of(self.rows(split))

    def counts(self) -> pd.DataFrame:
        """Images in use, classes x (train, val, test)."""
        return problems.split_counts(self.table, self.classes)

    def without(self, left_out: NDArray[np.bool_]) -> Catalog:
        """The catalog without some images of the train split, bool (N,), as if they were not in the data folder.

        Unlabeled images that belong together with one of them are left out, too.
        """
        units, train, others = self.seen_groups(), self.rows("train"), self.rows("unlabeled")
        shown = np.isin(units[len(train) :], units[: len(train)][left_out])
        paths = pd.concat([train["path"][left_out], others["path"][shown]])
        kept = np.flatnonzero(~self.usable["path"].isin(paths))
        return replace(
            self,
            table=self.table[~self.table["path"].isin(paths)],
            pictures=self.pictures.select(kept),
            positions=kept if self.positions is None else self.positions[kept],
            fingerprint=storage.fingerprint([self.fingerprint, "without", *paths]),
        )

    @classmethod
    def load(cls, directory: Path) -> Catalog:
        """Reads a saved catalog, whose files are hashed unless they are known from before.

        Raises:
            UsageError: There is no finished one.
            DamagedError: A file is not as it was written, or does not fit the others.
        """
        if storage.committed_metadata(directory) is None:
            raise UsageError("there is no finished catalog here", where=directory, fix="diffaug inspect DATA")
        about, table = read_record(directory / ABOUT, _ABOUT), storage.read_parquet(directory / TABLE, COLUMNS)
        try:
            require_fitting(table, about.classes)
            return cls._of_files(directory, about, table)
        except (ValueError, TypeError, OverflowError) as error:
            what = f"the parts of the catalog don't fit each other ({error})"
            raise DamagedError(what, where=directory, fix=storage.REPAIR_HINT) from error

    @classmethod
    def _of_files(cls, directory: Path, about: About, table: pd.DataFrame) -> Catalog:
        shapes = in_order_of_use(table[["status", "split", *SHAPE]])[SHAPE].to_numpy(np.int64)
        pictures = Pictures.in_one_file(_mapped(directory / PICTURES).reshape(-1), shapes)
        same, shape = not (directory / PIXELS).is_file(), (len(shapes), *about.image_size, about.channels)
        pixels = pictures.files[0].reshape(shape) if same else _mapped(directory / PIXELS)
        if pixels.shape != shape or pictures.files[0].size != shapes.prod(axis=1).sum():
            raise ValueError(f"images of other shapes than {shape}")
        masks = load_masks(directory, about.image_size)
        return cls(**vars(about), table=table, pixels=pixels, pictures=pictures, object_masks=masks)

    def _boxes(self, split: Split) -> NDArray[np.int64] | None:
        if self.resize.resize != "pad":
            return None
        return boxes_of(self.rows(split)[["height", "width"]].to_numpy(np.int64), self.image_size)

    @cached_property
    def usable(self) -> pd.DataFrame:
        """The rows whose images are kept: one split after another, then those left out, each in the table's order."""
        return in_order_of_use(self.table)

    def _pixels_of(self, split: Split) -> NDArray[np.uint8]:
        """On the disk if the images of the split lie there one after another."""
        place = self._places[split]
        return self.pixels[place] if self.positions is None else self.pixels[self.positions[place]]

    @cached_property
    def _rows(self) -> dict[Split, pd.DataFrame]:
        return {split: self.table[self.table["split"] == split] for split in ALL_SPLITS}

    @cached_property
    def _places(self) -> dict[Split, slice]:
        ends = np.cumsum([0, *(len(self.rows(split)) for split in ALL_SPLITS)]).tolist()
        return dict(zip(ALL_SPLITS, map(slice, ends, ends[1:]), strict=True))


def indices_of(labels: pd.Series[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """The position in `classes` of each label, int64 (N,)."""
    codes, names = pd.factorize(labels)
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[name] for name in names], dtype=np.int64)[codes]


def save_catalog(staging: Path, about: About, table: pd.DataFrame) -> None:
    """Writes all but the large arrays into the directory that becomes the catalog."""
    write_record(staging / ABOUT, _ABOUT, about)
    storage.write_parquet(staging / TABLE, table)


def in_order_of_use(table: pd.DataFrame) -> pd.DataFrame:
    """The usable rows of a table: one split after another, then those left out, each in the table's order."""
    usable = table[table["status"] == "ok"]
    return usable.iloc[order_of_use(usable["split"])]


def order_of_use(split: pd.Series[str]) -> NDArray[np.int64]:
    """The positions of usable images in the order of `in_order_of_use`, int64 (N,)."""
    codes, names = pd.factorize(split)
    rank = np.array([(*ALL_SPLITS, "").index(name) for name in names], np.int64)
    return np.argsort(rank[codes], kind="stable")


def require_fitting(table: pd.DataFrame, classes: Sequence[str]) -> None:
    """Raises ValueError unless a table can be the one of images of these classes."""
    labeled = table["label"][table["split"].isin(SPLITS)]
    usable, unusable = table[table["status"] == "ok"], table[table["status"] != "ok"]
    sizes = usable[[*SHAPE, "height", "width"]].to_numpy(np.int64)
    weights = usable["weight"].to_numpy(np.float64)
    requirements = {
        "classes": len(set(classes)) == len(classes) and labeled.isin(classes).all(),
        "splits": usable["split"].isin([*ALL_SPLITS, ""]).all() and (unusable["split"] == "").all(),
        "paths": table["path"].is_unique and all(isinstance(path, str) for path in table["path"]),
        "sizes": ((sizes >= 1) & (sizes <= LARGEST_SIDE)).all(),
        "weights": ((weights >= 0) & (weights <= 1)).all(),
    }
    if wrong := [name for name, is_met in requirements.items() if not is_met]:
        raise ValueError(f"impossible {wrong[0]} in its table")


def _mapped(file: Path) -> NDArray[np.uint8]:
    values = storage.read_array(file, mapped=True)
    if values.dtype != np.uint8:
        raise ValueError(f"{file.name} holds {values.dtype}")
    return values
