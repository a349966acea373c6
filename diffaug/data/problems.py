"""What a person should know about a data set before training on it, in plain sentences."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffaug.configuration.settings import DataSettings
from diffaug.data.decoding.decode import DecodeStatus
from diffaug.data.layouts.entries import SPLITS, listed, tally
from diffaug.data.splits import images_needed
from diffaug.errors import DataError

MOST_COMPARED = 20_000
FEW_TRAINING_IMAGES = 8  # below it a generator mostly repeats what it was shown

_MEANING: dict[DecodeStatus, str] = {
    "not an image": "that are not PNG, JPEG, WebP, BMP or TIFF images",
    "truncated": "that are cut short or damaged",
    "too large": "that are too large",
    "too small": "that are too small",
    "unsupported mode": "whose values have no agreed black and white, such as floats",
    "unreadable": "that cannot be read from the disk",
}


def split_counts(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Images in use, classes x splits."""
    used = table[table["split"] != ""]
    counts = pd.crosstab(used["label"], used["split"])
    return counts.reindex(index=list(classes), columns=list(SPLITS), fill_value=0)


def find_problems(table: pd.DataFrame, classes: Sequence[str], settings: DataSettings) -> list[str]:
    """Sentences on the `table` of a catalog."""
    ok = table[table["status"] == "ok"]
    counts = split_counts(table, classes)
    few = [f"{name} {count}" for name, count in counts["train"].items() if count < FEW_TRAINING_IMAGES]
    untested = [str(name) for name, count in counts["test"].items() if not count]
    repeated, left_out = ok.duplicated(["label", "pixel_sha256"]), ok["split"] == ""
    return [
        *_unusable(table),
        *tally("files that repeat the pixels of another one of their class", ok["path"][repeated]),
        *_near_duplicates(ok, settings),
        *_conflicts(ok),
        *tally("files left out because the test or val split holds the same picture (leakage)", ok["path"][left_out]),
        *_crossing_groups(ok),
        *tally(f"classes with under {FEW_TRAINING_IMAGES} training images, which a generator may copy", few),
        *tally("classes without a test image, which prevents an evaluation", untested),
    ]


def require_two_classes(classes: Sequence[str], root: Path) -> None:
    """Raises DataError when there is nothing to tell apart."""
    if len(classes) < 2:
        fix = "give the folder that holds the folders of all classes"
        raise DataError(f"there is only one class: {listed(classes)}", where=root, fix=fix)


def require_images(table: pd.DataFrame, root: Path) -> None:
    """Raises DataError when no file could be decoded."""
    if not (table["status"] == "ok").any():
        fix = "give PNG, JPEG, WebP, BMP or TIFF files of at most 64 Mpx"
        raise DataError(f"no image can be used: {'; '.join(_unusable(table))}", where=root, fix=fix)


def require_training_images(
    table: pd.DataFrame, classes: Sequence[str], settings: DataSettings, *, test_was_given: bool, root: Path
) -> None:
    """Raises DataError, naming the classes, when some have too few training images."""
    train = split_counts(table, classes)["train"]
    short = train[train < settings.min_train_images]
    if short.empty:
        return
    needed = f"each class needs {settings.min_train_images} for training"
    if not test_was_given:
        total = images_needed(settings.min_train_images, settings.test_fraction)
        needed += f", that is {total} images in all with {settings.test_fraction:.0%} held out for testing"
    unusable = int(((table["status"] != "ok") & table["label"].isin(short.index)).sum())
    hint = f" ({unusable} of their files can't be used)" if unusable else ""
    what = f"too few training images: {', '.join(f'{name} has {count}' for name, count in short.items())}{hint}"
    raise DataError(what, where=root, fix=f"{needed}; add images, or remove the class")


def _unusable(table: pd.DataFrame) -> list[str]:
    groups = ((f"files {meaning}", table["path"][table["status"] == status]) for status, meaning in _MEANING.items())
    return [sentence for what, paths in groups for sentence in tally(what, paths)]


def _near_duplicates(ok: pd.DataFrame, settings: DataSettings) -> list[str]:
    if settings.near_duplicates and len(ok) > MOST_COMPARED:
        return [f"with more than {MOST_COMPARED} images, those that show nearly the same picture are not searched for"]
    again = (ok["picture"] != "") & (ok["picture"] != ok["path"]) & ~ok.duplicated("pixel_sha256")
    what = "files that show nearly the same picture as another one, and are kept on its side of a split"
    return tally(what, ok["path"][again])


def _conflicts(ok: pd.DataFrame) -> list[str]:
    picture = ok["picture"].where(ok["picture"] != "", ok["pixel_sha256"])
    labels = ok.groupby(picture)["label"].transform("nunique")
    same = ok[labels > 1].groupby(picture)["path"]
    return tally("pictures that have two labels", [" = ".join(paths) for _, paths in same])


def _crossing_groups(ok: pd.DataFrame) -> list[str]:
    used = ok[(ok["split"] != "") & (ok["group"] != "")]
    splits = used.groupby("group")["split"].nunique()
    return tally("groups in more than one of the given splits (leakage)", map(str, splits[splits > 1].index))
