"""How a folder was read; and, where no reading or several are possible, what is said and which flag chooses one."""

import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from diffaug.data.layouts.entries import Entry, listed, says_nothing, split_and_rest, split_named, splits_among
from diffaug.data.layouts.walk import IMAGE_SUFFIXES, Account, Folder, suffix_of
from diffaug.decoding.formats.recognition import HEAD_BYTES, unsupported
from diffaug.errors import DamagedError, DataError
from diffaug.files import storage

LAYOUTS = "give a folder that holds one folder per class, or train/ and test/ of those, or a CSV of file_name,label"
FOLDERS = "folders.json"  # maps class folders that diffaug wrote to class names
UNLABELED_SPLIT = "images of a split that gives them no labels, read as unlabeled"
_AS_CLASSES = "add --layout classes to read each folder as a class"
_MOST_SIBLINGS = 1000
_MOST_LOOKED_AT = 100  # files
_MARKED = re.compile(r".*-[0-9a-f]{8}")  # folder names that `storage.safe_names` makes
_OFFICE = {".xlsx", ".docx", ".pptx", ".ods", ".odt"}
_COPY = re.compile(r"(?:[ _-]+(?:copy|kopie|copie|copia))?(?: ?\(\d+\))?$", re.IGNORECASE)
_OF_PEOPLE = re.compile(r"(?:patient|pat|subject|subj|sub|participant|case)[_\-. ]?\d.*", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What one way of reading a folder finds."""

    entries: list[Entry]
    classes: set[str]  # also those without an entry
    described: str  # how the folder was read
    account: Account  # what was left out and why
    rest: str  # why an image is left out that is neither an entry nor in the account


def recorded_names(root: Path) -> dict[str, str]:
    """Class names by folder that diffaug wrote to `FOLDERS`; empty if there is none, or it holds something else."""
    try:
        names = storage.read_json(root / FOLDERS) if (root / FOLDERS).is_file() else {}
    except (DamagedError, OSError, RecursionError):
        return {}
    is_record = isinstance(names, dict) and all(isinstance(name, str) and name for name in names.values())
    return names if is_record and len(set(names.values())) == len(names) else {}


def with_recorded_names(reading: Reading, root: Path) -> Reading:
    """The reading with the class names of `FOLDERS`, if these are names of its classes, as in an export with splits.

    Raises:
        DataError: Folders are named by diffaug, and the file that holds the names of their classes is damaged.
    """
    names = recorded_names(root)
    if names and reading.classes <= names.keys():
        entries = [replace(entry, label=names.get(entry.label or "", entry.label)) for entry in reading.entries]
        described = f"{reading.described}; classes named by {FOLDERS}"
        return replace(reading, entries=entries, classes={names[name] for name in reading.classes}, described=described)
    marked = sorted(filter(_MARKED.fullmatch, reading.classes))
    if marked and not names and (root / FOLDERS).is_file():
        what = f"this file should hold the names of the classes in the folders {listed(marked)}, and can't be read"
        raise DataError(what, where=root / FOLDERS, fix="make it anew, or remove it to call the classes as the folders")
    return reading


def commands(root: Path, paths: Iterable[str], *, most: int = 5) -> str:
    """The commands that read one of several folders instead, `diffaug inspect A or diffaug inspect B`."""
    return " or ".join(f"diffaug inspect {shlex.quote(str(root / path))}" for path in list(paths)[:most])


def without_label(root: Path, folder: Folder, *, can_be_classes: bool = False) -> DataError:
    """The error for images of which no folder tells the label."""
    where = root / folder.path
    images = [path.rpartition("/")[2] for path in folder.all_images()]
    what = f"no folder tells the label of the images: {listed(images)}"
    return DataError(what, where=where, fix=_AS_CLASSES if can_be_classes else _guess_above(where))


def refuse_other_formats(paths: Sequence[str], root: Path) -> None:
    """Says what to do with files of other formats where there are no images.

    Raises:
        DataError: There are such files.
    """
    for path in paths[:_MOST_LOOKED_AT]:
        if suffix_of(path) in _OFFICE:
            continue  # which looks like an archive
        with suppress(OSError), (root / path).open("rb") as file:
            if advice := unsupported(file.read(HEAD_BYTES)):
                what = f"there are no images here that can be read; {path} is of another format"
                raise DataError(what, where=root, fix=advice)


def require_no_copy(base: Folder, others: Sequence[Folder], splits: Sequence[str], root: Path) -> None:
    """Refuses a second copy of the splits beside them."""
    for folder in others:
        if "train" in splits_among(child.name for child in folder.filled()).values():
            what = f"'{folder.name}', beside {listed(splits)}, holds splits itself"
            fix = f"choose one: {commands(root, [folder.path])}; or add --layout splits to leave it out"
            raise DataError(what, where=root / base.path, fix=fix)


def require_one_set(base: Folder, root: Path, *, flag: str = "classes") -> None:
    """Refuses folders of which it is not clear whether they are classes or hold them.

    These are the same classes several times, as in `color` and `grayscale`; a second copy of the classes beside them;
    folders of folders that are all named by words, as `birds/owl`, and not numbered, as `healthy/patient3`; such beside
    one that may be a split of them; and folders of people.
    """
    folders = base.filled()
    names = {folder.name for folder in folders}
    if folders and all(_OF_PEOPLE.fullmatch(folder.name) for folder in folders):
        fix = f"add --layout {flag} if they are; if not, give a CSV of file_name,label,group"
        raise DataError(f"{listed(names)} are named as people, not as classes", where=root / base.path, fix=fix)
    lowest = {folder.name: past_single(folder) for folder in folders}
    inner = {name: {child.name for child in low.filled()} for name, low in lowest.items() if not low.images}
    holders: defaultdict[str, list[str]] = defaultdict(list)
    for outer, held in inner.items():
        for name in held:
            holders[name].append(outer)
    for folder in folders:
        held = inner.get(folder.name, set())
        if len((held & names) - {folder.name}) > 1:
            raise _copy_of_classes(base, folder, root)
        shared = {name for name in held if not says_nothing(name)}
        counts = Counter(outer for name in shared for outer in holders[name])
        alike = [other for other in folders if counts[other.name] > 1] if max(counts.values(), default=0) > 1 else []
        if len(alike) > 1:
            raise _unclear_level(base, alike, f"hold folders of the same names: {listed(shared)}", root, flag)
    for folder in folders:
        original = _COPY.sub("", folder.name)
        if original != folder.name and original in names:
            fix = f"remove one of them, or add --layout {flag} if both are classes"
            raise DataError(f"'{folder.name}' may be a copy of '{original}'", where=root / base.path, fix=fix)
    words = {name for held in inner.values() for name in held if not re.search(r"\d", name) and not says_nothing(name)}
    sets = [folder for folder in folders if len(inner.get(folder.name, set()) & words) > 1]
    if len(folders) > 1 and len(sets) == len(folders):
        raise _unclear_level(base, folders, f"hold folders that may be classes: {listed(words)}", root, flag)
    split = next(
        (folder.name for folder in folders if sets and folder not in sets and split_and_rest(folder.name)[0]), ""
    )
    if split:
        raise _unclear_level(base, sets, f"may hold the classes of which '{split}' is a split", root, flag)


def past_single(folder: Folder) -> Folder:
    """The first folder from here on down that does not hold one filled folder alone; a split is not entered."""
    return chain(folder)[-1]


def chain(folder: Folder) -> list[Folder]:
    """The folder and those below it, each the only filled one, down to `past_single`."""
    found = [folder]
    while not found[-1].images and len(inner := found[-1].filled()) == 1 and not split_named(inner[0].name):
        found += inner
    return found


def with_inner_classes(base: Folder) -> Folder:
    """The folder as if the classes in its folders, as in `patient1/tumor` and `patient2/tumor`, lay in it directly."""
    outer = base.filled()
    while outer and all(not folder.images and len(folder.filled()) == 1 for folder in outer):
        outer = [folder.filled()[0] for folder in outer]
    merged: dict[str, Folder] = {}
    for folder in (inner for one in outer for inner in one.filled()):
        merged.setdefault(folder.name, Folder(folder.name, base.below(folder.name))).folders.append(folder)
    return Folder(base.name, base.path, base.images, folders=[merged[name] for name in sorted(merged)])


def several_sets(base: Folder, folders: Sequence[Folder], root: Path) -> DataError:
    """The error for folders that hold splits of classes each."""
    names = [folder.name for folder in folders]
    what = f"there are several data sets here: {listed(names)}"
    if len(names) == 1:
        what = f"'{names[0]}' holds splits of classes, and the folders beside it don't"
    return DataError(what, where=root / base.path, fix=_choices(folders, root))


def splits_in_some(base: Folder, split: str, other: str, root: Path) -> DataError:
    """The error for class folders of which only some hold splits."""
    what = f"some class folders hold splits, as {split}, and others don't, as {other}"
    fix = "sort all images into splits, or add --layout classes to read all images below each folder as one class"
    return DataError(what, where=root / base.path, fix=fix)


def neither_split_nor_class(
    base: Folder, other: str, splits: Sequence[str], root: Path, *, has_train: bool, can_be_splits: bool
) -> DataError:
    """The error for a folder of images beside splits that may be anything."""
    what = f"'{other}', beside {listed(splits)}, is not named as a split"
    aim = "leave it out" if has_train else "train on the folders that are not named as splits"
    fix = f"add --layout splits to {aim}, or {_AS_CLASSES}" if can_be_splits else _AS_CLASSES
    return DataError(what, where=root / base.path, fix=fix)


def no_split(base: Folder, root: Path) -> DataError:
    """The error for splits that were asked for and are not there."""
    what = f"no folder is named as a split: {listed([folder.name for folder in base.filled()])}"
    return DataError(what, where=root / base.path, fix=f"name one train, or {_AS_CLASSES}")


def _copy_of_classes(base: Folder, folder: Folder, root: Path) -> DataError:
    what = f"'{folder.name}' holds the classes that lie beside it a second time"
    fix = f"{_choices([folder], root)}; or move {root / folder.path} elsewhere"
    return DataError(what, where=root / base.path, fix=fix)


def _unclear_level(base: Folder, folders: Sequence[Folder], why: str, root: Path, flag: str) -> DataError:
    names = listed([folder.name for folder in folders])
    fix = f"add --layout {flag} if {names} are classes, or --layout inner if the folders in them are"
    if flag == "classes":
        fix = f"{_choices(folders, root)}; or {fix}"
    return DataError(f"{names} {why}", where=root / base.path, fix=fix)


def _choices(folders: Sequence[Folder], root: Path) -> str:
    return f"choose one: {commands(root, [folder.path for folder in folders])}"


def _guess_above(folder: Path) -> str:
    """For one class's folder given in place of the folder of all classes."""
    folder = folder.resolve()
    siblings = visible_folders(folder.parent)
    looks_like_class = 1 < len(siblings) <= _MOST_SIBLINGS and all(map(_holds_images, siblings))
    if looks_like_class and not any(split_named(sibling.name) for sibling in siblings):
        return f"if '{folder.name}' is one of the classes, give {folder.parent}"
    return LAYOUTS


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden; none if it can't be listed."""
    try:
        return [Path(item.path) for item in os.scandir(folder) if item.is_dir() and not item.name.startswith(".")]
    except OSError:  # it may be closed to the user
        return []


def _holds_images(folder: Path) -> bool:
    try:
        return any(suffix_of(item.name) in IMAGE_SUFFIXES for item in os.scandir(folder))
    except OSError:
        return False
