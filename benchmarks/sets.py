"""The sets that benchmarks of the whole job run on, each as a folder with `train/`, `test/` and `unlabeled/`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffaug.data.demo import write_long_tailed_digits
from diffaug.runtime.seeding import numpy_generator

FLOWERS_COMMONEST, FLOWERS_RAREST, FLOWERS_TEST = 300, 15, 200
LABELED_PART, FEWEST_LABELED = 6, 3
CIFAR_UPDATES = 19_400  # 200 epochs of 12,406 images in batches of 128

Files = dict[str, list[Path]]
"""Image files by class; all unlabeled ones under an empty name."""


@dataclass(frozen=True)
class Case:
    """One set as it is used.

    Attributes:
        minutes: Most minutes of generator training; None: the default.
        settings: By dotted key; what is not named is chosen by diffaug.
    """

    source: str
    minutes: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


CASES = {
    "digits": Case("digits", 2.0),
    "fashion-lt": Case("fashion-lt"),
    "flowers": Case("flowers", settings={"data.image_size": 64}),
    "neu-lt": Case("neu-lt", settings={"data.image_size": 64}),
    "neu-lt-128": Case("neu-lt", settings={"data.image_size": 128}),
    "neu": Case("neu-lt", 20.0, {"data.image_size": 200}),
    "flowers-128": Case("flowers", 20.0, {"data.image_size": 128}),
    "cifar10-lt": Case(
        "cifar10-lt",
        20.0,
        {
            "evaluation.classifier": "resnet-32",
            "evaluation.optimizer": "sgd",
            "evaluation.horizontal_flip": True,
            "evaluation.max_steps": CIFAR_UPDATES,
        },
    ),
}


def named_case(text: str) -> tuple[str, Path | None]:
    """Reads NAME=FOLDER from a command line; `digits` needs no folder."""
    name, separator, folder = text.partition("=")
    if name not in CASES or bool(separator) == (name == "digits"):
        raise argparse.ArgumentTypeError(f"give digits, or one of {', '.join(list(CASES)[1:])} as NAME=FOLDER")
    return name, Path(folder) if separator else None


def prepare(name: str, folder: Path | None, work: Path, *, unlabeled: bool = False) -> Path:
    """Copies a set into the work folder; the test images are the same with and without unlabeled ones."""
    target = work / f"{name}{'-unlabeled' if unlabeled else ''}-images"
    source = write_long_tailed_digits(work / "digits-source") if folder is None else folder
    for split, files in _splits(CASES[name].source, source, unlabeled=unlabeled):
        for label, paths in files.items():
            (target / split / label).mkdir(parents=True, exist_ok=True)
            for path in paths:
                shutil.copyfile(
                    path, target / split / label / (path.name if label else f"{path.parent.name}-{path.name}")
                )
    return target


def _splits(source: str, folder: Path, *, unlabeled: bool) -> Iterator[tuple[str, Files]]:
    """Name and files of each split.

    Unlabeled images are the set's own (neu-lt), half of the test images (digits), those that are in no split (flowers),
    or five sixths of the training images (all others).
    """
    train, test, rest = _long_tailed(folder) if source == "flowers" else (*_given(folder), [])
    if source == "digits":  # also without unlabeled images, so that both are tested on the same ones
        test, half = _parted(test, 2, 1)
        rest = half
    elif unlabeled and (folder / "unlabelled").is_dir():
        rest = sorted(path for path in (folder / "unlabelled").rglob("*") if path.is_file())
    elif unlabeled and source != "flowers":
        train, rest = _parted(train, LABELED_PART, FEWEST_LABELED)
    yield from (("train", train), ("test", test))
    if unlabeled:
        yield "unlabeled", {"": rest}


def _given(folder: Path) -> tuple[Files, Files]:
    train, test = (
        {label.name: sorted(label.iterdir()) for label in sorted((folder / split).iterdir()) if label.is_dir()}
        for split in ("train", "test")
    )
    return train, test


def _parted(files: Files, part: int, least: int) -> tuple[Files, list[Path]]:
    """One in `part` of the files of each class, but at least `least`, and all the others."""
    kept: Files = {}
    rest: list[Path] = []
    for label, paths in files.items():
        order = numpy_generator(0, "parted", label).permutation(len(paths)).tolist()
        count = max(least, round(len(paths) / part))
        kept[label] = [paths[position] for position in order[:count]]
        rest += [paths[position] for position in order[count:]]
    return kept, rest


def _long_tailed(folder: Path) -> tuple[Files, Files, list[Path]]:
    """A long-tailed training set and a balanced test set out of class folders, and all the others."""
    train: Files = {}
    test: Files = {}
    rest: list[Path] = []
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    for position, label in enumerate(classes):
        files = sorted(path for path in label.iterdir() if path.is_file())
        order = numpy_generator(0, "gain", label.name).permutation(len(files)).tolist()
        ratio = (FLOWERS_RAREST / FLOWERS_COMMONEST) ** (position / (len(classes) - 1))
        end = FLOWERS_TEST + round(FLOWERS_COMMONEST * ratio)
        shuffled = [files[index] for index in order]
        test[label.name], train[label.name] = shuffled[:FLOWERS_TEST], shuffled[FLOWERS_TEST:end]
        rest += shuffled[end:]
    return train, test, rest
