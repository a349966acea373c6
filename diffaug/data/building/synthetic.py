"""Finds synthetic images among those that are to count as real: pools and exports of diffaug, whole or in part."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePath

from diffaug.configuration.settings import DataSettings
from diffaug.data.building.unlabeled import read_further
from diffaug.data.layouts.entries import listed
from diffaug.data.layouts.reading import FOLDERS
from diffaug.data.layouts.scan import Scan, scan
from diffaug.errors import DamagedError, DataError
from diffaug.files import storage

ORIGINS = ("sampled", "variation", "transplant", "crossed")  # of synthetic images, as their tables say
TABLES = {"manifest.parquet": "file", "rejected.parquet": "file", "metadata.parquet": "file_name"}
"""Tables of pools and exports that tell where images come from, and the column with their paths."""
EXPORTED = re.compile(r"synthetic-\d{4}-\d{6}\.png")
"""The name of a synthetic image in an export of class folders."""
LEVELS_ABOVE = 2  # of a data folder that may be a split or a class of an export, or the images of a pool


def scan_of_real_images(root: Path, settings: DataSettings) -> Scan:
    """What a folder and that of the unlabeled images hold, see `scan`.

    Raises:
        DataError: Among the images are synthetic ones.
    """
    found = scan(root, settings, read_further(root, settings.unlabeled))
    paths = [entry.path for entry in found.entries]
    synthetic, table = synthetic_images(root, paths)
    if not synthetic:
        return found
    what = f"{len(synthetic)} of {len(paths)} images are synthetic, made by diffaug, and would count as real"
    fix = f"give the folder of the real images, or move out those that {table} calls synthetic"
    raise DataError(f"{what}: {listed(synthetic)}", where=root, fix=fix)


def synthetic_images(root: Path, paths: Iterable[str]) -> tuple[list[str], str]:
    """Those of `paths`, relative to `root`, that are synthetic, sorted; and the file that tells."""
    base = root.resolve()
    by_folder: dict[PurePath, list[str]] = {}
    marks: dict[Path, _Marks] = {}
    found: list[str] = []
    told_by = ""
    for path in paths:
        by_folder.setdefault(PurePath(path).parent, []).append(path)
    for folder, own in by_folder.items():
        inside = (base / folder).resolve()
        for place in _around(inside, base):
            if place not in marks:
                marks[place] = _Marks(place)
            named = [path for path in own if marks[place].names(inside / PurePath(path).name)]
            found += named
            told_by = told_by or (marks[place].told_by if named else "")
    return sorted(set(found)), told_by


def _around(folder: Path, base: Path) -> list[Path]:
    """The folder and those around it up to the data folder, and some above that."""
    around = [folder, *folder.parents]
    inside = [place for place in around if place.is_relative_to(base)]
    return around[: (len(inside) or 1) + LEVELS_ABOVE]


class _Marks:
    """What a folder tells of the images in it, if it is a pool or an export."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files, self.told_by = folder, set[str](), ""
        for name, column in TABLES.items():
            if storage.is_regular(folder / name):
                self._read(folder / name, column)
        self._is_split = storage.is_regular(folder / FOLDERS)
        if self._is_split and not self.told_by:
            self.told_by = "the file name"

    def names(self, image: Path) -> bool:
        """Whether an image in the folder is called synthetic."""
        inside = image.relative_to(self._folder).as_posix()
        return inside in self._files or (self._is_split and bool(EXPORTED.fullmatch(image.name)))

    def _read(self, table: Path, column: str) -> None:
        with suppress(DamagedError):  # a table of something else
            rows = storage.read_parquet(table, (column, "origin"))
            files = set(rows.loc[rows["origin"].isin(ORIGINS), column].astype(str))
            self._files |= files
            self.told_by = self.told_by or (str(table) if files else "")
