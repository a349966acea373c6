"""What a person should know about a data set before training on it, in plain sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from diffaug.configuration.settings import DataSettings
from diffaug.data.layouts.entries import PAGE, SPLITS, listed, tally
from diffaug.data.leaks import Leak
from diffaug.data.splits import images_needed
from diffaug.decoding.formats.recognition import READ
from diffaug.decoding.result import DecodeStatus
from diffaug.errors import DataError

FEW_TRAINING_IMAGES = 8  # below it a generator mostly repeats what it was shown
MANY_ALIKE = 8  # images of one picture; a series of one object is mostly shorter


@dataclass(frozen=True)
class Refusal:
    """Why a generator can't be trained on the images, in the words of a DataError."""

    what: str
    where: str | None
    fix: str | None

    def error(self, results: Mapping[str, Any] | None = None) -> DataError:
        """What to raise, with what was found all the same."""
        error = DataError(self.what, where=self.where, fix=self.fix)
        error.results = results
        return error


_MEANING: dict[DecodeStatus, str] = {
    "not an image": f"that are not {READ} images",
    "unsupported format": "of a format that is not read",
    "truncated": "that are cut short or damaged",
    "too large": "that are too large",
    "too small": "that are too small",
    "unsupported mode": "whose values can't be shown",
    "unreadable": "that cannot be read from the disk",
}
_EXPLAINED: tuple[DecodeStatus, ...] = ("unsupported format", "unsupported mode")  # whose notes say what to do


def split_counts(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Images in use, classes x splits."""
    used = table[table["split"] != ""]
    counts = pd.crosstab(used["label"], used["split"])
    return counts.reindex(index=list(classes), columns=list(SPLITS), fill_value=0)


def find_problems(table: pd.DataFrame, classes: Sequence[str], leaks: Sequence[Leak]) -> list[str]:
    """Sentences on the `table` of a catalog and the `leaks` between its splits."""
    ok = table[table["status"] == "ok"]
    counts = split_counts(table, classes)
    few = [f"{name} {count}" for name, count in counts["train"].items() if count < FEW_TRAINING_IMAGES]
    untested = [str(name) for name, count in counts["test"].items() if not count]
    repeated, unlabeled = ok.duplicated(["label", "pixel_sha256"]), ok["label"] == ""
    return [
        *_unusable(table),
        *_noted(ok),
        *tally("files that repeat the pixels of another one of their class", ok["path"][repeated]),
        *_near_duplicates(ok),
        *_of_one_picture(ok[~unlabeled]),
        *_of_same_pixels(ok[~unlabeled]),
        *_conflicts(ok[~unlabeled]),
        *_left_out(ok),
        *_leaks(leaks),
        *_crossing_groups(ok),
        *tally(f"classes with under {FEW_TRAINING_IMAGES} training images, which a generator may copy", few),
        *tally(
            "classes without a test image, which prevents an evaluation (add some, or remove the class)",
            untested,
        ),
    ]


def require_two_classes(classes: Sequence[str], root: Path, reading: str) -> None:
    """Raises DataError when there is nothing to tell apart."""
    if len(classes) < 2:
        fix = "give the folder that holds the folders of all classes"
        raise DataError(f"there is only one class: {listed(classes)} ({reading})", where=root, fix=fix)


def require_images(table: pd.DataFrame, root: Path) -> None:
    """Raises DataError when no file could be decoded."""
    if (table["status"] == "ok").any():
        return
    no_image = table["status"].isin(["not an image", "unsupported format"]).all()
    fix = f"give {READ} files" if no_image else "save the files anew without these faults, or give others"
    raise DataError(f"no image can be used: {'; '.join(_unusable(table))}", where=root, fix=fix)


def require_training_images(
    table: pd.DataFrame, classes: Sequence[str], settings: DataSettings, *, test_was_given: bool, root: Path
) -> None:
    """Raises DataError, naming the classes, when some have too few training images."""
    counts = split_counts(table, classes)
    train = counts["train"]
    short = train[train < settings.min_train_images]
    if short.empty:
        return
    others = [f"{total} in {split}" for split in ("val", "test") if (total := int(counts[split].sum()))]
    if not train.any() and others:
        fix = "name the split of the images to train on 'train'; where no split is given, diffaug makes one for testing"
        raise DataError(f"no image is in the split 'train': {', '.join(others)}", where=root, fix=fix)
    needed = f"each class needs {settings.min_train_images} for training"
    if not test_was_given:
        total = images_needed(settings.min_train_images, settings.test_fraction)
        needed += f", that is {total} images in all with {settings.test_fraction:.0%} held out for testing"
    removal = "" if len(classes) - len(short) < 2 else ", or remove the class"
    unusable = _unusable(table[table["label"].isin(short.index)])
    hint = f" ({'; '.join(unusable)})" if unusable else ""
    held = {} if test_was_given else dict(counts["test"])
    beside = {name: f" beside {held[name]} held out" if held.get(name) else "" for name in short.index}
    what = f"too few training images: {', '.join(f'{name} has {n}{beside[name]}' for name, n in short.items())}{hint}"
    raise DataError(what, where=root, fix=f"{needed}; add images{removal}")


def _unusable(table: pd.DataFrame) -> list[str]:
    sentences = []
    for status, meaning in _MEANING.items():
        rows = table[table["status"] == status]
        if status in _EXPLAINED:
            for note, paths in rows.groupby("note")["path"]:
                sentences += tally(f"files {meaning} ({note})", paths)
        else:
            sentences += tally(f"files {meaning}", rows["path"])
    return sentences


def _noted(ok: pd.DataFrame) -> list[str]:
    """What was done to files that are used all the same."""
    noted = ok.loc[ok["note"] != "", ["path", "note"]]
    notes = noted.set_index("path")["note"].str.split("; ").explode()
    first = notes.index[notes.str.startswith("first of ")]
    all_are_read = ok["path"].str.contains(PAGE, regex=False).any()
    others = notes[~notes.str.startswith("first of ")]
    what = "files of several pages, of which the first is read (data.pages=all reads each)"
    return [
        *tally(what, () if all_are_read else first),
        *(line for note, files in others.groupby(others) for line in tally(f"files of which {note}", files.index)),
    ]


def _left_out(ok: pd.DataFrame) -> list[str]:
    """Unlabeled images that are not used, by reason."""
    unused = ok[ok["left_out"] != ""]
    return [
        line
        for reason, paths in unused.groupby("left_out")["path"]
        for line in tally(f"unlabeled images left out because {reason}", paths)
    ]


def _near_duplicates(ok: pd.DataFrame) -> list[str]:
    again = (ok["picture"] != "") & (ok["picture"] != ok["path"]) & ~ok.duplicated("pixel_sha256")
    what = "files that show nearly the same picture as another one, which stay together in splits that are made"
    return tally(what, ok["path"][again])


def _of_one_picture(ok: pd.DataFrame) -> list[str]:
    """Classes that can hardly be split, since most of their images count as one picture."""
    total = ok["label"].value_counts()
    largest = ok[ok["picture"] != ""].groupby("label")["picture"].agg(lambda shown: shown.value_counts().max())
    pairs = zip(largest.index, largest, total[largest.index], strict=True)
    names = [f"{name} {alike} of {count}" for name, alike, count in pairs if alike >= max(MANY_ALIKE, count / 2)]
    what = "classes of which most images show nearly the same picture and are not split"
    return tally(f"{what} (--set data.near_duplicates=false, if what differs is what matters)", names)


def _of_same_pixels(ok: pd.DataFrame) -> list[str]:
    """Classes that can't be split, since all of their images are the same."""
    different = ok.groupby("label")["pixel_sha256"].agg(["size", "nunique"])
    same = different[(different["nunique"] == 1) & (different["size"] > 1)]
    what = "classes of which all images have the same pixels, so that none can be held out; add images that differ"
    return tally(what, map(str, same.index))


def _leaks(leaks: Sequence[Leak]) -> list[str]:
    near = {f"{leak.test_id} = {leak.seen_id}" for leak in leaks if leak.how != "same group"}
    what = "test images that show what a training image shows, which an evaluation refuses without --drop-leaked"
    return tally(what, near)


def _conflicts(ok: pd.DataFrame) -> list[str]:
    picture = ok["picture"].where(ok["picture"] != "", ok["pixel_sha256"])
    again = picture.duplicated(keep=False)
    ok, picture = ok.loc[again, ["path", "label"]], picture[again]
    labels = ok.groupby(picture)["label"].transform("nunique")
    one_each = ok.assign(picture=picture)[labels > 1].drop_duplicates(["picture", "label"])
    same = one_each.groupby("picture")["path"]
    return tally("pictures that have two labels", [" = ".join(paths) for _, paths in same])


def _crossing_groups(ok: pd.DataFrame) -> list[str]:
    used = ok[(ok["split"] != "") & (ok["group"] != "")]
    splits = used.groupby("group")["split"].nunique()
    return tally("groups in more than one of the given splits (leakage)", map(str, splits[splits > 1].index))
