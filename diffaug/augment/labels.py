"""Labels, class names and paths of labeled datasets, also through Subset and ConcatDataset."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from diffaug.errors import DataError, UsageError

LABEL_ATTRIBUTES = ("targets", "labels", "_labels")  # the names torchvision's datasets use
SAMPLE_ATTRIBUTES = ("samples", "imgs", "_samples")
LABEL_KEYS = ("label", "labels", "target")

Label = int | str


def get_targets(dataset: Any, labels: Sequence[Any] | None = None) -> list[Label]:
    """The label of every item, without reading images if the dataset stores its labels.

    Args:
        dataset: A map-style dataset: torchvision's, `TensorDataset`, `AugmentedDataset`, or `Subset` and
            `ConcatDataset` of those, to any depth. Any other is read item by item, with a warning.
        labels: The labels, one per item, if the caller knows them.

    Returns:
        Class indices or class names, before the dataset's own `target_transform`.

    Raises:
        UsageError: `labels` is not one label per item, or the dataset has no length.
        DataError: Items read one by one have no single class label.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise UsageError("labels can only be taken from a dataset with a length", where=type(dataset).__name__)
    if labels is not None:
        given = _one_label_per_item(labels, len(dataset))
        if given is None:
            raise UsageError(f"labels= must be one class index or name for each of the {len(dataset)} items")
        return given
    stored = stored_targets(dataset)
    if stored is not None:
        return stored
    warnings.warn(
        f"{type(dataset).__name__} has no attribute with its labels, so every item is read; pass labels= to avoid this",
        stacklevel=2,
    )
    found = _one_label_per_item([_label_of(dataset[index]) for index in range(len(dataset))], len(dataset))
    if found is None:
        raise DataError("the items have no single class label", fix="pass labels=, one class index or name per item")
    return found


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


def get_class_to_idx(dataset: Any) -> dict[str, int] | None:
    """Class name to index, or None if the dataset has no plain names."""
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


def _label_candidates(dataset: Any) -> Iterator[Any]:
    yield from (getattr(dataset, name, None) for name in LABEL_ATTRIBUTES)
    yield from (_second_column(getattr(dataset, name, None)) for name in SAMPLE_ATTRIBUTES)
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        yield dataset.tensors[1]


def _own_class_to_idx(dataset: Any) -> dict[str, int] | None:
    indices, names = getattr(dataset, "class_to_idx", None), getattr(dataset, "classes", None)
    if not isinstance(indices, Mapping):
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            return None
        indices = {name: index for index, name in enumerate(names)}
        return indices if len(indices) == len(names) else None
    distinct = len(set(indices.values())) == len(indices)  # ImageNet gives several names one index
    return {str(name): int(index) for name, index in indices.items()} if distinct else None


def _second_column(rows: Any) -> list[Any] | None:
    try:
        return [row[1] for row in rows]
    except (TypeError, LookupError):
        return None


def _one_label_per_item(values: Any, count: int) -> list[Label] | None:
    """Plain class indices or names, or None if `values` holds something else."""
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


def _label_of(item: Any) -> Any:
    if isinstance(item, Mapping):
        return next((item[key] for key in LABEL_KEYS if key in item), None)
    return item[1] if isinstance(item, tuple | list) and len(item) > 1 else None
