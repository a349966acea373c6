"""A dataset of real items followed by the synthetic items of a pool."""

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, Subset

from diffaug.augment import formats
from diffaug.augment.formats import ImageFormat
from diffaug.augment.labels import get_class_to_idx, get_targets, numbering_of, stored_targets
from diffaug.augment.lookup import usable_pool
from diffaug.data.labels import SHOWN, Label, UnknownLabelError, integers_are_clear, is_integer, match_name, plain_label
from diffaug.data.layouts.entries import listed
from diffaug.errors import UsageError
from diffaug.synthesis.pool.pool import Pool

TRANSFORMS = ("transform", "target_transform")


class AugmentedDataset(Dataset[Any]):
    """A labeled dataset followed by the images of a pool.

    The first `len(dataset)` items are the real ones, unchanged and at their indices, so samplers and index files keep
    their meaning. A synthetic item has the format of a real one: the same container, label type and image type. Its
    image goes through `transform`, or else through the dataset's own transform, found through `Subset` and
    `ConcatDataset`, in the format that a real image has there. Without either, it gets the type and size of the first
    real image. The dataset's `target_transform` is applied to its label.

    Wrap training data only. Synthetic files are read on demand; the model is never run, and nothing here is random.
    The constructor reads the first real item and preserves torch's random state.

    Args:
        dataset: Map-style dataset of (image, label) tuples or lists, or of {"image": ..., "label": ...}.
        pool: A pool, or the path of one or of its study.
        transform: For synthetic images only, called with a PIL image (an albumentations transform with an array, by
            keyword). Default: the dataset's own.
        labels: Labels of the real items, if the dataset has no attribute with them; see `get_targets`.
        classes: Names of labels 0, 1, ..., if the dataset has none and the pool was made from other data.
        include_blind: Whether images are used of classes, too, that nothing shows them to belong to. The evaluation
            does not use them.

    Attributes:
        class_to_idx: Class name to label: the dataset's own if it has names, else the pool's.
        targets: Class index of every item, before `target_transform`.

    Raises:
        UsageError: There is no finished pool, or its classes or images can't be matched to those of the dataset.
        DataError: The dataset's labels can't be read.
    """

    def __init__(
        self,
        dataset: Any,
        pool: Pool | str | os.PathLike[str],
        *,
        transform: Callable[..., Any] | None = None,
        labels: Sequence[Any] | None = None,
        classes: Sequence[str | int] | None = None,
        include_blind: bool = False,
    ) -> None:
        self.dataset = dataset
        opened = pool if isinstance(pool, Pool) else Pool.open(os.fspath(pool))
        self.pool = usable_pool(opened, include_blind=include_blind)
        found: Sequence[Label] = get_targets(dataset, labels)
        if not found:
            raise UsageError("the dataset has no items, so the format of its items is unknown")
        of_dataset = get_class_to_idx(dataset) if classes is None else numbering_of(classes)
        # Labels found by reading items have already been through the target transform.
        self._labels_are_final = labels is None and stored_targets(dataset) is None
        self._transform = transform or _inherited_transform(dataset)
        followed = TRANSFORMS if self._transform is None else TRANSFORMS[1:]
        self._owner, owner_index = _transform_owner(dataset, 0, followed)
        with torch.random.fork_rng(devices=[]):
            seen = formats.observe_transform(self._owner, owner_index, "target_transform")
        self._stored_example = None if seen is None else seen[0]
        if of_dataset is None and not self._labels_are_final:
            found, self._labels_are_final = self._labels_of_pool(found)
        self.class_to_idx, of_pool = _match_classes(found, of_dataset, self.pool)
        self.targets = [self.class_to_idx[label] if isinstance(label, str) else label for label in found]
        self.targets += [of_pool[label] for label in self.pool.labels]
        self._real_count = len(found)
        self._names = {index: name for name, index in self.class_to_idx.items()}
        self._names_are_targets = isinstance(found[0], str)
        with torch.random.fork_rng(devices=[]):
            self._learn_formats(dataset[0], owner_index)

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their indices."""
        return [self._names[index] for index in sorted(self._names)]

    @property
    def is_synthetic(self) -> NDArray[np.bool_]:
        """Whether an item is synthetic, bool (N,)."""
        return np.arange(len(self)) >= self._real_count

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        position = self._position(index)
        return self.dataset[position] if position < self._real_count else self._synthetic_item(position)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        positions = [self._position(index) for index in indices]
        real = [position for position in positions if position < self._real_count]
        fetch = getattr(self.dataset, "__getitems__", None)
        fetched = iter(fetch(real) if callable(fetch) else [self.dataset[position] for position in real])
        return [next(fetched) if p < self._real_count else self._synthetic_item(p) for p in positions]

    def _position(self, index: int) -> int:
        position = operator.index(index)
        position += len(self) if position < 0 else 0
        if not 0 <= position < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} items")
        return position

    def _learn_formats(self, item: Any, owner_index: int) -> None:
        keys = formats.image_and_label_keys(item)
        if keys is None or len(item) != 2:
            what = f"the dataset's items are {formats.what_is_held(item)}, not one image with one label"
            fix = "wrap the dataset so that an item is (image, label) or {'image': image, 'label': label}"
            raise UsageError(what, fix=fix)
        self._container, self._keys = type(item), keys
        image, self._label_example = (item[key] for key in keys)
        actual, expected = map(formats.plain, (self._label_example, self._label(self.targets[0])))
        if actual != expected:
            what = f"item 0 has label {actual!r}, but the labels found say {expected!r}"
            raise UsageError(what, fix="pass labels= in the order of the dataset's items")
        self._image_format, self._by_keyword = self._transform_input(image, owner_index)

    def _transform_input(self, image: Any, owner_index: int) -> tuple[ImageFormat, bool]:
        """The format that pool images are converted to, and whether the transform takes them by keyword."""
        separate = any(getattr(self._owner, name, None) is not None for name in TRANSFORMS)
        if self._transform is None and not separate and getattr(self._owner, "transforms", None) is not None:
            raise UsageError("the dataset transforms image and label together", fix="pass transform=, for images alone")
        image_size = self.pool.image_size
        native = ImageFormat("pil", "L" if self.pool.channels == 1 else "RGB", image_size)
        transforms_itself = getattr(self._owner, "transform", None) is not None
        seen = formats.observe_transform(self._owner, owner_index) if transforms_itself else None
        like, seen_by_keyword = seen or (image, False)
        form = ImageFormat.of(like)
        if self._transform is not None:
            by_keyword = type(self._transform).__module__.startswith("albumentations.")
            if form is not None:
                native = replace(native, mode=form.mode, size=form.size).fitting(image_size)
            if by_keyword:
                native = replace(native, kind="numpy", dtype=np.dtype(np.uint8), channel_axis=native.mode != "L")
            return native, by_keyword
        if transforms_itself and seen is None:
            return native, False
        if form is None:
            what = "a synthetic image can't take this format: images must be PIL or have uint8 or [0, 1] pixels"
            fix = "pass transform=, which turns a PIL image into what the dataset returns"
            raise UsageError(what, where=type(like).__name__, fix=fix)
        return (form, False) if seen is None else (form.fitting(image_size), seen_by_keyword)

    def _synthetic_item(self, position: int) -> Any:
        image = self._image_format.convert(self.pool.read(position - self._real_count))
        transform = self._transform or getattr(self._owner, "transform", None)  # users may replace it later
        if transform is not None:
            image = transform(image=image)["image"] if self._by_keyword else transform(image)
        parts = (image, self._label(self.targets[position]))
        return formats.rebuilt(self._container, dict(zip(self._keys, parts, strict=True)))

    def _labels_of_pool(self, stored: Sequence[Label]) -> tuple[Sequence[Label], bool]:
        """The labels that the pool's classes are called by, and whether those are after the `target_transform`."""
        after = {label: self._transformed(label) for label in dict.fromkeys(stored)}
        fits = _fits_pool(stored, self.pool)
        if None in after.values() or all(label == new for label, new in after.items()):
            return stored, False
        final = [label for label in map(after.get, stored) if label is not None]
        if not _fits_pool(final, self.pool):
            return stored, False
        if fits:
            what = "the dataset's target_transform renumbers its labels, so which label is which class is unknown"
            fix = "pass classes=, the names of the labels 0, 1, ... as they are before the target_transform"
            raise UsageError(what, fix=fix)
        return final, True

    def _transformed(self, label: Label) -> Label | None:
        """The label after the `target_transform`; None if that makes something else of it."""
        transform = getattr(self._owner, "target_transform", None)
        try:
            return label if transform is None else plain_label(transform(self._as_stored(label)))
        except UnknownLabelError:
            return None

    def _as_stored(self, label: Label) -> Any:
        """The label in the type that the dataset passes to its `target_transform`."""
        return label if self._stored_example is None else formats.label_like(label, self._stored_example)

    def _label(self, target: int) -> Any:
        """The label of an item of this class index."""
        transform = getattr(self._owner, "target_transform", None)
        if transform is not None and not self._labels_are_final:
            return transform(self._as_stored(self._names[target] if self._names_are_targets else target))
        by_index = is_integer(self._label_example)
        return formats.label_like(target if by_index else self._names[target], self._label_example)


def _match_classes(
    labels: Sequence[Label], dataset_classes: Mapping[str, int] | None, pool: Pool
) -> tuple[dict[str, int], list[int]]:
    """Class name to index for dataset and pool together, and the index of each pool class."""
    class_to_idx = dict(_numbering(labels, dataset_classes, pool) or {})
    known = list(class_to_idx)
    if class_to_idx:
        _require_known(labels, class_to_idx)
    names = [match_name(name, known) for name in pool.classes]
    if None in names or not set(labels) <= {*names, *(class_to_idx[name] for name in names if name is not None)}:
        found = known if dataset_classes is not None else list(map(str, dict.fromkeys(labels)))
        what = f"the classes of dataset and pool differ: {listed(found, shown=SHOWN)}; the pool has "
        what += listed(pool.classes, shown=SHOWN)
        fix = "use a pool that was generated from this dataset's training images"
        if dataset_classes is None:
            fix += "; if it was, pass labels=, those that the items have"
        raise UsageError(what, fix=fix)
    return class_to_idx, [class_to_idx[name] for name in names if name is not None]


def _fits_pool(labels: Sequence[Label], pool: Pool) -> bool:
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


def _inherited_transform(dataset: Any) -> Callable[..., Any] | None:
    """The `transform=` of an AugmentedDataset that is wrapped again."""
    while isinstance(dataset, Subset | AugmentedDataset):
        if isinstance(dataset, AugmentedDataset) and dataset._transform is not None:
            return dataset._transform
        dataset = dataset.dataset
    return None


def _transform_owner(dataset: Any, index: int, shared: tuple[str, ...]) -> tuple[Any, int]:
    """The dataset that applies the transforms to item `index`, and the item's index there.

    The parts of a `ConcatDataset` must have the same attributes named in `shared`.
    """
    if any(getattr(dataset, name, None) is not None for name in (*TRANSFORMS, "transforms")):
        return dataset, index
    if isinstance(dataset, AugmentedDataset):
        return _transform_owner(dataset.dataset, index, shared)
    if isinstance(dataset, Subset):
        return _transform_owner(dataset.dataset, int(dataset.indices[index]), shared)
    if isinstance(dataset, ConcatDataset):
        owners = [_transform_owner(part, 0, shared) for part in dataset.datasets if len(part)]  # type: ignore[arg-type]
        for name in shared:
            if any(getattr(owner, name, None) is not getattr(owners[0][0], name, None) for owner, _ in owners):
                fix = f"use one {name} for all parts, or pass transform="
                raise UsageError(f"the parts of the ConcatDataset differ in {name}", fix=fix)
        return owners[0]
    return dataset, index
