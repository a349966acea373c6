"""Unlabeled images: those of a further folder, which are used, and how much each counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.data.domain import Describe, Shown, domain_weights
from diffaug.data.layouts.entries import Entry, Further, listed
from diffaug.data.layouts.masks import set_aside_mask_folders, set_aside_masks_by_name
from diffaug.data.layouts.walk import Account, Folder, Walk, path_from
from diffaug.data.leaks import copied_by
from diffaug.data.reading.pictures import Pixels
from diffaug.data.splits import units_of
from diffaug.errors import DataError

SHOWS_HELD_OUT = "they show a test or val image"
REPEATS = "their pixels are those of a training image or of each other"
FOREIGN = "they are unlike the labeled images"

MakeDescription = Callable[[Shown], Describe | None]
"""What tells foreign images from others, given the labeled ones; None if nothing can."""

FLAG = "--unlabeled"


def leave_out(usable: pd.DataFrame, chosen: pd.Series[bool], reason: str) -> None:
    """Takes the chosen rows out of use; the reason completes "left out because"."""
    usable.loc[chosen, ["split", "left_out"]] = "", reason


def repeated_pixels(usable: pd.DataFrame) -> pd.Series[bool]:
    """Unlabeled rows with the pixels of a training image or of an earlier unlabeled one."""
    split = usable["split"]
    in_turn = pd.concat([usable[split == "train"], usable[split == "unlabeled"]])
    repeated = in_turn.duplicated("pixel_sha256").reindex(usable.index, fill_value=False)
    return repeated & (split == "unlabeled")


def showing_held_out(order: pd.DataFrame, pixels: Pixels, unlabeled: slice, *, device: str) -> NDArray[np.int64]:
    """The unlabeled rows, by position in `order`, that are copies of a test or validation image.

    The search for near-duplicates has found most of them. This is what an evaluation checks, in the other direction: an
    image among unlabeled ones that show the same is found, too.
    """
    held = np.flatnonzero(order["split"].isin(["test", "val"]).to_numpy())
    found = copied_by(pixels[unlabeled], pixels[held], units_of(order.iloc[held]), device=device)
    return np.array([int(unlabeled.start) + position for position in sorted(found)], np.int64)


def weigh(
    describe: Describe | None, labeled: Shown, units: NDArray[np.int64], unlabeled: Shown
) -> tuple[NDArray[np.float64], str]:
    """The weight of each unlabeled image, float64 (U,) in [0, 1], and what it was measured by; empty if it was not."""
    if describe is None:
        return np.ones(len(unlabeled.pixels)), ""
    own, others = describe(labeled, unlabeled)
    return domain_weights(own, units, others, describe.limits), describe.name


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
