"""Reads folders whose labels are names of folders: class folders, perhaps inside splits or with splits inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffaug.data.layouts.entries import (
    SPLITS,
    Entry,
    Split,
    listed,
    names_documents,
    says_nothing,
    split_and_rest,
    split_named,
    splits_among,
)
from diffaug.data.layouts.reading import (
    LAYOUTS,
    UNLABELED_SPLIT,
    Reading,
    commands,
    neither_split_nor_class,
    no_split,
    past_single,
    require_no_copy,
    require_one_set,
    several_sets,
    splits_in_some,
    with_inner_classes,
    without_label,
)
from diffaug.data.layouts.walk import Account, Folder
from diffaug.errors import DataError

_REST = "images outside the folders that were read, left out"
_NO_CLASS = "folders without images, not read as classes"
_BESIDE_SPLITS = "images in folders beside the splits, left out"
_LOOSE = "images outside the class folders, skipped because they have no label"


def descent(tree: Folder) -> list[Folder]:
    """The root and the folders below it down to the one that holds the classes or splits: each is the only one."""
    found = [tree]
    while not found[-1].images:
        filled = found[-1].filled()
        if len(filled) != 1 or _is_last(filled[0]) or split_named(filled[0].name) == "unlabeled":
            break
        found.append(filled[0])
    return found


def read_labeled_by_folder(base: Folder, root: Path, layout: str) -> Reading:
    """One entry per image in a folder of classes.

    `base` is the folder of classes or splits, without masks. As "classes" each folder in it is a class; as "splits"
    folders named as splits are such; "auto" is whichever it is; as "inner" the folders in each folder are classes, and
    those of one name are one.

    Raises:
        DataError: Images have no label, or it is not clear what the folders are.
    """
    reader = _Reader(root, layout)
    reader.read(base)
    return Reading(reader.entries, reader.classes, "; ".join(reader.described), reader.account, _REST)


def _is_last(folder: Folder) -> bool:
    """Whether it has images, or only such inside one folder after the other."""
    inner = folder.filled()
    return bool(folder.images) or (len(inner) == 1 and _is_last(inner[0])) or not inner


@dataclass
class _Reader:
    root: Path
    layout: str
    entries: list[Entry] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    described: list[str] = field(default_factory=list)
    account: Account = field(default_factory=Account)

    def read(self, base: Folder) -> None:
        folders = base.filled()
        splits = {} if self.layout == "classes" else splits_among(folder.name for folder in folders)
        if self.layout == "inner" and not splits:
            base = with_inner_classes(base)
            folders = base.filled()
        folders = self._labeled(folders, splits)
        self._require_labels(base, folders)
        named = {folder.name: splits[folder.name] for folder in folders if folder.name in splits}
        if self._are_splits(base, folders, named):
            self._read_splits(base, folders, named)
        elif len(folders) == 1 and not _is_last(folders[0]) and self.layout != "classes":
            self.read(folders[0])  # `labeled` beside `unlabeled`
        elif self.layout != "inner" and self._have_splits_inside(base, folders):
            self._read_splits_inside(folders)
        elif not self._read_split_and_class_in_one_name(folders):
            if self.layout == "splits":
                raise no_split(base, self.root)
            if self.layout == "auto":
                require_one_set(base, self.root)
            self._read_classes(base, folders, None)

    # What the folders are

    def _require_labels(self, base: Folder, folders: Sequence[Folder]) -> None:
        if not folders and not base.images:
            what = f"there are no {'labeled ' if self.entries else ''}images here"
            raise DataError(what, where=self.root / base.path, fix=LAYOUTS)
        plain = all(says_nothing(folder.name) and not folder.filled() for folder in folders)
        if not folders or (plain and self.layout not in ("classes", "inner")):
            raise without_label(self.root, folders[0] if len(folders) == 1 else base, can_be_classes=len(folders) > 1)

    def _are_splits(self, base: Folder, folders: Sequence[Folder], named: dict[str, Split]) -> bool:
        """Whether the folders named as splits are splits; beside `car` and `bus`, `train` is a class."""
        if not named or self.layout == "splits":
            return bool(named)
        others = [folder for folder in folders if folder.name not in named and not names_documents(folder.name)]
        deep = [folder for folder in folders if folder.name in named and folder.filled()]
        if not others:
            return True
        has_train = "train" in named.values()
        if has_train:
            require_no_copy(base, others, sorted(named), self.root)
        if not deep and len(named) == 1:
            advice = "" if has_train else "; if it is a split, add --layout splits"
            self.described.append(f"'{next(iter(named))}' is read as a class{advice}")
            return False
        inner = {child.name for folder in deep for child in folder.filled()}
        beside = {folder.name for folder in others}
        if not has_train and deep and inner <= beside:
            return True
        can_be_splits = bool(inner) if has_train else bool(inner & beside)
        raise neither_split_nor_class(
            base, others[0].name, sorted(named), self.root, has_train=has_train, can_be_splits=can_be_splits
        )

    def _have_splits_inside(self, base: Folder, folders: Sequence[Folder]) -> bool:
        """Whether each class folder holds its splits, as in `cat/train` and `cat/test`."""
        if self.layout == "classes":
            return False
        lowest = {folder.path: past_single(folder) for folder in folders}
        inside = {path: splits_among(child.name for child in low.filled()) for path, low in lowest.items()}
        split = [folder for folder in folders if "train" in inside[folder.path].values()]
        if not split:
            return False
        if all(any(child.filled() for child in lowest[folder.path].filled()) for folder in split):
            raise several_sets(base, split, self.root)
        for folder in folders:
            low = lowest[folder.path]
            if low.images or len(inside[folder.path]) < len(low.filled()):
                raise splits_in_some(base, split[0].name, folder.name, self.root)
        return True

    # How they are read

    def _labeled(self, folders: Sequence[Folder], splits: Mapping[str, Split]) -> list[Folder]:
        """The folders that are not named as unlabeled; reads the others."""
        for folder in folders:
            if splits.get(folder.name) == "unlabeled":
                self._read_unlabeled(folder)
        return [folder for folder in folders if splits.get(folder.name) != "unlabeled"]

    def _read_classes(self, parent: Folder, folders: Sequence[Folder], split: Split | None) -> None:
        """Each of the `folders` in `parent` is a class, walked in depth; so are its empty folders."""
        names = {folder.name for folder in folders}
        names |= {folder.name for folder in parent.folders if _is_empty(folder)}
        self.account.add(_LOOSE, parent.own_images())
        self.account.add(_NO_CLASS, [inner.path for inner in parent.folders if _holds_only_others(inner)])
        for folder in folders:
            self.entries += [Entry(path, folder.name, split) for path in folder.all_images()]
        self.classes |= names
        if split is None:
            self.described.append(f"{len(names)} class folders ({listed(names)}){_within(parent)}")

    def _read_splits(self, base: Folder, folders: Sequence[Folder], named: dict[str, Split]) -> None:
        places: dict[Split, Folder] = {}
        for folder in (folder for folder in folders if folder.name in named):
            split = named[folder.name]
            if split in places:
                what = f"'{places[split].name}' and '{folder.name}' are both the {split} split"
                raise DataError(what, where=self.root / base.path, fix="merge them, or remove one")
            places[split] = with_inner_classes(_inner(folder)) if self.layout == "inner" else _inner(folder)
        others = [folder for folder in folders if folder.name not in named]
        if "train" in places:
            self._read_train(places["train"])
            self.account.add(_BESIDE_SPLITS, [path for folder in others for path in folder.all_images()])
        else:
            self._read_train_beside(base, others, places)
        self.account.add(_LOOSE, base.own_images())
        held_out = [split for split in ("val", "test") if split in places and self._read_held_out(places[split], split)]
        names = [
            f"{split}{_origin(places[split], split)}"
            for split in SPLITS
            if split in ("train", *held_out) and split in places
        ]
        described = f"{' and '.join(names)} of {len(self.classes)} class folders ({listed(self.classes)})"
        self.described.insert(0, described + _within(base))

    def _read_train(self, folder: Folder) -> None:
        if not folder.filled() or _is_plain(folder):
            raise without_label(self.root, folder)
        if self.layout == "auto":
            require_one_set(folder, self.root, flag="splits")
        folders = folder.filled()
        self._read_classes(folder, self._labeled(folders, splits_among(one.name for one in folders)), "train")

    def _read_train_beside(self, base: Folder, others: Sequence[Folder], places: dict[Split, Folder]) -> None:
        """Reads the folders that are not named as splits as the classes of train."""
        if not others:
            labeled = [folder.path for folder in places.values() if folder.filled() and not _is_plain(folder)]
            fix = f"{commands(self.root, labeled)} reads one alone" if labeled else LAYOUTS
            what = f"there is no train split beside {listed(sorted(places))}"
            raise DataError(what, where=self.root / base.path, fix=fix)
        for folder in others:
            self.entries += [Entry(path, folder.name, "train") for path in folder.all_images()]
            self.classes.add(folder.name)
        self.described.append(f"the folders beside {listed(sorted(places))} are the classes of train")

    def _read_held_out(self, folder: Folder, split: Split) -> bool:
        """Reads val or test; returns whether it has labels. Folders of other classes than train's give no label."""
        names = {inner.name for inner in folder.filled()}
        if not names or _is_plain(folder) or (len(names) == 1 and not names & self.classes):
            self._read_unlabeled(folder)
            self.account.add(UNLABELED_SPLIT, folder.all_images())
            return False
        if not {name.casefold() for name in names} & {name.casefold() for name in self.classes}:
            what = f"{folder.path} holds other classes ({listed(names)}) than train ({listed(self.classes)})"
            raise DataError(what, where=self.root / folder.path, fix="name its folders as those of train")
        self._read_classes(folder, folder.filled(), split)
        return True

    def _read_unlabeled(self, folder: Folder) -> None:
        paths = list(folder.all_images())
        self.entries += [Entry(path, "", "unlabeled") for path in paths]
        self.described.append(f"{len(paths)} unlabeled images from {folder.path}/")

    def _read_splits_inside(self, folders: Sequence[Folder]) -> None:
        for folder in folders:
            children = past_single(folder).filled()
            splits = splits_among(child.name for child in children)
            for child in children:
                split = splits[child.name]
                label = "" if split == "unlabeled" else folder.name
                self.entries += [Entry(path, label, split) for path in child.all_images()]
            self.classes.add(folder.name)
        self.described.append(f"{len(folders)} class folders ({listed(self.classes)}) with splits in each")

    def _read_split_and_class_in_one_name(self, folders: Sequence[Folder]) -> bool:
        """Reads `trainA`, `trainB`, `testA` and `testB`; returns whether the folders are named so."""
        parts = {folder.path: split_and_rest(folder.name) for folder in folders if not folder.filled()}
        train = {label for split, label in parts.values() if split == "train"}
        known = all(split and label in train for split, label in parts.values())
        splits = {split for split, _ in parts.values()}
        if self.layout == "classes" or len(parts) < len(folders) or not known or "" in train or len(splits) < 2:
            return False
        for folder in folders:
            split, label = parts[folder.path]
            self.entries += [Entry(path, label, split) for path in folder.own_images()]
            self.classes.add(label)
        self.described.append(f"folders named after split and class ({listed(self.classes)})")
        return True


def _inner(folder: Folder) -> Folder:
    """The folder in a split folder that holds the classes, as in `train/images/cat` or `train/train/cat`."""
    while not folder.images and len(folder.filled()) == 1:
        inner = folder.filled()[0]
        plain = says_nothing(inner.name) or split_named(inner.name) or inner.name.casefold() == folder.name.casefold()
        if _is_last(inner) or not plain:
            break
        folder = inner
    return folder


def _is_plain(folder: Folder) -> bool:
    """Whether all images lie in one folder named `images` or the like, so that no folder tells a label."""
    inner = folder.filled()
    return len(inner) == 1 and _is_last(inner[0]) and (says_nothing(inner[0].name) or bool(split_named(inner[0].name)))


def _is_empty(folder: Folder) -> bool:
    return not any(inner.images or inner.others for inner in folder.walk())


def _holds_only_others(folder: Folder) -> bool:
    return not folder.is_filled() and not _is_empty(folder)


def _origin(folder: Folder, split: Split) -> str:
    return "" if folder.path == split else f" ({folder.path}/)"


def _within(folder: Folder) -> str:
    return f" in {folder.path}/" if folder.path else ""
