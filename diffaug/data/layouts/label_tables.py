"""Finds the tables of a folder that name its images, and the images that they name."""

import os
import re
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diffaug.configuration.settings import DataSettings
from diffaug.data.layouts.columns import SAMPLE_ROWS, Columns, are_usual, find_columns, label_of_folders
from diffaug.data.layouts.entries import Split, listed, says_nothing, split_named, split_of_table
from diffaug.data.layouts.tables import TABLE_SUFFIXES, Table, read_columns, read_table
from diffaug.data.layouts.walk import IMAGE_SUFFIXES, Folder, stem_of, suffix_of
from diffaug.decoding.formats.recognition import HEAD_BYTES
from diffaug.errors import DataError, UsageError

UNREAD = "spreadsheets and lists without names of columns, not used (write a CSV of file_name,label,split to use them)"
_SHEETS, _LISTS = {".xlsx", ".xls", ".ods", ".numbers"}, {".txt", ".lst", ".list"}
LAYOUT_WORDS = ("auto", "classes", "splits", "inner")


class Images:
    """Finds an image of the folder by what a table calls it."""

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        self.root = root
        self.paths = set(paths)
        self._tails: dict[int, dict[str, list[str]]] = {}

    def _by_tail(self, parts: int) -> dict[str, list[str]]:
        """The paths by their last parts, with and without extension, without what file systems change."""
        if parts not in self._tails:
            tails: defaultdict[str, list[str]] = defaultdict(list)
            for path in sorted(self.paths):
                tail = "/".join(_folded(path).rsplit("/", parts)[-parts:])
                for key in {tail, stem_of(tail)}:
                    tails[key].append(path)
            self._tails[parts] = tails
        return self._tails[parts]

    def find(self, name: str, folder: str) -> list[str]:
        """Paths of all images that `name`, in a table of `folder`, may stand for.

        A name may be relative to the table or to any folder, lack its extension, or differ in case.
        """
        exact, wanted = self._relative(name, folder)
        if exact in self.paths:
            return [exact]
        found = self._ending_with(wanted, folder)
        parts = wanted.split("/")  # it may be relative to a folder around the root, as `root/images/1.png` is
        for number in range(1, len(parts)) if not found else ():
            if tuple(parts[:number]) == self._names_around[-number:]:
                return self._ending_with("/".join(parts[number:]), "")
        return found

    def leads_outside(self, name: str, folder: str) -> bool:
        """Whether a text, in a table of `folder`, is a path that leads out of the root."""
        path = self._relative(name, folder)[0]
        return path.startswith("/") or path.split("/")[0] == ".." or path[1:3] == ":/"

    @cached_property
    def _names_around(self) -> tuple[str, ...]:
        """The names of the folders around the images, the root's last."""
        return self.root.absolute().parts

    def _relative(self, name: str, folder: str) -> tuple[str, str]:
        """What a table of `folder` calls a file, relative to the root and as it stands there."""
        wanted = os.path.normpath(name.replace("\\", "/"))
        for root in map(str, (self.root.absolute(), self.root.resolve())) if wanted.startswith("/") else ():
            if wanted.startswith(f"{root}/"):
                return (wanted[len(root) + 1 :],) * 2
        if wanted.startswith("/") or wanted[1:3] == ":/" or not folder:
            return wanted, wanted
        exact = os.path.normpath(f"{folder}/{wanted}")
        return exact, exact if wanted.startswith("../") else wanted

    def _ending_with(self, wanted: str, folder: str) -> list[str]:
        found = self._by_tail(wanted.count("/") + 1).get(_folded(wanted), [])
        return _narrowed(found, wanted, folder)

    def is_one(self, name: str, folder: str) -> bool:
        """Whether a text names at least one image."""
        return bool(name) and bool(self.find(name, folder))


@dataclass(frozen=True)
class LabelTable:
    """A table that names images, with or without labels."""

    path: str  # relative to the root
    folder: str  # that files are named relative to; empty for the root
    columns: Columns  # as found in the first rows
    split: Split | None  # by the name of the table or of the split folder that holds it

    def columns_of(self, table: Table, images: Images, settings: DataSettings) -> Columns:
        """The columns as found in all rows."""
        return _columns(table, self.folder, images, settings) or self.columns

    def require_label(self, root: Path) -> None:
        """Raises DataError if no column is known as the label."""
        if self.columns.are_labeled:
            return
        table = read_table(root / self.path, most=SAMPLE_ROWS)
        named = [name for name in table.columns if suffix_of(name) in IMAGE_SUFFIXES]
        if named:
            what = f"the first line of {self.path} has no names of columns but of an image: {named[0]}"
            raise DataError(what, where=root, fix="add a first line, file_name,label")
        rest = [name for name in table.columns if name and name not in (self.columns.file, self.columns.split)]
        what = f"no column of {self.path} is known as the label; it has: {listed(table.columns, shown=8)}"
        flags = " or ".join(f"--label-column {shlex.quote(name)}" for name in rest[:5])
        raise DataError(what, where=root, fix=f"add {flags}" if flags else "add a column 'label'")


def find_tables(tree: Folder, bases: Iterable[Folder], images: Images, settings: DataSettings) -> list[LabelTable]:
    """The tables that name images.

    They are looked for in each of `bases`, from the outermost on, in folders beside them without images, and in the
    folders of splits. The first base with tables that give labels wins, or else the first with any.

    Raises:
        UsageError: `settings.layout` or `settings.label_column` does not fit.
        DataError: The labels of a table are not clear.
    """
    if settings.layout in LAYOUT_WORDS[1:]:
        return []
    if settings.layout != "auto":
        return [_chosen_table(tree, images, settings)]
    found = [
        [table for place, name in _places(base) if (table := _table(place, name, images, settings))] for base in bases
    ]
    labeled = [tables for tables in found if any(table.columns.are_labeled for table in tables)]
    best = next((tables for tables in [*labeled, *found] if tables), [])
    if settings.label_column is not None and not labeled:
        what = f"no table of images has a column '{settings.label_column}'"
        names = sorted({name for table in best for name in read_columns(images.root / table.path)})
        fix = f"there are the columns {listed(names, shown=8)}" if names else "leave out --label-column"
        raise UsageError(what, where=images.root, fix=fix)
    return best


def find_unread(bases: Iterable[Folder], images: Images) -> list[str]:
    """Paths of what may give labels or splits but is not read: spreadsheets, and lists without names of columns."""
    places = [place for base in bases for place in (base, *(inner for inner in base.folders if not inner.is_filled()))]
    paths = {place.below(name): place.path for place in places for name in place.others}
    return [
        path
        for path, folder in paths.items()
        if suffix_of(path) in _SHEETS or (suffix_of(path) in _LISTS and _lists_images(path, folder, images))
    ]


def refuse_unread(paths: Sequence[str], root: Path) -> None:
    """Raises DataError, which says how to convert them, if there are any."""
    if paths:
        fix = "save it as CSV whose first line is file_name,label, or file_name,label,split"
        raise DataError(f"the images need labels, and {listed(paths)} is not read as a table", where=root, fix=fix)


def _lists_images(path: str, folder: str, images: Images) -> bool:
    """Whether the first line of a text begins with the name of an image, and no name of a column."""
    if are_usual(read_columns(images.root / path)):
        return False
    try:
        with (images.root / path).open("rb") as file:
            lines = file.read(HEAD_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return False
    words = re.split(r"[\s,;|]+", next((line.strip() for line in lines if line.strip()), ""))
    return images.is_one(words[0], folder)


def refuse_tables_of_folders(bases: Iterable[Folder], folders: Set[str], root: Path) -> None:
    """Refuses to read folders as classes if a table gives them labels.

    Raises:
        DataError: There is such a table.
    """
    for path in {place.below(name) for base in bases for place, name in _places(base)}:
        try:
            table = read_table(root / path, most=SAMPLE_ROWS)
        except DataError:
            continue
        columns = label_of_folders(table, folders)
        if columns:
            what = f"the folders may be no classes: {path} gives each of '{columns[0]}' its '{columns[1]}'"
            fix = "write one line per image into a CSV of file_name,label,group; or add --layout classes if they are"
            raise DataError(what, where=root, fix=fix)


def folder_split(path: str) -> Split | None:
    """The split that the outermost folder with such a name stands for."""
    return next((split for part in path.split("/")[:-1] if (split := split_named(part))), None)


def _places(base: Folder) -> Iterator[tuple[Folder, str]]:
    """The files that may be tables, with their folders."""
    places = [base, *base.folders]
    places += [inner for folder in base.folders if split_named(folder.name) for inner in folder.folders]
    for place in places:
        usual = place is base or not place.is_filled() or split_named(place.name) or says_nothing(place.name)
        yield from ((place, name) for name in place.others if usual and suffix_of(name) in TABLE_SUFFIXES)


def _chosen_table(tree: Folder, images: Images, settings: DataSettings) -> LabelTable:
    wanted = os.path.normpath(settings.layout)
    files = [(place, name) for place in tree.walk() for name in place.others if suffix_of(name) in TABLE_SUFFIXES]
    for place, name in files:
        if place.below(name) == wanted:
            table = _table(place, name, images, settings)
            if table is None:
                what = f"no column of {wanted} names images of the folder"
                raise DataError(what, where=images.root / wanted, fix="give another table, or --layout auto")
            table.require_label(images.root)
            return table
    what = f"there is no table '{settings.layout}' here"
    names = listed([*LAYOUT_WORDS, *(place.below(name) for place, name in files)], shown=8)
    raise UsageError(what, where=images.root, fix=f"set --layout to one of: {names}")


def _table(place: Folder, name: str, images: Images, settings: DataSettings) -> LabelTable | None:
    path = place.below(name)
    columns = _sampled_columns(images.root / path, place.path, images, settings)
    if columns is None or ("submission" in name.casefold() and settings.layout == "auto"):
        return None
    return LabelTable(path, place.path, columns, split_of_table(stem_of(name)) or folder_split(path))


def _sampled_columns(file: Path, folder: str, images: Images, settings: DataSettings) -> Columns | None:
    """What the columns of a file are by its first rows; None for a file that is no table of images."""
    by_name = are_usual(read_columns(file))
    if suffix_of(file.name) == ".txt" and not by_name:
        return None
    try:
        sample = read_table(file, most=SAMPLE_ROWS)
    except DataError:
        if by_name or settings.layout != "auto":
            raise
        return None
    return _columns(sample, folder, images, settings)


def _columns(table: Table, folder: str, images: Images, settings: DataSettings) -> Columns | None:
    return find_columns(
        table, lambda name: images.is_one(name, folder), label_column=settings.label_column, group_by=settings.group_by
    )


def _folded(name: str) -> str:
    """A name without what file systems change: case and Unicode form."""
    return name.casefold() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def _narrowed(paths: list[str], wanted: str, folder: str) -> list[str]:
    """The best of several matches: those of the table's folder, those that end exactly so."""
    for better in (
        [path for path in paths if path.startswith(f"{folder}/")] if folder else [],
        [path for path in paths if f"/{path}".endswith(f"/{wanted}")],
    ):
        paths = better if better else paths
    return paths
