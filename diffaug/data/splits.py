"""Which image is for training, for testing, or in which fold, so that no model is tested on what it was trained on."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.runtime.seeding import derive_seed, numpy_generator

FOLDS = 3
ALWAYS_TRAINED_ON = -1


@dataclass(frozen=True)
class Item:
    """One usable image; items that share a group, pixels or a picture, unless it is empty, stay on one side."""

    path: str
    label: str
    group: str
    pixel_sha256: str
    picture: str = ""


@dataclass(frozen=True)
class _Unit:  # items that are assigned as a whole
    name: str
    counts: Counter[str]  # images by class
    paths: tuple[str, ...]


def choose_test(items: Sequence[Item], *, test_fraction: float, seed: int) -> set[str]:
    """Paths of the items held out for testing, stratified by class.

    The items of a class are ranked by a hash of (seed, group or path) and the first ones taken, so that adding
    an image moves at most a few others. Every class keeps something to train on, and gives at least one
    image to the test unless all its images are one group.
    """
    groups = sorted(_groups(items), key=lambda group: (derive_seed(seed, "test split", group.name), group.name))
    totals = Counter(item.label for item in items)
    wanted = {label: held_out_count(total, test_fraction) for label, total in totals.items()}
    held: Counter[str] = Counter()
    chosen: set[str] = set()
    # Rare classes first: they have the fewest groups to choose from.
    for label in sorted(totals, key=lambda name: (totals[name], name)):
        for group in (group for group in groups if group.counts[label] and group.name not in chosen):
            if all(held[name] + count <= wanted[name] for name, count in group.counts.items()):
                chosen.add(group.name)
                held += group.counts
        if not held[label] and (spare := _smallest_spare(groups, label, totals - held)):
            chosen.add(spare.name)
            held += spare.counts
    return {path for group in groups if group.name in chosen for path in group.paths}


def choose_holdout(items: Sequence[Item], *, fraction: float, smallest: int, seed: int) -> set[str]:
    """Paths of the training items that a generator is not trained on, to watch it for copying.

    Taken as in `choose_test`, but only from classes that can spare some: the share is never exceeded, not even
    to keep a group whole, so a class of few or large groups may give nothing. Nor does one below `smallest`.
    """
    totals = Counter(item.label for item in items)
    givers = {name: total for name, total in totals.items() if fraction and total >= smallest}
    wanted = Counter({name: max(1, round(total * fraction)) for name, total in givers.items()})
    held: Counter[str] = Counter()
    chosen: set[str] = set()
    for group in sorted(_groups(items), key=lambda group: (derive_seed(seed, "holdout", group.name), group.name)):
        if all(held[name] + count <= wanted[name] for name, count in group.counts.items()):
            chosen.update(group.paths)
            held += group.counts
    return chosen


def group_names(items: Sequence[Item]) -> dict[str, str]:
    """For each path a name that all items share which belong together by group, equal pixels or the same picture."""
    return {path: group.name for group in _groups(items) for path in group.paths}


def held_out_count(total: int, test_fraction: float) -> int:
    """Images that a class of `total` gives to the test when groups don't interfere."""
    return min(max(1, round(total * test_fraction)), total - 1)


def images_needed(train_images: int, test_fraction: float) -> int:
    """Smallest class that leaves `train_images` for training once a test split is taken."""
    total = train_images
    while total - held_out_count(total, test_fraction) < train_images:
        total += 1
    return total


def assign_folds(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold whose model each image is left out of, int64 (N,); dealt from the rarest class on, groups stay whole.

    `ALWAYS_TRAINED_ON` where that would leave a class without any image: all of it is one group or in one fold.
    """
    counts = np.bincount(labels)
    fold_of: dict[int, int] = {}
    for label in sorted(np.flatnonzero(counts).tolist(), key=lambda label: (counts[label], label)):
        shuffled = numpy_generator(seed, "folds", label).permutation(np.unique(groups[labels == label]))
        for group in shuffled.tolist():
            fold_of.setdefault(group, len(fold_of) % FOLDS)
    folds = np.array([fold_of[group] for group in groups.tolist()], dtype=np.int64)
    confined = [label for label in np.flatnonzero(counts) if len(set(folds[labels == label].tolist())) == 1]
    folds[np.isin(groups, groups[np.isin(labels, confined)])] = ALWAYS_TRAINED_ON
    return folds


def leaks(pictures: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """For each split, the pictures that must leave it since a stricter split holds them: test, then val, then train."""
    seen: set[str] = set()
    result: dict[str, set[str]] = {}
    for split in ("test", "val", "train"):
        own = set(pictures.get(split, ()))
        result[split] = own & seen
        seen |= own
    return result


def _smallest_spare(groups: Sequence[_Unit], label: str, training: Counter[str]) -> _Unit | None:
    """The smallest group with `label` that can go while each of its classes keeps a training image."""
    candidates = (group for group in groups if group.counts[label])
    spare = [group for group in candidates if all(training[name] > n for name, n in group.counts.items())]
    return min(spare, key=lambda group: group.counts.total(), default=None)


def _groups(items: Sequence[Item]) -> list[_Unit]:
    """Connected components of the items under 'same group', 'same pixels' and 'same picture'."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    for item in items:
        for kind, name in (("group", item.group), ("pixels", item.pixel_sha256), ("picture", item.picture)):
            if name:
                parent[find(f"{kind} {name}")] = find(f"path {item.path}")
    members: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        members[find(f"path {item.path}")].append(item)
    return [
        _Unit(
            name=min(f"group {item.group}" if item.group else f"path {item.path}" for item in group),
            counts=Counter(item.label for item in group),
            paths=tuple(item.path for item in group),
        )
        for group in members.values()
    ]
