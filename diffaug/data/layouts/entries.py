"""The entries of a scan, and what the names of folders, tables and classes say, before anything is decoded.

Names are compared without case, separators and digits: `Train-Set`, `training_set` and `train2017` are one word.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "val", "test", "unlabeled"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")  # of labeled images
ALL_SPLITS: tuple[Split, ...] = (*SPLITS, "unlabeled")
PAGE = "#page="  # between a file and the number of a page after the first
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")

LONGEST_NAME = 60  # letters
RARE = 0.05  # images of a class whose name may be a slip of the pen, as a fraction of those of the other class
SHORTEST = 3  # letters of a name in which a slip is looked for
_SPLITS: dict[Split, str] = {
    "unlabeled": "unlabell?ed|unlab|unsup|unsupervised|unannotated|nolabels?",
    "train": "train|training|trainval|trn",
    "val": "val|valid|validation|validate|dev|development|eval|evaluation",
    "test": "test|testing|tst|holdout|heldout",
}
_ANY_SPLIT = "|".join(_SPLITS.values())
_FILLERS = "set|data|images?|imgs?|pictures?|photos?|pics?|splits?|samples?|files?|folder|dir|jpe?gs?|pngs?"
_FILLERS += "|labell?ed"
_TABLE_FILLERS = _FILLERS + "|labels?|metadata|meta|annotations?|info|list|groundtruth|gt|csv|df|table|classes"
_PLAIN = "images?|imgs?|pictures?|photos?|pics?|jpe?gs?|pngs?|tiffs?|bmps?|data|dataset|files?|frames?"
_PLAIN += "|raw|originals?|inputs?|folder|parts?|batch|chunks?"
_MASKS = "masks?|groundtruths?|gts?|segmentations?|segmentationclass|segmentationobject|segs?|labels?|annotations?"
_MASKS += "|annos?|annots?|trimaps?|contours?"
_DOCUMENTS = "docs?|documentation|documents?|figures?|figs?|assets|screenshots?|plots?|previews?|readme|notebooks?"
_DOCUMENTS += "|results?|outputs?|logs?|runs?|models?|checkpoints?|scripts?|src|code|examples?|demos?"
_OF_MASKS = "mask|annot|segmentation|groundtruth|trimap|contour"
_OF_FACES = {"no", "non", "not", "with", "without", "un", "wearing", "weared", "incorrect", "correct", "face"}
_SPLIT_NAMES = {split: re.compile(f"(?:{_FILLERS})*(?:{words})(?:{_FILLERS})*") for split, words in _SPLITS.items()}
_SPLIT_TABLES = {
    split: re.compile(f"(?:{_TABLE_FILLERS})*(?:{words})(?:{_TABLE_FILLERS})*") for split, words in _SPLITS.items()
}
_SPLIT_WORDS = {split: re.compile(f"(?:{words})(?:set|data)?") for split, words in _SPLITS.items()}
_PLAIN_NAME = re.compile(f"(?:{_PLAIN})+")
_MASK_NAME = re.compile(f"(?:{_FILLERS}|{_ANY_SPLIT}|binary)*(?:{_MASKS})+(?:{_FILLERS}|{_ANY_SPLIT})*")
_MASK_WORD = re.compile(rf"\w*?(?:{_OF_MASKS})s?")
_DOCUMENT_NAME = re.compile(f"(?:{_DOCUMENTS})(?:{_FILLERS})*")


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
    """Unlabeled images of a further folder."""

    entries: tuple[Entry, ...] = ()  # their paths are relative to the data folder, such as `../more/1.png`
    inside: str | None = None  # path of that folder relative to the data folder, if it lies inside
    reading: str = ""  # how it was read, in a few words
    remarks: tuple[str, ...] = ()  # what was left out, in sentences


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


def words(name: str) -> list[str]:
    """The words of a name in lower case, also those joined by capitals, and its numbers."""
    return re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())


def split_named(name: str) -> Split | None:
    """The split that the name of a folder, or the value in a table, stands for."""
    return _first_match(_SPLIT_NAMES, _letters(name))


def split_of_table(stem: str) -> Split | None:
    """The split that the name of a table stands for, such as `trainLabels`."""
    return _first_match(_SPLIT_TABLES, _letters(stem)) or split_and_rest(stem)[0]


def splits_among(names: Iterable[str]) -> dict[str, Split]:
    """The split of each folder that names one, where the folders lie beside each other.

    `seg_train` and `seg_test` are splits, since nothing else in their names differs; so are `train_cropped` and `test`,
    since each names another split.
    """
    names = list(names)
    found = {name: split for name in names if (split := split_named(name))}
    if len(found) < len(names) and len(names) > 1:
        parts = [split_and_rest(name) for name in names]
        splits = [split for split, _ in parts if split]
        alike = len({rest for _, rest in parts}) == 1 or len(set(splits)) == len(names)
        if len(splits) == len(names) and alike and "train" in splits:
            return dict(zip(names, splits, strict=True))
    return found


def split_and_rest(name: str) -> tuple[Split | None, str]:
    """The split that one word of a name stands for, and the other words: `trainA` is train and `a`."""
    parts = words(name)
    found = [_first_match(_SPLIT_WORDS, part) or ("unlabeled" if part == "pred" else None) for part in parts]
    if sum(split is not None for split in found) != 1:
        return None, name
    rest = " ".join(part for part, split in zip(parts, found, strict=True) if split is None)
    return next(split for split in found if split), rest


def says_nothing(name: str) -> bool:
    """Whether a folder's name says only that it holds images, such as `Imgs`."""
    return bool(_PLAIN_NAME.fullmatch(_letters(name)))


def names_masks(name: str) -> bool:
    """Whether a folder is named as one of masks."""
    is_of_masks = bool(_MASK_NAME.fullmatch(_letters(name))) or words(name)[-1:] in (["mask"], ["masks"])
    return is_of_masks and not names_faces(name)


def hints_at_masks(name: str) -> bool:
    """Whether a word of a folder's name, such as `skin_segmentations_2018`, is one of masks."""
    return any(map(_MASK_WORD.fullmatch, words(name))) and not names_faces(name)


def names_faces(name: str) -> bool:
    """Whether a folder is named as a class of faces with or without a mask, such as `no_mask`."""
    parts = set(words(name))
    return bool(parts & {"unmasked", "nomask"}) or bool(parts & {"mask", "masks", "masked"} and parts & _OF_FACES)


def names_documents(name: str) -> bool:
    """Whether a folder beside splits holds figures and the like."""
    return bool(_DOCUMENT_NAME.fullmatch(_letters(name)))


def _letters(name: str) -> str:
    """The words in one; none of a name too long to be a usual one, on which matching could take forever."""
    letters = "".join(part for part in words(name) if not part.isdigit())
    return letters if len(letters) <= LONGEST_NAME else ""


def _first_match(patterns: dict[Split, re.Pattern[str]], text: str) -> Split | None:
    return next((split for split, pattern in patterns.items() if pattern.fullmatch(text)), None)


def slips(entries: Sequence[Entry]) -> list[str]:
    """Sentences on rare classes whose name is one letter off that of a frequent class."""
    counts = Counter(entry.label for entry in entries if entry.label)
    near: defaultdict[str, list[str]] = defaultdict(list)
    for name in counts:
        for shorter in {name, *(name[:cut] + name[cut + 1 :] for cut in range(len(name)))}:
            near[shorter].append(name)
    pairs = {
        (rare, frequent)
        for names in near.values()
        for rare in names
        for frequent in names
        if counts[rare] < RARE * counts[frequent] and len(rare) >= SHORTEST and _is_one_slip(rare, frequent)
    }
    return [
        f"'{rare}' may be a typing error for '{frequent}': {counts[rare]} and {counts[frequent]} images"
        for rare, frequent in sorted(pairs)
    ]


def _is_one_slip(one: str, other: str) -> bool:
    """Whether a letter is missing, added, replaced or swapped with its neighbor; numbers are no letters."""
    start = _same_letters(one, other)
    end = _same_letters(one[start:][::-1], other[start:][::-1])
    left, right = one[start : len(one) - end], other[start : len(other) - end]
    swapped = len(left) == 2 and left == right[::-1]
    return (swapped or max(len(left), len(right)) == 1) and not re.search(r"\d", left + right)


def _same_letters(one: str, other: str) -> int:
    """Letters that two texts begin with alike."""
    differing = (number for number, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(differing, min(len(one), len(other)))
