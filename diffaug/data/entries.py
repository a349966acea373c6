"""What a scan yields: one entry a file, before anything is decoded."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True)
class Entry:
    """One file that should be an image.

    Attributes:
        path: Relative to the root, with forward slashes.
        label: Its class.
        split: The split that the data names, if any.
        group: What must stay on one side of a split (a patient, a track), if known.
    """

    path: str
    label: str
    split: Split | None = None
    group: str | None = None


def listed(names: Iterable[str], *, shown: int = 3) -> str:
    """Names for a sentence, the first few of them: `a.png, b.png, c.png, ...`."""
    ordered = sorted(names)
    first = [name if name.isprintable() else repr(name) for name in ordered[:shown]]
    return ", ".join([*first, "..."] if len(ordered) > shown else first)


def tally(what: str, names: Collection[str]) -> list[str]:
    """One sentence, `what: 4 (a.png, b.png, c.png, ...)`; none when there are no names."""
    return [f"{what}: {len(names)} ({listed(names)})"] if len(names) else []
