"""Walks a folder of images without decoding them: which file has which label, split, group and mask.

The folder is read as one of: class folders, perhaps inside `train/` and `test/` or with those inside; images named by
tables. Where several readings are possible, it is refused with the flag that chooses one, since a silent guess could
train on wrong labels.
"""

import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffaug.configuration.settings import NO_MASKS, DataSettings
from diffaug.data.layouts.entries import SPLITS, Entry, Further, listed, slips, sorted_classes
from diffaug.data.layouts.groups import with_groups
from diffaug.data.layouts.label_tables import (
    UNREAD,
    Images,
    LabelTable,
    find_tables,
    find_unread,
    folder_split,
    refuse_tables_of_folders,
    refuse_unread,
)
from diffaug.data.layouts.labeled_by_folder import descent, read_labeled_by_folder
from diffaug.data.layouts.labeled_by_table import TableReader
from diffaug.data.layouts.masks import (
    KEPT,
    Masks,
    boxes_among,
    masks_of_folder,
    set_aside_mask_folders,
    set_aside_masks_by_name,
)
from diffaug.data.layouts.reading import (
    FOLDERS,
    LAYOUTS,
    UNLABELED_SPLIT,
    Reading,
    chain,
    recorded_names,
    refuse_other_formats,
    visible_folders,
    with_recorded_names,
)
from diffaug.data.layouts.walk import MAY_HOLD_IMAGES, OTHER, OTHER_FORMAT, Account, Folder, Walk, path_from, suffix_of
from diffaug.errors import DataError, UsageError


@dataclass(frozen=True)
class Scan:
    """What a folder holds."""

    entries: tuple[Entry, ...]  # sorted by path
    classes: tuple[str, ...]  # as `sorted_classes` orders them; also those that have no file
    remarks: tuple[str, ...]  # what was left out and why, in sentences
    reading: str  # how the folder was read, in one sentence


def scan(root: Path, settings: DataSettings, further: Further | None = None) -> Scan:
    """Finds the labeled and unlabeled images under `root`, which may be a link to a folder, and in a further folder.

    Hidden and junk entries are ignored; class folders are walked in depth; links are followed, and those that lead back
    are found. Nothing is decoded but a few small files that may be masks.

    Raises:
        UsageError: There is no such folder, or a setting does not fit it.
        DataError: No layout fits, several do, or a table or folder contradicts itself.
    """
    if not root.is_dir():
        what = "this is a file, not a folder of images" if root.exists() else "there is no such folder"
        raise UsageError(what, where=root, fix=LAYOUTS)
    further = further or Further()
    named = _read_named_folders(root)
    if named is not None:
        return _with_further(named, further)
    account = Account()
    walk = Walk(root, account)
    tree = walk.tree()
    tree.take_out(further.inside)
    folder = settings.masks if settings.masks != NO_MASKS else None
    mask_folder = path_from(root, Path(folder), "--masks", "masks") if folder else None
    tree.take_out(mask_folder)
    images = set(tree.all_images())
    others = {folder.below(name) for folder in tree.walk() for name in folder.others}
    if not images:
        refuse_other_formats(sorted(others), root)
    masks = set_aside_mask_folders(tree, root, account)
    reading, tables = _read(tree, root, settings, masks, account)
    reading = with_recorded_names(reading, root)
    others -= (
        tables | {path for path in others if path.rpartition("/")[2] == FOLDERS} | reading.account.left_out[UNREAD]
    )
    if mask_folder:
        masks |= masks_of_folder(root, mask_folder, images, account)
    else:
        masks = boxes_among(others, images, root) | masks
    others -= set(masks.values())
    convertible = {path for path in others if suffix_of(path) in MAY_HOLD_IMAGES}
    account.add(OTHER_FORMAT, convertible)
    account.add(OTHER, others - convertible)
    for reason, paths in reading.account.left_out.items():
        account.add(reason, paths)
    entries = [*_without_twins(reading.entries, walk.twins, root, account), *further.entries]
    entries, remarks = with_groups(entries, settings.group_by)
    account.add(KEPT, [masks[entry.path] for entry in entries if entry.path in masks])
    if settings.masks != NO_MASKS:
        entries = [replace(entry, mask=masks.get(entry.path)) for entry in entries]
    left_out = {path for paths in account.left_out.values() for path in paths}
    account.add(reading.rest, images - left_out - {entry.path for entry in entries})
    _require_distinct(reading.classes, root)
    return Scan(
        entries=tuple(sorted(entries, key=lambda entry: entry.path)),
        classes=sorted_classes(reading.classes),
        remarks=(*account.sentences(), *further.remarks, *remarks, *slips(entries)),
        reading="; ".join([f"read as: {reading.described}", *filter(None, [further.reading])]),
    )


def _with_further(found: Scan, further: Further) -> Scan:
    """Images whose layout is known, and unlabeled ones of another folder."""
    entries = tuple(sorted([*found.entries, *further.entries], key=lambda entry: entry.path))
    reading = "; ".join(filter(None, (found.reading, further.reading)))
    return replace(found, entries=entries, remarks=(*found.remarks, *further.remarks), reading=reading)


def _read_named_folders(root: Path) -> Scan | None:
    """Reads class folders that diffaug wrote, whose names are in `FOLDERS`; nothing is guessed.

    None if there is no such file, or it is of other folders, as beside the splits of an export.
    """
    names = recorded_names(root)
    if not names or names.keys() != {folder.name for folder in visible_folders(root)}:
        return None
    paths = [(folder, path.name) for folder in sorted(names) for path in sorted((root / folder).iterdir())]
    entries = tuple(Entry(f"{folder}/{name}", names[folder]) for folder, name in paths if name.endswith(".png"))
    return Scan(entries, sorted_classes(names.values()), (), f"read as: class folders named by {FOLDERS}")


def _read(tree: Folder, root: Path, settings: DataSettings, masks: Masks, account: Account) -> tuple[Reading, set[str]]:
    """Reads the tree and takes the masks that their names give away out of it; also returns the paths of tables."""
    images = Images(root, tree.all_images())
    bases = {folder.path: folder for folder in [*descent(tree), *chain(tree)]}
    tables = _with_splits(find_tables(tree, bases.values(), images, settings), account)
    reader = TableReader(images, settings)
    for table in tables:
        reader.add(table)
    masks |= set_aside_masks_by_name(tree, root, account, images=reader.labels.keys())
    if any(table.columns.are_labeled for table in tables):
        reading = _read_tables(reader, tables, tree, root, settings)
    else:
        reading = _read_folders(tree, images, settings, tables)
    return _with_groups_of(reader, reading), {table.path for table in tables}


def _with_groups_of(reader: TableReader, reading: Reading) -> Reading:
    """The reading with the groups that tables give to images whose label folders give."""
    groups = {path: group for path, group in reader.groups.items() if path not in reader.labels}
    if not groups:
        return reading
    entries = [replace(entry, group=groups.get(entry.path, entry.group)) for entry in reading.entries]
    return replace(reading, entries=entries, described=f"{reading.described}; groups by a table")


def _with_splits(tables: list[LabelTable], account: Account) -> list[LabelTable]:
    """The tables without those of labels that name no split, if others are named `train` and the like."""
    labeled = [table for table in tables if table.columns.are_labeled]
    odd = [table for table in labeled if table.split is None and table.columns.split is None]
    if not any(table.split == "train" for table in labeled):
        return tables
    account.add("tables without a split beside others of a split each, not used", [table.path for table in odd])
    return [table for table in tables if table not in odd]


def _read_folders(tree: Folder, images: Images, settings: DataSettings, tables: Sequence[LabelTable]) -> Reading:
    """Reads class folders; if there are not several, and tables name the images, says what the tables lack."""
    bases, root = descent(tree), images.root
    unread = find_unread(bases, images) if settings.layout == "auto" else []
    try:
        reading = read_labeled_by_folder(bases[-1], root, settings.layout)
    except DataError:
        for table in tables:
            table.require_label(root)
        refuse_unread(unread, root)
        raise
    if len(reading.classes) < 2:
        for table in tables:
            table.require_label(root)
        refuse_unread(unread, root)
    reading.account.add(UNREAD, unread)
    if settings.layout == "auto":
        refuse_tables_of_folders(bases, reading.classes, root)
    reading.account.add("tables without a column of labels, not used for labels", [table.path for table in tables])
    return reading


def _read_tables(
    reader: TableReader, tables: Sequence[LabelTable], tree: Folder, root: Path, settings: DataSettings
) -> Reading:
    """Reads what tables name, unless they leave images out to which folders give a label.

    Raises:
        DataError: The tables leave images out, and folders and tables give other labels.
    """
    labels = reader.labels
    try:
        by_folder = read_labeled_by_folder(descent(tree)[-1], root, "auto") if settings.layout == "auto" else None
    except DataError:
        by_folder = None
    if by_folder is None or len(by_folder.classes) < 2:
        return reader.reading(descent(tree)[-1])
    others = [entry.path for entry in by_folder.entries if entry.label and entry.path not in labels]
    if not others:
        return reader.reading(descent(tree)[-1])
    merged = _with_labels_of_held_out(by_folder, reader)
    if merged:
        return merged
    paths = [table.path for table in tables if table.columns.are_labeled]
    if all(labels.get(entry.path) in (entry.label, None) for entry in by_folder.entries):
        by_folder.account.add("tables that do not name all images, not used for labels", paths)
        return by_folder
    what = f"{paths[0]} and the folders give different labels, and it does not name all images: {listed(others)}"
    flag = "splits" if any(entry.split in SPLITS for entry in by_folder.entries) else "classes"
    fix = f"add --layout {shlex.quote(paths[0])} to leave those out, or --layout {flag} to leave the table out"
    raise DataError(what, where=root, fix=fix)


def _with_labels_of_held_out(by_folder: Reading, reader: TableReader) -> Reading | None:
    """The labels of train by folder and of val or test by table; None if they don't fit together."""
    known = {entry.path for entry in by_folder.entries if entry.label}
    held_out = {path: entry for path, entry in reader.labeled.items() if path not in known}
    splits = {path: entry.split or folder_split(path) for path, entry in held_out.items()}
    fits = set(reader.labels.values()) <= by_folder.classes and set(splits.values()) <= {"val", "test"}
    if not held_out or not fits or len(held_out) < len(reader.labels):
        return None
    names = sorted({split for split in splits.values() if split})
    rest = [entry for entry in by_folder.entries if entry.path not in held_out]
    by_folder.account.left_out[UNLABELED_SPLIT] -= held_out.keys()
    entries = rest + [replace(entry, split=splits[path]) for path, entry in held_out.items()]
    return replace(
        by_folder, entries=entries, described=f"{by_folder.described}; labels of {listed(names)} from a table"
    )


def _without_twins(entries: list[Entry], twins: Iterable[tuple[str, str]], root: Path, account: Account) -> list[Entry]:
    """Drops the entries of folders that were read before under another path.

    Raises:
        DataError: The two paths give different labels or splits.
    """
    for path, first in twins:
        own = {entry.path: entry for entry in entries if entry.path.startswith(f"{path}/")}
        before = {
            entry.path.removeprefix(f"{first}/"): (entry.label, entry.split)
            for entry in entries
            if entry.path.startswith(f"{first}/") and entry.path not in own
        }
        for entry in own.values() if before else ():
            known = before.get(entry.path.removeprefix(f"{path}/"))
            if known and known != (entry.label, entry.split):
                what = f"'{path}' and '{first}' are the same folder, with different labels or splits"
                raise DataError(what, where=root, fix="remove the link")
        if before and own:
            entries = [entry for entry in entries if entry.path not in own]
            account.add("images of folders that were read before under another name, skipped", own)
    return entries


def _require_distinct(classes: Iterable[str], root: Path) -> None:
    spelling: dict[str, str] = {}
    for name in sorted(classes):
        key = " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).split())
        if key in spelling:
            what = f"two classes differ only in case, spaces or Unicode form: {spelling[key]!a} and {name!a}"
            raise DataError(what, where=root, fix="merge them, or rename one")
        spelling[key] = name
