"""Which image is for training and which for testing, so that nothing seen in training is tested on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from diffaug.runtime.seeding import derive_seed


@dataclass(frozen=True)
class Item:
    """One usable image, as splitting sees it.

    Attributes:
        path: Its identity; what happens to it does not depend on the order of the items.
        label: Its class.
        group: What must stay on one side; empty: nothing beyond the image itself.
        pixel_sha256: Items of equal pixels stay on one side too.
        picture: So do items that show nearly the same picture; empty: no other one does.
    """

    path: str
    label: str
    group: str
    pixel_sha256: str
    picture: str = ""


@dataclass(frozen=True)
class _Unit:
    """Items that are assigned as a whole."""

    name: str
    counts: Counter[str]  # images by class
    paths: tuple[str, ...]


def choose_test(items: Sequence[Item], *, test_fraction: float, seed: int) -> set[str]:
    """Paths of the items held out for testing, stratified by class.

    The items of a class are ranked by a hash of (seed, group or path) and the first ones taken, so that adding
    an image moves at most a few others. Every class keeps something to train on, and gives at least one
    image to the test unless all its images are one group.

    Args:
        items: All images that have no split yet.
        test_fraction: Share of each class to hold out, in (0, 1).
        seed: Decides the ranking.
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


def choose_holdout(items: Sequence[Item], *, fraction: float, limit: int, smallest: int, seed: int) -> set[str]:
    """Paths of the training items that a generator is not trained on, to watch it for copying.

    Taken as in `choose_test`, but only from classes that can spare some: the share is never exceeded, not even
    to keep a group whole, so a class of few or large groups may give nothing.

    Args:
        items: All training images.
        fraction: Share of each class to hold out, in [0, 1).
        limit: Largest number held out in all; the classes' shares are reduced alike.
        smallest: Smallest class that gives anything; it gives an image unless the limit reduces its share to none.
        seed: Decides the ranking.
    """
    totals = Counter(item.label for item in items)
    spared = {name: max(1, round(total * fraction)) for name, total in totals.items() if fraction and total >= smallest}
    excess = max(1.0, sum(spared.values()) / max(1, limit))
    wanted = Counter({name: int(count / excess) if limit else 0 for name, count in spared.items()})
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


def leaks(pictures: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """For each split, the pictures that must leave it since a stricter split holds them.

    Args:
        pictures: Names of pictures by split; test is stricter than val, and val than train.
    """
    seen: set[str] = set()
    result: dict[str, set[str]] = {}
    for split in ("test", "val", "train"):
        own = set(pictures.get(split, ()))
        result[split] = own & seen
        seen |= own
    return result


def _smallest_spare(groups: Sequence[_Unit], label: str, training: Counter[str]) -> _Unit | None:
    """The smallest group with `label` that can go while each of its classes keeps a training image."""
    spare = [
        group
        for group in groups
        if group.counts[label] and all(training[name] > count for name, count in group.counts.items())
    ]
    return min(spare, key=lambda group: group.counts.total(), default=None)


def _groups(items: Sequence[Item]) -> list[_Unit]:
    """Connected components of the items under 'same group', 'same pixels' and 'same picture'."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    for item in items:
        ties = {"group": item.group, "pixels": item.pixel_sha256, "picture": item.picture}
        for kind, name in ties.items():
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
