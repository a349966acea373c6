"""Reads folders whose labels stand in tables, such as `labels.csv` beside `images/`."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from diffaug.configuration.settings import DataSettings
from diffaug.data.layouts.columns import Columns, one_hot_labels, plain_label, require_single_labels
from diffaug.data.layouts.entries import SPLITS, Entry, Split, listed, split_named, splits_among
from diffaug.data.layouts.label_tables import Images, LabelTable, folder_split
from diffaug.data.layouts.reading import UNLABELED_SPLIT, Reading
from diffaug.data.layouts.tables import Table, read_table
from diffaug.data.layouts.walk import Account, Folder
from diffaug.errors import DataError

_UNNAMED = "images to which no table gives a label, left out"


class TableReader:
    """Collects one entry per image that tables name."""

    def __init__(self, images: Images, settings: DataSettings) -> None:
        self._root, self._images, self._settings = images.root, images, settings
        self._entries: dict[str, Entry] = {}
        self._tables: dict[str, str] = {}  # the table that named an image first
        self._account = Account()
        self._classes: set[str] = set()
        self._described: list[str] = []
        self._missing: dict[str, list[str]] = {}
        self._has_split_column = False

    @property
    def labels(self) -> dict[str, str]:
        """The label by path of each image that has one."""
        return {path: entry.label for path, entry in self._entries.items() if entry.label}

    @property
    def labeled(self) -> dict[str, Entry]:
        """The entry by path of each image that has a label."""
        return {path: entry for path, entry in self._entries.items() if entry.label}

    @property
    def groups(self) -> dict[str, str]:
        """The group by path of each image that has one."""
        return {path: entry.group for path, entry in self._entries.items() if entry.group}

    def add(self, source: LabelTable) -> None:
        """Reads a table.

        Raises:
            DataError: It contradicts itself or an earlier one, or names something outside the folder.
        """
        table = read_table(self._root / source.path)
        columns = source.columns_of(table, self._images, self._settings)
        if columns.are_labeled:
            self._described.append(f"{source.path} ({columns.described()})")
            if not table.rows:
                raise DataError("the table names no images", where=table.file, fix="add one line per image")
        self._has_split_column |= columns.split is not None
        missing = self._missing.setdefault(source.path, [])
        for row, entry in enumerate(_entries(table, columns, source.split)):
            if self._images.leads_outside(entry.path, source.folder):
                what = f"{entry.path} lies outside the folder"
                raise DataError(what, where=table.place(row), fix="name files relative to the table")
            self._classes.update([entry.label] if entry.label else [])
            paths = self._images.find(entry.path, source.folder)
            if len(paths) > 1 and entry.split:  # `1.png` of train.csv, where train/ and test/ have one
                paths = [path for path in paths if folder_split(path) == (source.split or entry.split)] or paths
            if len(paths) > 1 and (columns.are_labeled or columns.group or columns.split):
                what = f"{entry.path} may be {' or '.join(paths[:3])}"
                fix = "name files with their folder, or, if folders are classes, add --layout classes"
                raise DataError(what, where=table.place(row), fix=fix)
            if len(paths) == 1:
                self._keep(replace(entry, path=paths[0]), source.path, table.place(row))
            elif not paths:
                missing.append(entry.path)

    def _keep(self, entry: Entry, table: str, place: str) -> None:
        known, first = self._entries.get(entry.path), self._tables.setdefault(entry.path, table)
        if known is None:
            self._entries[entry.path] = entry
            return
        for kind in ("label", "split") if known.label and entry.label else ():
            one, other = getattr(known, kind), getattr(entry, kind)
            if one and other and one != other:
                what = f"{entry.path} is named twice, with {kind} {one} and {other}"
                fix = "keep one line per file"
                if first != table:
                    fix = f"add --layout {shlex.quote(first)} or --layout {shlex.quote(table)} to use one table alone"
                raise DataError(what, where=place, fix=fix)
        labeled, other_entry = (known, entry) if known.label else (entry, known)
        split = labeled.split or (other_entry.split if not labeled.label or other_entry.label else None)
        group = labeled.group or other_entry.group
        self._entries[entry.path] = replace(labeled, split=split, group=group)

    def reading(self, base: Folder) -> Reading:
        """The entries, with the images of `test/` and `unlabeled/` of which no table gives a label.

        Raises:
            DataError: The tables name no image that is there, or only some lines name a split.
        """
        if not self.labels:
            self._refuse_all_missing()
        for path, names in self._missing.items():
            if names:
                self._account.add(f"images that {path} names and that are missing", names)
        entries = [entry for entry in self._entries.values() if entry.label or entry.split]
        entries = self._with_train(self._with_folder_splits(entries))
        entries += self._unlabeled(base, {entry.path for entry in entries})
        _require_splits_in_all(entries, self._root)
        return Reading(entries, self._classes, "; ".join(self._described), self._account, _UNNAMED)

    def _refuse_all_missing(self) -> None:
        path, names = next(((path, names) for path, names in self._missing.items() if names), ("", []))
        what = f"none of the {len(names)} images that {path} names are here: {listed(names)}"
        raise DataError(what, where=self._root, fix="put the images beside the table, or correct their names in it")

    def _with_folder_splits(self, entries: list[Entry]) -> list[Entry]:
        """The split by folder, where neither the tables nor their names tell it."""
        if any(entry.split for entry in entries):
            return entries
        splits = [folder_split(entry.path) for entry in entries]
        if not set(splits) <= set(SPLITS):
            return entries
        return [replace(entry, split=split) for entry, split in zip(entries, splits, strict=True)]

    def _with_train(self, entries: list[Entry]) -> list[Entry]:
        """Train for what a table without a split names beside `test.csv` and the like."""
        splits = {entry.split for entry in entries}
        if self._has_split_column or None not in splits or "train" in splits or not splits & set(SPLITS):
            return entries
        self._described.append("train is what only a table without a split names")
        return [entry if entry.split else replace(entry, split="train") for entry in entries]

    def _unlabeled(self, base: Folder, named: set[str]) -> Iterator[Entry]:
        """The images of folders such as test/ and unlabeled/ of which the tables label none."""
        folders = base.filled()
        splits = splits_among(folder.name for folder in folders)
        for folder in folders:
            paths = set(folder.all_images())
            if splits.get(folder.name) in ("test", "unlabeled") and not paths & named:
                self._account.add(UNLABELED_SPLIT, paths if splits[folder.name] == "test" else ())
                yield from (Entry(path, "", "unlabeled") for path in paths)


def _entries(table: Table, columns: Columns, split: Split | None) -> Iterator[Entry]:
    """One entry per row; the path is what the table calls the file."""
    files = table.column(columns.file)
    labels = [""] * len(files)
    if columns.one_hot:
        labels = one_hot_labels(table, columns)
    elif columns.label:
        labels = [plain_label(text) for text in table.column(columns.label)]
        require_single_labels(table, columns, labels)
    splits = table.column(columns.split) if columns.split else [""] * len(files)
    groups = table.column(columns.group) if columns.group else [""] * len(files)
    for row, (file, label) in enumerate(zip(files, labels, strict=True)):
        own = split_named(splits[row]) if splits[row] else None if columns.split else split
        if splits[row] and own is None:
            what = f"there is no split '{splits[row]}'"
            raise DataError(what, where=table.place(row), fix="use train, val or test, or remove the column")
        if not file:
            raise DataError("the name of the file is empty", where=table.place(row), fix="fill it in")
        known = "" if own == "unlabeled" else label
        if not known and columns.are_labeled and own not in ("test", "unlabeled"):
            raise DataError("the label is empty", where=table.place(row), fix="fill it in, or remove the line")
        held_out = own in ("val", "test", "unlabeled")
        yield Entry(file, known, own if known else "unlabeled" if held_out else None, groups[row] or None)


def _require_splits_in_all(entries: Sequence[Entry], root: Path) -> None:
    splits = Counter(entry.split for entry in entries if entry.split != "unlabeled")
    if None in splits and len(splits) > 1:
        named = sum(splits.values()) - splits[None]
        what = f"some lines name a split and others don't: {named} do, {splits[None]} don't"
        raise DataError(what, where=root, fix="fill the column, or remove it")
