"""A further folder of unlabeled images, which the user names: every image in it, whatever its folder is called."""

from __future__ import annotations

from pathlib import Path

from diffaug.data.layouts.entries import Entry, Further, listed
from diffaug.data.layouts.masks import set_aside_mask_folders, set_aside_masks_by_name
from diffaug.data.layouts.walk import Account, Folder, Walk, path_from
from diffaug.errors import DataError

FLAG = "--unlabeled"


def read_further(root: Path, folder: str | None) -> Further:
    """Reads a folder of unlabeled images at any depth; nothing, if none is named.

    Raises:
        UsageError: There is no such folder, or it holds the data folder.
        DataError: No image is in it.
    """
    if folder is None:
        return Further()
    prefix = path_from(root, Path(folder), FLAG, "unlabeled images")
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


def _ignored(tree: Folder) -> str:
    """What is said of folders that might have been labels."""
    names = {folder.name for folder in tree.walk() if folder.path and folder.images}
    return f" (its folders, {listed(names)}, are not read as labels)" if names else ""
