"""A dataset of real items followed by the synthetic items of a pool."""

import operator
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, Subset

from diffaug.augment import formats
from diffaug.augment.foreign import item_of
from diffaug.augment.formats import MODE_OF_CHANNELS, ImageFormat
from diffaug.augment.labels import columns_of, get_class_to_idx, get_targets, numbering_of, stored_targets
from diffaug.augment.lookup import usable_pool
from diffaug.augment.matching import fits_pool, match_classes
from diffaug.augment.packed import packed_reader
from diffaug.augment.watching.nested import extra_like, follow, is_whole, parts_of
from diffaug.augment.watching.steps import Step, Watched, find_steps, random_state_kept, watch_leniently
from diffaug.data.labels import Label, UnknownLabelError, is_integer, plain_label
from diffaug.errors import UsageError
from diffaug.synthesis.pool.pool import Pool

TARGET_TRANSFORM = "target_transform"
MOST_WATCHED = 16  # items, of different classes and parts of the dataset, besides the first


class AugmentedDataset(Dataset[Any]):
    """A labeled dataset followed by the images of a pool.

    The first `len(dataset)` items are the real ones, unchanged and at their indices, so samplers and index files keep
    their meaning. A synthetic item has the format of a real one: the same container, label type and image type. Its
    image goes through `transform`, or else through the dataset's own transforms, in the format that a real image has
    there. These are found by watching the dataset read items, wherever it keeps them: in an attribute of any name, in
    a dataset that it wraps, as a method or function, as the format of a Hugging Face dataset. What can't be repeated
    for a synthetic image is refused. Without any transform, it gets the type and size of the first real image. The
    dataset's `target_transform` is applied to its label. Of further parts of an item, paths become that of the
    synthetic file, and numbers the index of the item if the dataset counts its items so, else -1.

    Wrap training data only. The pool's images are packed once into a memory-mapped array, which worker processes
    share; the model is never run, and nothing here is random. The constructor reads some real items, the first one
    several times, and preserves the random states of Python, NumPy and torch.

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
        UsageError: There is no finished pool, its classes or images can't be matched to those of the dataset, or it is
            unclear how the dataset transforms its images.
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
        self._real_count = len(found)
        self._transform = transform or _inherited_transform(dataset)
        self._owner = _owner(dataset, 0)
        with random_state_kept():
            seen = self._watch(found)
        self._stored_example = seen.stored_label
        if of_dataset is None and not self._labels_are_final:
            found, self._labels_are_final = self._labels_of_pool(found)
        self.class_to_idx, of_pool = match_classes(found, of_dataset, self.pool)
        self.targets = [self.class_to_idx[label] if isinstance(label, str) else label for label in found]
        self.targets += [of_pool[label] for label in self.pool.labels]
        self._names = {index: name for name, index in self.class_to_idx.items()}
        self._names_are_targets = isinstance(found[0], str)
        self._require_label(seen.item)
        self._image_format, self._by_keyword = self._input_format(seen)
        self._read = packed_reader(self.pool)

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

    def _watch(self, labels: Sequence[Label]) -> Watched:
        """Reads items, the first of each class and part of the dataset, and learns how they are made."""
        first = item_of(self.dataset, 0)
        keys = formats.image_and_label_keys(first, columns_of(self.dataset))
        if keys is None:
            what = f"the dataset's items are {formats.what_is_held(first)}, not an image with a label"
            fix = "wrap the dataset so that an item is (image, label) or {'image': image, 'label': label}"
            raise UsageError(what, fix=fix)
        self._container, self._keys = type(first), keys
        self._steps: tuple[Step, ...] = ()
        self._learn_extras(first)
        if self._transform is not None:
            return watch_leniently(self.dataset, 0, keys, labels[0])
        parts = ((_part_of(self.dataset, index), label) for index, label in enumerate(labels))
        real = [(index, kind) for index, kind in enumerate(parts) if kind[0] is not None]
        of_kinds = sorted({kind: index for index, kind in reversed(real)}.values())[: MOST_WATCHED + 1]
        indices = dict.fromkeys([0, *of_kinds, *(index for index, _ in real[-1:])])
        seen = find_steps(self.dataset, keys, {index: labels[index] for index in indices})
        self._steps = seen.steps
        return seen

    def _learn_extras(self, first: Any) -> None:
        parts = parts_of(first)
        self._extras = {key: part for key, part in parts.items() if key not in self._keys}
        last = parts_of(item_of(self.dataset, self._real_count - 1)) if self._extras else {}
        self._counting = {
            key
            for key, part in self._extras.items()
            if is_whole(part) and (part, last[key]) == (0, self._real_count - 1)
        }
        self._order = list(parts)
        for key in self._extras:
            self._extra(key, 0)  # raises if it is unknown what a synthetic item has there

    def _extra(self, key: Any, index: int) -> Any:
        file = "" if index < self._real_count else str(self.pool.root / self.pool.files[index - self._real_count])
        return extra_like(self._extras[key], index, file, counts=key in self._counting)

    def _require_label(self, item: Any) -> None:
        self._label_example = item[self._keys[1]]
        actual, expected = map(formats.plain, (self._label_example, self._label(self.targets[0])))
        if actual != expected:
            what = f"item 0 has label {actual!r}, but the labels found say {expected!r}"
            raise UsageError(what, fix="pass labels= in the order of the dataset's items")

    def _input_format(self, seen: Watched) -> tuple[ImageFormat, bool]:
        """The format that pool images are converted to, and whether `transform` takes them by keyword."""
        image_size, form = self.pool.image_size, ImageFormat.of(seen.source)
        if self._transform is not None:
            by_keyword = type(self._transform).__module__.startswith("albumentations.")
            native = ImageFormat("pil", "L" if self.pool.channels == 1 else "RGB", image_size)
            if form is not None:
                mode = form.mode if form.mode in MODE_OF_CHANNELS.values() else native.mode
                native = replace(native, mode=mode, size=form.size).fitting(image_size)
            if by_keyword:
                axis = None if native.mode == "L" else 2
                native = replace(native, kind="numpy", dtype=np.dtype(np.uint8), channel_axis=axis)
            return native, by_keyword
        if form is None:
            what = "a synthetic image can't take this format: images must be PIL, or have 8 or 16 bits or [0, 1] values"
            fix = "pass transform=, which turns a PIL image into what the dataset returns"
            raise UsageError(what, where=type(seen.source).__name__, fix=fix)
        form = replace(form, levels=self.pool.levels or form.levels)
        return (form.fitting(image_size) if self._steps else form), False

    def _synthetic_item(self, position: int) -> Any:
        image = self._image_format.convert(self._read(position - self._real_count))
        label = self._label(self.targets[position])
        if self._transform is not None:
            image = self._transform(image=image)["image"] if self._by_keyword else self._transform(image)
        for step in self._steps:
            made = step(image, label if step.gets_final else self._stored(self.targets[position]))
            image = follow(step.made, made)
            if step is self._steps[-1] and step.made_label is not None:
                label = follow(step.made_label, made)
        parts = {key: self._extra(key, position) for key in self._extras}
        parts |= dict(zip(self._keys, (image, label), strict=True))
        return formats.rebuilt(self._container, {key: parts[key] for key in self._order})

    def _labels_of_pool(self, stored: Sequence[Label]) -> tuple[Sequence[Label], bool]:
        """The labels that the pool's classes are called by, and whether those are after the `target_transform`."""
        after = {label: self._transformed(label) for label in dict.fromkeys(stored)}
        fits = fits_pool(stored, self.pool)
        if None in after.values() or all(label == new for label, new in after.items()):
            return stored, False
        final = [label for label in map(after.get, stored) if label is not None]
        if not fits_pool(final, self.pool):
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

    def _stored(self, target: int) -> Any:
        """The label of this class index before the `target_transform`."""
        return self._as_stored(self._names[target] if self._names_are_targets else target)

    def _label(self, target: int) -> Any:
        """The label of an item of this class index."""
        transform = getattr(self._owner, TARGET_TRANSFORM, None)
        if transform is not None and not self._labels_are_final:
            made = transform(self._stored(target))
            is_converted = type(made) is int and type(self._label_example) is not int  # by the dataset, as to a tensor
            return formats.label_like(made, self._label_example) if is_converted else made
        by_index = is_integer(self._label_example)
        return formats.label_like(target if by_index else self._names[target], self._label_example)


def _inherited_transform(dataset: Any) -> Callable[..., Any] | None:
    """The `transform=` of an AugmentedDataset that is wrapped again."""
    while isinstance(dataset, Subset | AugmentedDataset):
        if isinstance(dataset, AugmentedDataset) and dataset._transform is not None:
            return dataset._transform
        dataset = dataset.dataset
    return None


def _part_of(dataset: Any, index: int) -> tuple[int, ...] | None:
    """Which part of nested `ConcatDataset`s holds an item; None if it is a synthetic one."""
    if isinstance(dataset, Subset):
        return _part_of(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, AugmentedDataset):
        return _part_of(dataset.dataset, index) if index < dataset._real_count else None
    if isinstance(dataset, ConcatDataset):
        part = bisect_right(dataset.cumulative_sizes, index)
        before = dataset.cumulative_sizes[part - 1] if part else 0
        of_part = _part_of(dataset.datasets[part], index - before)
        return None if of_part is None else (part, *of_part)
    return ()


def _owner(dataset: Any, index: int) -> Any:
    """The dataset that applies a `target_transform` to item `index`."""
    if getattr(dataset, TARGET_TRANSFORM, None) is not None:
        return dataset
    if isinstance(dataset, AugmentedDataset):
        return _owner(dataset.dataset, index)
    if isinstance(dataset, Subset):
        return _owner(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, ConcatDataset):
        owners = [_owner(part, 0) for part in dataset.datasets if len(part)]  # type: ignore[arg-type]
        first = getattr(owners[0], TARGET_TRANSFORM, None)
        if any(getattr(owner, TARGET_TRANSFORM, None) is not first for owner in owners):
            what = f"the parts of the ConcatDataset differ in {TARGET_TRANSFORM}"
            raise UsageError(what, fix=f"use one {TARGET_TRANSFORM} for all parts")
        return owners[0]
    return dataset
