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
from diffaug.data.catalog import SHAPE, in_order_of_use, indices_of
from diffaug.data.leaks import Leak, copied_by, shared
from diffaug.data.reading.first_pass import Reader, Source
from diffaug.data.reading.pictures import Pictures, Pixels
from diffaug.data.reading.working_pixels import Originals
from diffaug.data.resize import Resize, choose_image_size, median_side, working_shape
from diffaug.data.size_choice import MeasureSize, SizeChoice
from diffaug.data.splits import units_of
from diffaug.files import storage
from diffaug.runtime.parallel import Progress

FORGOTTEN_AFTER = 256  # pictures
MAX_ROUNDS = 10  # of splitting again because a test image shows a training image


class Layout:
    """The usable images of a table on their way to a catalog.

    Args:
        table: One row per image.
        pictures: Of the usable images, in the order of the table.
        reader: Reads files again, for sizes above those of the pictures.
        settings: How to bring images to one size.
        file: Where the working pixels are written.
        seed: Of the split.
        device: Where test images are compared with training images.

    Attributes:
        usable: The usable rows with their split and picture, numbered from 0.
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
        self.usable = table[table["status"] == "ok"].reset_index(drop=True)
        self._given = self.usable["split"].copy()
        self.image_size = choose_image_size(self.sizes, settings)
        self.leaks: tuple[Leak, ...] = ()

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width in px of each usable image."""
        return list(zip(self.usable["height"].tolist(), self.usable["width"].tolist(), strict=True))

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
        """1 if all images are gray, else 3."""
        return self._settings.channels or (1 if (self.usable["picture_channels"] == 1).all() else 3)

    def group(self, progress: Progress | None) -> None:
        """Finds the images that show nearly the same picture."""
        self.usable["picture"] = pictures_shown(self.usable["path"].tolist(), self._pictures, progress)

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

        def load_at(chosen: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
            return self._originals.at(positions[chosen], working_shape(self.sizes, side))

        choice = measure(load_at, labels, units_of(rows), median_side=median_side(self.sizes), seed=self._seed)
        image_size = self.image_size if choice.side is None else working_shape(self.sizes, choice.side)
        if image_size != self.image_size:
            self.image_size = image_size
            self._move_leaked_to_train()
        return choice

    def finish(self, pictures_file: Path) -> pd.DataFrame:
        """Writes working pixels and pictures; returns the table with splits and pictures."""
        self._write_pixels()
        order = in_order_of_use(self.usable)
        if self._pictures.all_have((*self.image_size, self.channels)):
            self._file.replace(pictures_file)  # pictures and pixels are the same
        else:
            with storage.array_writer(pictures_file, (int(order[SHAPE].prod(axis=1).sum()),)) as append:
                for number, position in enumerate(order.index.tolist()):
                    append(self._pictures[position])
                    if number % FORGOTTEN_AFTER == 0:
                        self._pictures.forget()
        found = self.usable[["path", "split", "picture"]].set_index("path")
        columns = {name: self._table["path"].map(found[name]).fillna("") for name in found.columns}
        return self._table.assign(**columns)

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
        order = in_order_of_use(self.usable).reset_index(drop=True)
        if not self._settings.near_duplicates:  # the user says that images only look alike
            self.leaks = tuple(shared(*(order[order["split"] == split] for split in ("test", "train"))))
            return False
        self._write_pixels()
        pixels = np.load(self._file, mmap_mode="r", allow_pickle=False)
        (test, of_test), (train, of_train) = (_part(order, pixels, split) for split in ("test", "train"))
        found = copied_by(of_test, of_train, units_of(train), device=self._device)
        pairs = [(test["path"].iloc[one], train["path"].iloc[other]) for one, other in found.items()]
        known = shared(test, train)
        named = {leak.test_id for leak in known}
        self.leaks = (*known, *(Leak(*pair, "near copy") for pair in pairs if pair[0] not in named))
        if self.test_was_given or not pairs:
            return False
        self.usable["picture"] = join_pictures(self.usable, pairs)
        return True

    def _write_pixels(self) -> None:
        self._originals.write(self._file, in_order_of_use(self.usable).index.to_numpy(), self.image_size)

    @cached_property
    def _originals(self) -> Originals:
        sources = [Source(*pair) for pair in zip(self.usable["file"], self.usable["page"].tolist(), strict=True)]
        sha256, sizes = self.usable["sha256"].tolist(), np.array(self.sizes, np.int64)
        return Originals(self._reader, sources, sha256, sizes, self._pictures, self.resize, self.channels)


def _part(order: pd.DataFrame, pixels: Pixels, split: str) -> tuple[pd.DataFrame, Pixels]:
    """The rows of a split, which follow each other, and their pixels."""
    rows = order[order["split"] == split]
    begin = int(rows.index[0]) if len(rows) else 0
    return rows, pixels[begin : begin + len(rows)]
