"""The result of a scan: one entry per file, before anything is decoded."""

import re
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "val", "test", "unlabeled"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")  # of labeled images
ALL_SPLITS: tuple[Split, ...] = (*SPLITS, "unlabeled")
PAGE = "#page="  # between a file and the number of a page after the first
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file that should be an image."""

    path: str  # relative to the root, with forward slashes; `NAME#page=2` for a page after the first
    label: str  # empty for an unlabeled image
    split: Split | None = None
    group: str | None = None  # what must stay on one side of a split, such as a patient or a track
    mask: str | None = None  # path of the mask that belongs to the image, relative to the root


@dataclass(frozen=True)
class Further:
    """Unlabeled images of a further folder.

    Attributes:
        entries: Their paths are relative to the data folder, such as `../more/1.png`.
        inside: Path of that folder relative to the data folder, if it lies inside.
        reading: How it was read, in a few words.
        remarks: What was left out, in sentences.
    """

    entries: tuple[Entry, ...] = ()
    inside: str | None = None
    reading: str = ""
    remarks: tuple[str, ...] = ()


def sorted_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names in ascending order: as numbers where all are decimal numbers, else as text."""
    distinct = sorted(set(names))
    if all(map(_NUMBER.fullmatch, distinct)):
        distinct.sort(key=float)
    return tuple(distinct)


def listed(names: Iterable[str], *, shown: int = 3) -> str:
    """The first names and the number of the others, `a.png, b.png, c.png and 4 more`; a set is sorted."""
    ordered = sorted(names) if isinstance(names, Set) else list(names)
    first = ", ".join(name if name.isprintable() else repr(name) for name in ordered[:shown])
    return first + (f" and {len(ordered) - shown:,} more" if len(ordered) > shown else "")


def tally(what: str, names: Iterable[str]) -> list[str]:
    """One sentence, `what: 4 (a.png, b.png, c.png and 1 more)`, of sorted names; none if there are no names."""
    ordered = sorted(names)
    return [f"{what}: {len(ordered)} ({listed(ordered)})"] if ordered else []
