"""Matches the classes of a dataset and a pool."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from diffaug.data.labels import SHOWN, Label, integers_are_clear, match_name
from diffaug.data.layouts.entries import listed
from diffaug.errors import UsageError
from diffaug.synthesis.pool.pool import Pool


def match_classes(
    labels: Sequence[Label], dataset_classes: Mapping[str, int] | None, pool: Pool
) -> tuple[dict[str, int], list[int]]:
    """Class name to index for dataset and pool together, and the index of each pool class.

    The dataset may have classes that the pool lacks. A class of the pool that has images must be one of the dataset.
    """
    class_to_idx = dict(_numbering(labels, dataset_classes, pool) or {})
    if class_to_idx and dataset_classes is None:
        class_to_idx = _with_further(class_to_idx, labels, pool)
    if class_to_idx:
        _require_known(labels, class_to_idx)
    counts, known = pool.counts_by_name, list(class_to_idx)
    names = {name: match_name(name, known) for name in pool.classes}
    if any(name is None and counts[of_pool] for of_pool, name in names.items()) or not any(names.values()):
        found = known if dataset_classes is not None else list(map(str, dict.fromkeys(labels)))
        what = f"the classes of dataset and pool differ: {listed(found, shown=SHOWN)}; the pool has "
        what += listed(pool.classes, shown=SHOWN)
        fix = "use a pool that was generated from this dataset's training images"
        if dataset_classes is None:
            fix += "; if it was, pass labels=, those that the items have"
        raise UsageError(what, fix=fix)
    return class_to_idx, [-1 if name is None else class_to_idx[name] for name in names.values()]


def _with_further(class_to_idx: dict[str, int], labels: Sequence[Label], pool: Pool) -> dict[str, int]:
    """Also the classes of a dataset without class names of which the pool, made for some of its classes, has none."""
    further = sorted(set(labels) - {*class_to_idx, *class_to_idx.values()}, key=lambda label: (str(type(label)), label))
    if len(further) == len(set(labels)) or pool.dataset_class_to_idx is not None:
        return class_to_idx
    after = max(class_to_idx.values()) + 1
    return class_to_idx | {str(one): one if isinstance(one, int) else after + k for k, one in enumerate(further)}


def fits_pool(labels: Sequence[Label], pool: Pool) -> bool:
    """Whether these labels of a dataset without class names can be those of the pool's classes."""
    with suppress(UsageError):
        numbering = _numbering(labels, None, pool) or {}
        return set(labels) <= {*numbering, *numbering.values()}
    return False


def _require_known(labels: Sequence[Label], class_to_idx: Mapping[str, int]) -> None:
    unknown = set(labels) - {*class_to_idx, *class_to_idx.values()}
    if unknown:
        what = f"label {min(unknown, key=str)!r} of the dataset is none of its classes: {dict(class_to_idx)}"
        raise UsageError(what, fix="pass classes=, the names in the order of the labels, or correct labels=")


def _numbering(
    labels: Sequence[Label], dataset_classes: Mapping[str, int] | None, pool: Pool
) -> Mapping[str, int] | None:
    """Class name to label: of the dataset, or of the one that the pool was made from; else by names or numbers."""
    if dataset_classes is not None:
        return dataset_classes
    if isinstance(labels[0], str):
        return pool.class_to_idx
    if pool.dataset_class_to_idx is not None:
        return pool.dataset_class_to_idx
    numbers = {name: int(name) for name in pool.classes if name.isascii() and name.isdecimal()}
    if len(set(numbers.values())) == len(pool.classes):
        if not integers_are_clear(pool.classes) and set(labels) <= {*range(len(pool.classes))}:
            what = f"whether label {labels[0]} is the class '{labels[0]}' or a position in a list of them is unknown"
            by_text = f"classes={sorted(pool.classes)} if they come from an ImageFolder"
            fix = f"pass classes=range({max(numbers.values()) + 1}) if labels are the numbers themselves, {by_text}"
            raise UsageError(what, fix=fix)
        return numbers
    if max(map(int, labels)) + 1 != len(pool.classes):
        return None
    what = f"the dataset's labels are numbers, but the pool's classes are named {listed(pool.classes, shown=SHOWN)}"
    raise UsageError(what, fix=f"pass the names in the order of the numbers, such as classes={tuple(pool.classes)}")
