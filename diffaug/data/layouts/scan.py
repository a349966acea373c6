"""Walks a folder of labeled images without decoding anything: which file has which label, split and group.

Layouts: one folder per class; `train/`, `test/` and perhaps `val/`, each with one folder per class; a folder with one
CSV of `file_name,label[,group][,split]`. Anything else is refused, since a silent guess could train on wrong labels.
"""

import csv
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diffaug.data.layouts.entries import SPLIT_NAMES, Entry, Split, listed, tally
from diffaug.errors import DataError, UsageError

LAYOUTS = "give a folder that holds one folder per class, or train/ and test/ of those, or a CSV of file_name,label"

_JUNK = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "__pycache__", "lost+found", "$recycle.bin"}
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
_OTHER_SUFFIXES = {
    *(".csv", ".db", ".h5", ".htm", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".parquet", ".toml", ".tsv"),
    *(".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".npy", ".npz", ".pkl", ".pt", ".mat", ".ipynb", ".py", ".sh"),
    *(".doc", ".docx", ".pdf", ".rst", ".avi", ".mov", ".mp4", ".7z", ".gz", ".tar", ".zip", ".md5", ".sha256"),
}
_OTHER = "files without an image extension, skipped"


@dataclass(frozen=True)
class Scan:
    """What a folder holds."""

    entries: tuple[Entry, ...]  # sorted by path
    classes: tuple[str, ...]  # sorted; also those whose folder holds no file
    remarks: tuple[str, ...]  # what was left out and why, in sentences


def scan(root: Path) -> Scan:
    """Finds the labeled files under `root`, which may be a link to a folder.

    Hidden and junk entries are ignored; links to folders are not followed; class folders are walked in depth.
    """
    if not root.is_dir():
        what = "this is a file, not a folder of images" if root.exists() else "there is no such folder"
        raise UsageError(what, where=root, fix=LAYOUTS)
    walk = _Walk(root)
    folders, files = walk.listing(root)
    tables = [name for name in files if name.lower().endswith(".csv")]
    if len(tables) == 1:
        entries, classes = _from_label_csv(root / tables[0])
    elif _has_split_folders(root, folders):
        entries, classes = _from_split_folders(walk, folders)
    else:
        entries, classes = _from_class_folders(walk, root, None)
    _require_distinct(classes, root)
    remarks = tuple(sentence for reason, paths in walk.left_out.items() for sentence in tally(reason, paths))
    return Scan(tuple(sorted(entries, key=lambda entry: entry.path)), tuple(sorted(classes)), remarks)


class _Walk:
    """Lists folders below a root and keeps account of what it leaves out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: defaultdict[str, set[str]] = defaultdict(set)

    def listing(self, folder: Path) -> tuple[list[str], list[str]]:
        """Sorted names of the folders and of the files in `folder`."""
        folders, files = [], []
        try:
            found = sorted(os.scandir(folder), key=lambda item: item.name)
        except OSError as error:
            what = f"can't list the folder: {error.strerror}"
            raise DataError(what, where=folder, fix="check its permissions") from error
        for item in found:
            if item.name.startswith(".") or item.name.casefold() in _JUNK:
                continue
            if any("\ud800" <= letter <= "\udfff" for letter in item.name):  # these stand for undecodable bytes
                self.leave_out("files and folders whose names are not valid UTF-8, skipped", [Path(item.path)])
            elif item.is_dir(follow_symlinks=False):
                folders.append(item.name)
            elif item.is_file():
                files.append(item.name)
            else:
                self.leave_out("links to folders, broken links and special files, skipped", [Path(item.path)])
        return folders, files

    def images_below(self, folder: Path) -> Iterator[str]:
        """Relative paths of what may be an image in `folder` at any depth."""
        folders, files = self.listing(folder)
        for name in files:
            if _may_be_image(name):
                yield self.relative(folder / name)
            else:
                self.leave_out(_OTHER, [folder / name])
        for name in folders:
            yield from self.images_below(folder / name)

    def leave_out(self, reason: str, paths: Iterable[Path]) -> None:
        self.left_out[reason].update(map(self.relative, paths))

    def relative(self, path: Path) -> str:
        return os.fsencode(path.relative_to(self.root).as_posix()).decode(errors="replace")


def _from_class_folders(walk: _Walk, folder: Path, split: Split | None) -> tuple[list[Entry], set[str]]:
    classes, files = walk.listing(folder)
    loose = [folder / name for name in files if Path(name).suffix.lower() in _IMAGE_SUFFIXES]
    if loose and not classes:
        what = f"the images are directly in the folder, so they have no label: {listed(path.name for path in loose)}"
        raise DataError(what, where=folder, fix=_guess_above(folder))
    walk.leave_out("images outside the class folders, skipped because they have no label", loose)
    walk.leave_out(_OTHER, {folder / name for name in files} - set(loose))
    entries = [Entry(path, label, split) for label in classes for path in walk.images_below(folder / label)]
    if not entries:
        raise DataError("there are no images here", where=folder, fix=LAYOUTS)
    if not any(_holds_images(folder / label) for label in classes):
        what = f"the images are one folder too deep: there are none directly in {listed(classes)}"
        raise DataError(what, where=folder, fix=_guess_below(folder))
    return entries, set(classes)


def _from_split_folders(walk: _Walk, folders: list[str]) -> tuple[list[Entry], set[str]]:
    taken: dict[Split, str] = {}
    entries: list[Entry] = []
    classes: set[str] = set()
    for name in folders:
        split = SPLIT_NAMES.get(name.casefold())
        if split is None:
            what = f"'{name}', beside the splits, is not one of train, val, test"
            raise DataError(what, where=walk.root, fix="move it elsewhere, or rename it if it is a split")
        if split in taken:
            what = f"'{taken[split]}' and '{name}' are both the {split} split"
            raise DataError(what, where=walk.root, fix="merge them, or remove one")
        taken[split] = name
        found, labels = _from_class_folders(walk, walk.root / name, split)
        entries += found
        classes |= labels
    return entries, classes


def _from_label_csv(path: Path) -> tuple[list[Entry], set[str]]:
    """The entries that a CSV names; whether the files exist is seen when they are decoded."""
    entries: dict[str, Entry] = {}
    for where, row in _csv_rows(path):
        entry = _csv_entry(row, where)
        if entry.path in entries:
            raise DataError(f"{entry.path} is named twice", where=where, fix="keep one line per file")
        entries[entry.path] = entry
    splits = {entry.split for entry in entries.values()}
    if not entries:
        raise DataError("the CSV names no images", where=path, fix="add one line per file")
    if None in splits and len(splits) > 1:
        raise DataError("some lines name a split and others don't", where=path, fix="fill the column, or remove it")
    return list(entries.values()), {entry.label for entry in entries.values()}


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and stripped values of every line that isn't blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            reader.fieldnames = _csv_columns(reader.fieldnames, path)
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row:
                    raise DataError("more values than columns", where=where, fix="quote values that hold a comma")
                yield where, {name: value.strip() for name, value in row.items()}
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"can't read the CSV: {error}", where=path, fix="save it as UTF-8 with commas") from error


def _csv_columns(found: object, path: Path) -> list[str]:
    columns = [str(name).strip() for name in found] if isinstance(found, list) else []
    missing = [name for name in ("file_name", "label") if name not in columns]
    if missing:
        what = f"the CSV has no column {' and no column '.join(missing)}; it has: {', '.join(columns)}"
        fix = "name the columns file_name,label[,group][,split]; where folders are the classes, move the CSV away"
        raise DataError(what, where=path, fix=fix)
    return columns


def _csv_entry(row: dict[str, str], where: str) -> Entry:
    name, label, split = row["file_name"], row["label"], row.get("split", "").casefold()
    if not name or not label:
        raise DataError(f"the {'label' if name else 'file_name'} is empty", where=where, fix="fill it in")
    file = os.path.normpath(name).replace(os.sep, "/")
    if file.startswith("/") or file.split("/")[0] == "..":
        raise DataError(f"{name} lies outside the folder", where=where, fix="name files relative to the CSV")
    if split and split not in SPLIT_NAMES:
        raise DataError(f"there is no split '{split}'", where=where, fix="use train, val or test")
    return Entry(file, label, SPLIT_NAMES.get(split), row.get("group") or None)


def _has_split_folders(root: Path, folders: list[str]) -> bool:
    """Whether `train` is a split here; beside `car` and `bus` it is a class."""
    train = next((name for name in folders if SPLIT_NAMES.get(name.casefold()) == "train"), None)
    only_splits = all(name.casefold() in SPLIT_NAMES for name in folders)
    return train is not None and (only_splits or not _holds_images(root / train))


def _holds_images(folder: Path) -> bool:
    return any(map(_may_be_image, _Walk(folder).listing(folder)[1]))


def _may_be_image(name: str) -> bool:
    return Path(name).suffix.lower() not in _OTHER_SUFFIXES


def _guess_above(folder: Path) -> str:
    """For one class's folder given in place of the folder of all classes."""
    parent = folder.resolve().parent
    try:
        siblings = [parent / name for name in _Walk(parent).listing(parent)[0]]
        looks_like_class = len(siblings) > 1 and all(map(_holds_images, siblings))
    except DataError:  # the parent may hold folders that can't be read
        looks_like_class = False
    if looks_like_class and folder.name.casefold() not in SPLIT_NAMES:
        return f"if '{folder.resolve().name}' is one of the classes, give {parent}"
    return LAYOUTS


def _guess_below(folder: Path) -> str:
    """For a folder given in place of the one inside it that holds the classes or splits."""
    inner, children = folder, _Walk(folder).listing(folder)[0]
    while len(children) == 1:
        inner = inner / children[0]
        children = _Walk(inner).listing(inner)[0]
    if inner != folder and children:
        return f"did you mean {inner}?"
    return f"put the images of each class directly into its folder, or give one of: {listed(children)}"


def _require_distinct(classes: set[str], root: Path) -> None:
    spelling: dict[str, str] = {}
    for name in sorted(classes):
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if key in spelling:
            what = f"two classes differ only in case or Unicode form: {spelling[key]!a} and {name!a}"
            raise DataError(what, where=root, fix="merge them, or rename one")
        spelling[key] = name
