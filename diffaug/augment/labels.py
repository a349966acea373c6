"""Labels, class names and paths of any labelled dataset, also through Subset and ConcatDataset."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from diffaug.errors import DataError, UsageError

LABEL_ATTRIBUTES = ("targets", "labels", "_labels")  # the names torchvision's datasets use
SAMPLE_ATTRIBUTES = ("samples", "imgs", "_samples")
PATH_ATTRIBUTES = ("_image_files",)
LABEL_KEYS = ("label", "labels", "target")

Label = int | str
T = TypeVar("T")


def get_targets(dataset: Any, labels: Sequence[Any] | None = None) -> list[Label]:
    """The label of every item, without reading images where the dataset keeps its labels.

    Args:
        dataset: A map-style dataset: torchvision's, `TensorDataset`, `AugmentedDataset`, or `Subset` and
            `ConcatDataset` of those, to any depth. Any other is read item by item, with a warning.
        labels: The labels, one an item, where the caller knows them.

    Returns:
        N class indices or class names, before the dataset's own `target_transform`.

    Raises:
        UsageError: `labels` is not one label an item, or the dataset has no length.
        DataError: Items read one by one hold no single class label.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise UsageError("labels can only be taken from a dataset with a length", where=type(dataset).__name__)
    if labels is not None:
        given = _one_label_an_item(labels, len(dataset))
        if given is None:
            raise UsageError(f"labels= must hold one class index or name for each of the {len(dataset)} items")
        return given
    stored = stored_targets(dataset)
    if stored is not None:
        return stored
    warnings.warn(
        f"{type(dataset).__name__} shows no labels, so every item is read to find them; pass labels= to avoid this",
        stacklevel=2,
    )
    return _read_labels(dataset)


def stored_targets(dataset: Any) -> list[Label] | None:
    """The labels that the dataset keeps beside its items, or None where it keeps none."""
    return _through_wrappers(dataset, _own_targets)


def get_classes(dataset: Any) -> tuple[str, ...] | None:
    """Class names in the order of their indices, or None where the dataset has no plain names.

    Raises:
        UsageError: The parts of a `ConcatDataset` number their classes differently.
    """
    indices = get_class_to_idx(dataset)
    return None if indices is None else tuple(sorted(indices, key=indices.__getitem__))


def get_class_to_idx(dataset: Any) -> dict[str, int] | None:
    """Class name to index, or None where the dataset has no plain names.

    Raises:
        UsageError: The parts of a `ConcatDataset` number their classes differently.
    """
    own = _own_class_to_idx(dataset)
    if own is not None:
        return own
    if isinstance(dataset, Subset):
        return get_class_to_idx(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        known = [indices for part in dataset.datasets if (indices := get_class_to_idx(part)) is not None]
        if any(indices != known[0] for indices in known):
            raise UsageError(
                f"the parts of the ConcatDataset number their classes differently: {known}",
                fix="give the parts the same classes before joining them",
            )
        return known[0] if known else None
    return None


def get_paths(dataset: Any) -> list[str | None]:
    """The file of every item, None where it has none."""
    return _through_wrappers(dataset, _own_paths) or [None] * len(dataset)


def _through_wrappers(dataset: Any, own: Callable[[Any], list[T] | None]) -> list[T] | None:
    """What `own` finds in the dataset, else in those it wraps, one entry an item."""
    found = own(dataset)
    if found is None and isinstance(dataset, Subset):
        inner = _through_wrappers(dataset.dataset, own)
        return None if inner is None else [inner[int(index)] for index in dataset.indices]
    if found is None and isinstance(dataset, ConcatDataset):
        parts = [_through_wrappers(part, own) for part in dataset.datasets]
        return None if any(part is None for part in parts) else list(chain.from_iterable(filter(None, parts)))
    return found


def _own_targets(dataset: Any) -> list[Label] | None:
    usable = (_one_label_an_item(candidate, len(dataset)) for candidate in _label_candidates(dataset))
    return next((labels for labels in usable if labels is not None), None)


def _label_candidates(dataset: Any) -> Iterator[Any]:
    yield from (getattr(dataset, name, None) for name in LABEL_ATTRIBUTES)
    yield from (_column(getattr(dataset, name, None), 1) for name in SAMPLE_ATTRIBUTES)
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        yield dataset.tensors[1]


def _own_paths(dataset: Any) -> list[str | None] | None:
    columns = [_column(getattr(dataset, name, None), 0) for name in SAMPLE_ATTRIBUTES]
    columns += [getattr(dataset, name, None) for name in PATH_ATTRIBUTES]
    for column in columns:
        if isinstance(column, list) and len(column) == len(dataset):
            return [os.fspath(path) if isinstance(path, str | os.PathLike) else None for path in column]
    return None if isinstance(dataset, Subset | ConcatDataset) else [None] * len(dataset)


def _own_class_to_idx(dataset: Any) -> dict[str, int] | None:
    indices = getattr(dataset, "class_to_idx", None)
    names = getattr(dataset, "classes", None)
    if not isinstance(indices, Mapping):
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            return None
        indices = {name: index for index, name in enumerate(names)}
        return indices if len(indices) == len(names) else None
    distinct = len(set(indices.values())) == len(indices)  # ImageNet gives several names one index
    return {str(name): int(index) for name, index in indices.items()} if distinct else None


def _column(rows: Any, position: int) -> list[Any] | None:
    try:
        return [row[position] for row in rows]
    except (TypeError, LookupError):
        return None


def _one_label_an_item(values: Any, count: int) -> list[Label] | None:
    """Plain class indices or names, or None when `values` holds something else."""
    try:
        array = values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    except (TypeError, ValueError):
        return None
    if array.shape == (count, 1):
        array = array[:, 0]
    if array.shape != (count,):
        return None
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.round(array)).all():
        array = array.astype(np.int64)
    if array.dtype.kind not in "iubUO":
        return None
    plain = [int(value) if isinstance(value, bool) else value for value in array.tolist()]
    return plain if all(isinstance(value, int | str) for value in plain) else None


def _read_labels(dataset: Any) -> list[Label]:
    labels = _one_label_an_item([_label_of(dataset[index]) for index in range(len(dataset))], len(dataset))
    if labels is None:
        raise DataError("the items hold no single class label", fix="pass labels=, one class index or name an item")
    return labels


def _label_of(item: Any) -> Any:
    if isinstance(item, Mapping):
        return next((item[key] for key in LABEL_KEYS if key in item), None)
    return item[1] if isinstance(item, tuple | list) and len(item) > 1 else None
