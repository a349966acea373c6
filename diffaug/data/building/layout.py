"""The images of a catalog in groups and splits, at the working size, and laid out on the disk by split."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.configuration.settings import DataSettings
from diffaug.data.building.grouping import assign_splits, join_pictures, keep_together, pictures_shown
from diffaug.data.building.unlabeled import (
    FOREIGN,
    REPEATS,
    SHOWS_HELD_OUT,
    MakeDescription,
    leave_out,
    repeated_pixels,
    showing_held_out,
    weigh,
)
from diffaug.data.catalog import indices_of, order_of_use
from diffaug.data.domain import DomainReport, Shown
from diffaug.data.layouts.entries import Split
from diffaug.data.leaks import Leak, copied_by, shared
from diffaug.data.reading.parts import Reader
from diffaug.data.reading.pictures import Pictures, Pixels
from diffaug.data.reading.working_pixels import Originals
from diffaug.data.resize import MeasureSize, Resize, SizeChoice, choose_image_size, median_side, working_shape
from diffaug.data.splits import units_of
from diffaug.files import storage
from diffaug.runtime.parallel import Progress

_COMPARED = ("path", "split", "group", "pixel_sha256", "picture")
_NEEDED = (*_COMPARED, "label")

FORGOTTEN_AFTER = 256  # pictures
MAX_ROUNDS = 10  # of splitting again because a test image shows a training image


class Layout:
    """The usable images of a table on their way to a catalog.

    `pictures` are those of the usable images, in the order of the table; the reader reads files again for larger sizes.
    Working pixels are written to `file`.

    Attributes:
        usable: The usable rows, numbered from 0: their label, split, what tells which of them belong together, weight,
            and why they are left out.
        image_size: Height and width in px.
        leaks: Test images that show a training image.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        pictures: Pictures,
        reader: Reader,
        settings: DataSettings,
        file: Path,
        *,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self._table, self._pictures, self._reader, self._settings = table, pictures, reader, settings
        self._file, self._seed, self._device = file, seed, device
        self._rows = np.flatnonzero(table["status"] == "ok")
        self.usable = table.loc[self._rows, list(_NEEDED)].reset_index(drop=True).assign(weight=1.0, left_out="")
        self._given = self.usable["split"].copy()
        self._is_labeled = (self._given != "unlabeled").to_numpy()
        self.image_size = choose_image_size(self.labeled_sizes, settings)
        self.leaks: tuple[Leak, ...] = ()

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Height and width in px of each usable image, int64 (N, 2)."""
        return self._table.loc[self._rows, ["height", "width"]].to_numpy(np.int64)

    @property
    def labeled_sizes(self) -> NDArray[np.int64]:
        """The sizes of the labeled images; unlabeled ones don't change what is made of them."""
        return self.sizes[self._is_labeled]

    @property
    def test_was_given(self) -> bool:
        """Whether the layout of the folder says which images are for testing."""
        return bool((self._table["split"] == "test").any())

    @property
    def resize(self) -> Resize:
        """How the pixels are brought to the working size; padding is a matter of the generator alone."""
        return "crop" if self._settings.resize == "crop" else "squeeze"

    @cached_property
    def channels(self) -> int:
        """1 if all labeled images are gray, else 3."""
        return self._settings.channels or (1 if (self._pictures.shapes[self._is_labeled, 2] == 1).all() else 3)

    def group(self, progress: Progress | None) -> None:
        """Finds the images that show nearly the same picture."""
        self.usable["picture"] = pictures_shown(self.usable["path"].to_numpy(object).tolist(), self._pictures, progress)

    def split(self) -> None:
        """Assigns splits, and splits again while a test image shows a training image.

        What the leak check of an evaluation would refuse is not in a split that is made here.
        """
        self._assign_splits()
        for _ in range(MAX_ROUNDS):
            if not self._join_leaked():
                break
            self._assign_splits()

    def choose_size(self, classes: Sequence[str], measure: MeasureSize | None) -> SizeChoice | None:
        """Measures the working size on training images, unless it is set; returns what was found."""
        if self._settings.image_size is not None or measure is None:
            return None
        rows = self.usable[self.usable["split"] == "train"]
        positions, labels = rows.index.to_numpy(), indices_of(rows["label"], classes)
        sizes = self.labeled_sizes

        def load_at(chosen: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
            return self._originals.at(positions[chosen], working_shape(sizes, side))

        choice = measure(load_at, labels, units_of(rows), median_side=median_side(sizes), seed=self._seed)
        image_size = self.image_size if choice.side is None else working_shape(sizes, choice.side)
        if image_size != self.image_size:
            self.image_size = image_size
            self._move_leaked_to_train()
        return choice

    def settle_unlabeled(self, describe: MakeDescription | None) -> DomainReport:
        """Leaves out unlabeled images that show a held-out one, repeat pixels or are foreign, and weighs the others."""
        usable = self.usable
        leave_out(usable, (self._given == "unlabeled") & (usable["split"] == ""), SHOWS_HELD_OUT)
        leave_out(usable, repeated_pixels(usable), REPEATS)
        if not (usable["split"] == "unlabeled").any():
            return DomainReport()
        self._write_pixels()
        positions, pixels = self._order(), np.load(self._file, mmap_mode="r", allow_pickle=False)
        order = usable[list(_COMPARED)].iloc[positions].reset_index(drop=True)
        train, unlabeled = (_place(order, split) for split in ("train", "unlabeled"))
        labeled, others = (
            Shown(self._pictures.select(positions[place]).small(), pixels[place]) for place in (train, unlabeled)
        )
        description = None if describe is None else describe(labeled)
        weights, measured_by = weigh(description, labeled, units_of(order[train]), others)
        usable.loc[positions[unlabeled], "weight"] = weights
        if self._settings.near_duplicates:
            copies = showing_held_out(order, pixels, unlabeled, device=self._device)
            leave_out(usable, usable.index.to_series().isin(positions[copies]), SHOWS_HELD_OUT)
        used = usable["split"] == "unlabeled"
        foreign, doubtful = used & (usable["weight"] == 0), used & usable["weight"].between(0, 1, "neither")
        leave_out(usable, foreign, FOREIGN)
        return DomainReport(measured_by, int(doubtful.sum()), int(foreign.sum()))

    def finish(self, pictures_file: Path) -> pd.DataFrame:
        """Writes working pixels and pictures; returns the table with splits and pictures."""
        self._write_pixels()
        if self._pictures.all_have((*self.image_size, self.channels)):
            self._file.replace(pictures_file)  # pictures and pixels are the same
        else:
            self._write_pictures(pictures_file)
        unused: dict[str, str | float] = {"split": "", "picture": "", "left_out": "", "weight": 1.0}
        columns = {name: self.usable[name].set_axis(self._rows) for name in unused}
        everywhere = {name: columns[name].reindex(self._table.index, fill_value=unused[name]) for name in unused}
        return self._table.assign(**everywhere)

    def _assign_splits(self) -> None:
        fraction = None if self.test_was_given else self._settings.test_fraction
        self.usable["split"] = self._given
        self.usable["split"] = assign_splits(self.usable, test_fraction=fraction, seed=self._seed)

    def _move_leaked_to_train(self) -> None:
        """Splits are not made anew at another size, since it was chosen on images that must not become test images."""
        for _ in range(MAX_ROUNDS):
            if not self._join_leaked():
                break
            self.usable["split"] = keep_together(self.usable)

    def _join_leaked(self) -> bool:
        """Searches for test images that show a training image, and makes them one picture; whether there are any.

        In splits that were given they are only noted.
        """
        order = self.usable[list(_COMPARED)].iloc[self._order()].reset_index(drop=True)
        if not self._settings.near_duplicates:  # the user says that images only look alike
            self.leaks = tuple(shared(_rows_of(order, "test"), _rows_of(order, "train")))
            return False
        self._write_pixels()
        pixels = np.load(self._file, mmap_mode="r", allow_pickle=False)
        (test, of_test), (train, of_train) = _part(order, pixels, "test"), _part(order, pixels, "train")
        found = copied_by(of_test, of_train, units_of(train), device=self._device)
        pairs = [(test["path"].iloc[one], train["path"].iloc[other]) for one, other in found.items()]
        known = shared(test, train)
        named = {leak.test_id for leak in known}
        self.leaks = (*known, *(Leak(*pair, "near copy") for pair in pairs if pair[0] not in named))
        if self.test_was_given or not pairs:
            return False
        self.usable["picture"] = join_pictures(self.usable, pairs)
        return True

    def _order(self) -> NDArray[np.int64]:
        return order_of_use(self.usable["split"])

    def _write_pixels(self) -> None:
        self._originals.write(self._file, self._order(), self.image_size)

    def _write_pictures(self, file: Path) -> None:
        order = self._order()
        shape = (int(self._pictures.shapes.prod(axis=1).sum()),)
        with storage.array_writer(file, shape) as append:
            for number, position in enumerate(order.tolist()):
                append(self._pictures[position])
                if number % FORGOTTEN_AFTER == 0:
                    self._pictures.forget()

    @cached_property
    def _originals(self) -> Originals:
        files = self._table[["file", "page", "sha256"]]
        if len(self._rows) < len(files):
            files = files.iloc[self._rows]
        return Originals(self._reader, files, self.sizes, self._pictures, self.resize, self.channels)


def _place(order: pd.DataFrame, split: Split) -> slice:
    """Where the rows of a split are, which follow each other."""
    positions = np.flatnonzero(order["split"] == split)
    return slice(int(positions[0]), int(positions[-1]) + 1) if len(positions) else slice(0, 0)


def _rows_of(order: pd.DataFrame, split: Split) -> pd.DataFrame:
    """The rows of a split."""
    return order[_place(order, split)]


def _part(order: pd.DataFrame, pixels: Pixels, split: Split) -> tuple[pd.DataFrame, Pixels]:
    """The rows of a split and their pixels."""
    place = _place(order, split)
    return order[place], pixels[place]
