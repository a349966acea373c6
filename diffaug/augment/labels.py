"""Labels and class names of labeled datasets, also through Subset and ConcatDataset."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from diffaug.augment.foreign import LEAVE_OUT, errors_named, item_of
from diffaug.data.labels import Label, UnknownLabelError, is_integer, plain_label
from diffaug.errors import DataError, UsageError

LABEL_ATTRIBUTES = ("targets", "labels", "_labels")  # the names torchvision's datasets use
SAMPLE_ATTRIBUTES = ("samples", "imgs", "_samples")
LABEL_KEYS = ("label", "labels", "target")
Columns = tuple[str | None, str | None]
"""Names of the columns of image and label."""
NAME_ATTRIBUTES = ("classes", "class_names", "idx_to_class")
FEW_ITEMS = 20  # of fewer items, each may have a class of its own
_ATTRIBUTES = "correct its attributes, or wrap it in a dataset that only has __len__ and __getitem__"


def get_targets(dataset: Any, labels: Sequence[Any] | None = None) -> list[Label]:
    """The label of every item, without reading images if the dataset stores its labels.

    Args:
        dataset: A map-style dataset: torchvision's, `TensorDataset`, `AugmentedDataset`, one of Hugging Face, or
            `Subset` and `ConcatDataset` of those, to any depth. Any other is read item by item, with a warning.
        labels: The labels, one per item, if the caller knows them.

    Returns:
        Class indices or class names, before the dataset's own `target_transform`; one-hot labels as indices.

    Raises:
        UsageError: `labels` is not one label per item, or this is no map-style dataset.
        DataError: An item has no single class label.
    """
    require_map_style(dataset)
    if labels is not None:
        given = _one_label_per_item(labels, len(dataset))
        if given is None:
            raise UsageError(f"labels= must be one class index or name for each of the {len(dataset)} items")
        return checked_labels(given)
    stored = stored_targets(dataset)
    if stored is None:
        warnings.warn(
            f"{type(dataset).__name__} has no attribute with its labels, so every item is read; pass labels= to avoid "
            "this",
            stacklevel=2,
        )
        column = columns_of(dataset)[1]
        stored = [label_of(item_of(dataset, index), index, column) for index in range(len(dataset))]
    return checked_labels(stored, named=get_class_to_idx(dataset) is not None)


@errors_named("the labels that the dataset stores can't be read", _ATTRIBUTES)
def stored_targets(dataset: Any) -> list[Label] | None:
    """The labels that the dataset, or those it wraps, store beside the items; None if there are none."""
    usable = (_one_label_per_item(candidate, len(dataset)) for candidate in _label_candidates(dataset))
    found = next((labels for labels in usable if labels is not None), None)
    if found is None and isinstance(dataset, Subset):
        inner = stored_targets(dataset.dataset)
        return None if inner is None else [inner[int(index)] for index in dataset.indices]
    if found is None and isinstance(dataset, ConcatDataset):
        parts = [stored_targets(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else list(chain.from_iterable(filter(None, parts)))
    return found


@errors_named("the class names of the dataset can't be read", _ATTRIBUTES)
def get_class_to_idx(dataset: Any) -> dict[str, int] | None:
    """Class name to index, or None if the dataset has no plain names.

    They are found in `class_to_idx`, `classes`, `class_names`, `idx_to_class`, in a Hugging Face dataset's `features`,
    or in the `info` of MedMNIST, as a list or as a mapping in either direction.

    Raises:
        UsageError: The parts of a `ConcatDataset` differ, or class names that are numbers can't be told from labels.
    """
    own = _own_class_to_idx(dataset)
    if own is not None:
        return own
    if isinstance(dataset, Subset):
        return get_class_to_idx(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        known = [indices for part in dataset.datasets if (indices := get_class_to_idx(part)) is not None]
        if any(indices != known[0] for indices in known):
            what = f"the parts of the ConcatDataset number their classes differently: {known}"
            raise UsageError(what, fix="give the parts the same classes before joining them")
        return known[0] if known else None
    return None


def columns_of(dataset: Any) -> Columns:
    """The columns of image and label in a dataset of Hugging Face, also through Subset and ConcatDataset, else None.

    The image is the column of that type. The label is a column of classes with names, or else one of a usual name.

    Raises:
        UsageError: Several columns are labels.
    """
    while isinstance(dataset, Subset | ConcatDataset):
        dataset = dataset.dataset if isinstance(dataset, Subset) else dataset.datasets[0]
    return _own_columns(dataset)


def numbering_of(names: Sequence[Any]) -> dict[str, int]:
    """Class name to index of names in the order of their indices; a UsageError if they are not plain and distinct."""
    numbering = _name_to_index(dict(enumerate(names)), names_first=False)
    if numbering is None:
        raise UsageError(f"classes= must be distinct names, not {names!r}", fix="such as classes=('cat', 'dog')")
    return numbering


@errors_named("the dataset can't be used", "give it a length, and items by index: __len__ and __getitem__")
def require_map_style(dataset: Any) -> None:
    """Raises UsageError, with what to pass instead, if this is no dataset of labeled items that can be counted."""
    what, fix = f"{type(dataset).__name__} is no dataset of labeled images", "pass a dataset of (image, label) items"
    if isinstance(dataset, DataLoader):
        fix = "pass the dataset itself: loader.dataset"
    elif isinstance(dataset, Mapping) and dataset:
        what = f"this is a mapping of {', '.join(map(str, dataset))}, not one dataset"
        fix = f"pass one of them, such as data[{next(iter(dataset))!r}]"
    elif _is_array(dataset) or (isinstance(dataset, tuple) and len(dataset) == 2 and any(map(_is_array, dataset))):
        fix = "pass images and labels together: torch.utils.data.TensorDataset(images, labels), or a list of pairs"
    elif isinstance(dataset, IterableDataset) or (isinstance(dataset, Iterable) and not isinstance(dataset, Sized)):
        fix = "labels can only be taken from a dataset with a length: list(dataset) makes one, if it fits into memory"
    elif isinstance(dataset, Sized) and hasattr(dataset, "__getitem__") and not isinstance(dataset, str | bytes | set):
        len(dataset)  # which may raise
        return
    raise UsageError(what, fix=fix)


def label_of(item: Any, index: int, column: str | None = None) -> Label:
    """The label of an item, in its `column` if it has one; a DataError that names an item without a single class."""
    try:
        with errors_named(f"the label of item {index} of the dataset can't be read", LEAVE_OUT):
            if isinstance(item, Mapping):
                return plain_label(item[column if column in item else label_key(item)])
            fields = getattr(item, "_fields", ())
            position = next((fields.index(key) for key in LABEL_KEYS if key in fields), 1)
            return plain_label(item[position] if isinstance(item, tuple | list) and len(item) > 1 else None)
    except UnknownLabelError as error:
        raise DataError(f"item {index} of the dataset: {error.what}", fix=error.fix) from error


def label_key(item: Mapping[Any, Any]) -> str:
    """The key of the label in an item that is a mapping."""
    found = [key for key in LABEL_KEYS if key in item]
    if len(found) != 1:
        what = f"which key holds the label is unknown: {', '.join(map(str, found or item))}"
        raise UnknownLabelError(what, fix="return (image, label), or keep one of the keys label, labels and target")
    return found[0]


def checked_labels(labels: list[Label], *, named: bool = True) -> list[Label]:
    """The labels; a DataError if some mark unlabeled items, or if they can't be numbers or names of classes.

    `named` says that the dataset has class names, so that it can't be a regression, and names and numbers may mix.
    """
    unlabeled = [index for index, label in enumerate(labels) if isinstance(label, int) and label < 0]
    if unlabeled:
        what = f"{len(unlabeled)} items have negative labels, item {unlabeled[0]} has {labels[unlabeled[0]]}"
        fix = "if these are unlabeled, leave them out: torch.utils.data.Subset; classes are counted from 0"
        raise DataError(what, fix=fix)
    other = next((index for index, label in enumerate(labels) if type(label) is not type(labels[0])), None)
    if not named and other is not None:
        what = f"item 0 has the label {labels[0]!r} and item {other} has {labels[other]!r}: names and numbers are mixed"
        raise DataError(what, fix="label all items by name, or all by number")
    distinct = len(set(labels))
    if not named and len(labels) > FEW_ITEMS and distinct > len(labels) / 2:
        what = f"{len(labels)} items have {distinct} different labels, so these are no classes"
        raise DataError(what, fix="targets of a regression need bins, such as low, medium and high")
    return labels


def _is_array(thing: Any) -> bool:
    return hasattr(thing, "ndim") and hasattr(thing, "dtype")


def _label_candidates(dataset: Any) -> Iterator[Any]:
    yield from (getattr(dataset, name, None) for name in LABEL_ATTRIBUTES)
    yield from (_second_column(getattr(dataset, name, None)) for name in SAMPLE_ATTRIBUTES)
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        yield dataset.tensors[1]
    key = _own_columns(dataset)[1]
    if key is not None:  # a column of Hugging Face is read without the images, and as it was before any transform
        yield list((dataset.with_format(None) if hasattr(dataset, "with_format") else dataset)[key])


def _own_class_to_idx(dataset: Any) -> dict[str, int] | None:
    indices = getattr(dataset, "class_to_idx", None)
    if isinstance(indices, Mapping) and indices:
        return _name_to_index(indices, names_first=True)
    key, info = _own_columns(dataset)[1], getattr(dataset, "info", None)
    candidates: list[Any] = [getattr(dataset, name, None) for name in NAME_ATTRIBUTES]
    candidates += [getattr(dataset.features[key], "names", None)] if key is not None else []
    candidates += [info.get("label")] if isinstance(info, Mapping) else []
    for names in candidates:
        plain = names.tolist() if hasattr(names, "tolist") else names
        if isinstance(plain, list | tuple) and plain and all(map(is_integer, plain)):
            return _of_numbers([int(number) for number in plain], dataset)
        pairs = dict(enumerate(plain)) if isinstance(plain, list | tuple) else plain
        numbering = _name_to_index(pairs, names_first=False) if isinstance(pairs, Mapping) and pairs else None
        if numbering is not None:
            return numbering
    return None


def _name_to_index(pairs: Mapping[Any, Any], *, names_first: bool) -> dict[str, int] | None:
    """Class name to index of a mapping in either direction; None if names or indices are not plain or not distinct.

    `names_first` says which direction is meant if types do not.
    """
    kinds = {(isinstance(key, str), isinstance(value, str)) for key, value in pairs.items()}
    names_first = {(True, False)} == kinds or (names_first and {(False, True)} != kinds)
    found: dict[str, int] = {}
    try:
        for pair in pairs.items():
            name, index = map(plain_label, pair if names_first else reversed(pair))
            found[str(name)] = int(index)
    except (ValueError, UnknownLabelError):
        return None
    return found if len(set(found.values())) == len(pairs) else None  # ImageNet gives several names one index


def _of_numbers(classes: list[int], dataset: Any) -> dict[str, int] | None:
    """The numbering of classes that are numbers; None if these are the labels themselves."""
    positions, labels = range(len(classes)), set(stored_targets(dataset) or ())
    if classes == list(positions) or len(set(classes)) < len(classes):
        return None
    are_values, are_positions = labels <= set(classes), labels <= {*positions, *map(str, classes)}
    if not labels or are_values == are_positions:
        what = f"the dataset's classes are the numbers {classes}, so a label may be one of them or its position"
        by_position = {str(name): index for index, name in enumerate(classes)}
        fix = f"set its class_to_idx: {by_position} if labels are positions, else { ({str(k): k for k in classes}) }"
        raise UsageError(what, fix=fix)
    return None if are_values else {str(name): index for index, name in enumerate(classes)}


def _own_columns(dataset: Any) -> Columns:
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping):
        return None, None
    images = [key for key, feature in features.items() if type(feature).__name__ == "Image"]
    named = [key for key, feature in features.items() if getattr(feature, "names", None)]
    usual = [key for key in LABEL_KEYS if key in (named or features)]
    if len(named) > 1 and not usual:
        what = f"which column is the label is unknown: {', '.join(named)}"
        raise UsageError(what, fix=f"keep one of them: dataset.remove_columns({named[1:]})")
    label = (usual or named or [None])[0]
    return (images[0] if len(images) == 1 else None), label


def _second_column(rows: Any) -> list[Any] | None:
    try:
        return [row[1] for row in rows]
    except (TypeError, LookupError):
        return None


def _one_label_per_item(values: Any, count: int) -> list[Label] | None:
    """Plain class indices or names, or None if `values` holds something else."""
    if values is None or callable(values):
        return None
    if isinstance(values, list | tuple):
        return _plain_labels(values) if len(values) == count else None
    try:
        array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    except (TypeError, ValueError):
        return None
    if array.ndim == 2 and array.shape[0] == count and array.shape[1] > 1:
        array = _hot_positions(array)
    if array.shape == (count, 1):
        array = array[:, 0]
    if array.shape != (count,):
        return None
    if array.dtype.kind in "iub":
        return [int(value) for value in array.tolist()]
    return _plain_labels(array.tolist())


def _plain_labels(values: Iterable[Any]) -> list[Label] | None:
    try:
        return [plain_label(value) for value in values]
    except UnknownLabelError:
        return None


def _hot_positions(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The position of the only 1 of each row of zeros, int (N,); the rows themselves if they are not one-hot."""
    if rows.dtype.kind not in "iubf" or not np.isin(rows, (0, 1)).all() or (rows.sum(axis=1) != 1).any():
        return rows
    return np.asarray(rows.argmax(axis=1))
