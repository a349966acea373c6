"""A further folder of unlabeled images, which the user names: every image in it, whatever its folder is called."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from diffaug.data.layouts.entries import Entry, Further, listed
from diffaug.data.layouts.masks import set_aside_mask_folders, set_aside_masks_by_name
from diffaug.data.layouts.walk import Account, Folder, Walk
from diffaug.errors import DataError, UsageError

FLAG = "--unlabeled"


def read_further(root: Path, folder: str | None) -> Further:
    """Reads a folder of unlabeled images at any depth; nothing, if none is named.

    Raises:
        UsageError: There is no such folder, or it holds the data folder.
        DataError: No image is in it.
    """
    if folder is None:
        return Further()
    prefix = _relative(Path(folder), root)
    account = Account()
    tree = Walk(Path(folder), account).tree()
    others = {inner.below(name) for inner in tree.walk() for name in inner.others}
    set_aside_mask_folders(tree, Path(folder), account)
    set_aside_masks_by_name(tree, Path(folder), account)
    paths = list(tree.all_images())
    if not paths:
        fix = f"give a folder of images, or leave {FLAG} out"
        raise DataError("there are no images in the folder of unlabeled images", where=folder, fix=fix)
    account.add("files beside the unlabeled images that are not images, not read", others)
    return Further(
        entries=tuple(Entry(f"{prefix}/{path}", "", "unlabeled") for path in paths),
        inside=None if prefix.startswith("..") else prefix,
        reading=f"{len(paths)} unlabeled images from {prefix}/{_ignored(tree)}",
        remarks=tuple(account.sentences()),
    )


def _relative(folder: Path, root: Path) -> str:
    """The path of the folder relative to the root, with forward slashes."""
    if not folder.is_dir():
        what = "this is a file, not a folder" if folder.exists() else "there is no such folder"
        raise UsageError(f"{FLAG}: {what}", where=folder, fix="give the folder that holds the unlabeled images")
    real, inside = Path(os.path.realpath(folder)), Path(os.path.realpath(root))
    if inside.is_relative_to(real):
        fix = "move the unlabeled images into a folder of their own"
        raise UsageError("the folder of unlabeled images holds the labeled ones, too", where=folder, fix=fix)
    try:
        return PurePath(os.path.relpath(real, inside)).as_posix()
    except ValueError as error:  # another drive of Windows
        fix = "copy the unlabeled images to the drive of the labeled ones"
        raise UsageError("unlabeled and labeled images lie on different drives", where=folder, fix=fix) from error


def _ignored(tree: Folder) -> str:
    """What is said of folders that might have been labels."""
    names = {folder.name for folder in tree.walk() if folder.path and folder.images}
    return f" (its folders, {listed(names)}, are not read as labels)" if names else ""
