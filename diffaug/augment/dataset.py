"""Real items followed by the synthetic ones of a pool, as one dataset."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, Subset

from diffaug.augment.forms import ImageForm, ItemForm, call_transform, label_like, observe_transform
from diffaug.augment.labels import Label, get_class_to_idx, get_paths, get_targets, stored_targets
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.synthesis.pool.pool import Pool

SEPARATE_TRANSFORMS = ("transform", "target_transform")
JOINT_TRANSFORM = "transforms"


class AugmentedDataset(Dataset[Any]):
    """A labelled dataset with the images of a pool after its own.

    The first `len(dataset)` items are the real ones, untouched and at their indices, so samplers and index
    files keep their meaning. A synthetic item takes the form of a real one: the same container, label type and
    image type. Its image goes through `transform`, else through the dataset's own transform, found through
    `Subset` and `ConcatDataset` and given what it is given for a real item; without either it is brought to
    the type and size of the first real image. The dataset's `target_transform` is applied to its label.

    Wrap training data only. Synthetic files are read when asked for; the model is never run, and nothing here
    is random. Building reads the first real item, under a preserved torch generator.

    Args:
        dataset: Map-style dataset of (image, label) tuples or lists, or of {"image": ..., "label": ...}.
        pool: A pool, or the path of one or of its study.
        transform: For synthetic images only, which it gets as PIL (as an array by keyword, if it is one of
            albumentations'); none: the dataset's own.
        labels: Labels of the real items, where the dataset doesn't show them; see `get_targets`.
        classes: Names of labels 0, 1, ..., where the dataset doesn't show them and the pool's are no numbers.

    Attributes:
        dataset: The real items.
        pool: The synthetic images.
        class_to_idx: Class name to label: the dataset's own where it has names, else the pool's.
        targets: Class index of every item, before `target_transform`.

    Raises:
        UsageError: There is no finished pool, the classes of dataset and pool differ or can't be told from numbers
            alone, or a synthetic image can't take the form of the dataset's items.
        DataError: The dataset's labels can't be read.
    """

    def __init__(
        self,
        dataset: Any,
        pool: Pool | str | os.PathLike[str],
        *,
        transform: Callable[..., Any] | None = None,
        labels: Sequence[Any] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.dataset = dataset
        self.pool = pool if isinstance(pool, Pool) else Pool.open(os.fspath(pool))
        found = get_targets(dataset, labels)
        if not found:
            raise UsageError("the dataset has no items, so there is no form that synthetic ones could take")
        of_dataset = get_class_to_idx(dataset) if classes is None else {name: k for k, name in enumerate(classes)}
        self.class_to_idx, of_pool = _match_classes(found, of_dataset, self.pool.classes)
        self.targets = [self.class_to_idx[label] if isinstance(label, str) else label for label in found]
        self.targets += [of_pool[label] for label in self.pool.labels]
        self._real_count = len(found)
        self._names = {index: name for name, index in self.class_to_idx.items()}
        self._names_are_targets = isinstance(found[0], str)
        # Labels found by reading items have been through the target transform already.
        self._labels_are_final = labels is None and stored_targets(dataset) is None
        self._transform = transform or _inherited_transform(dataset)
        followed = SEPARATE_TRANSFORMS if self._transform is None else SEPARATE_TRANSFORMS[1:]
        self._owner, owner_index = _transform_owner(dataset, 0, followed)
        with torch.random.fork_rng(devices=[]):
            self._learn_forms(dataset[0], owner_index)

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their indices."""
        return [self._names[index] for index in sorted(self._names)]

    @property
    def is_synthetic(self) -> NDArray[np.bool_]:
        """Whether an item is synthetic, bool (N,)."""
        return np.arange(len(self)) >= self._real_count

    @property
    def samples(self) -> list[tuple[str | None, int]]:
        """File and class index of every item; the file is None where a real item has none."""
        synthetic = (str(storage.safe_join(self.pool.root, file)) for file in self.pool.files)
        return list(zip([*get_paths(self.dataset), *synthetic], self.targets, strict=True))

    def sample_weights(self, synthetic_weight: float = 0.5) -> NDArray[np.float64]:
        """A weight for every item: 1 for a real one, `synthetic_weight` for a synthetic one.

        Synthetic images are plentiful and less true than real ones, so each should count for less. Either draw
        by these weights, `WeightedRandomSampler(dataset.sample_weights(), num_samples=len(dataset))`, where a
        synthetic image turns up `synthetic_weight` times as often as a real one, or multiply the loss of each
        item by its weight; doing both would count it twice. Class balance comes from the pool, not from here.

        Args:
            synthetic_weight: At least 0; 0 leaves the synthetic images out.

        Returns:
            float64 (N,).

        Raises:
            UsageError: The weight is negative or not finite.
        """
        if not (np.isfinite(synthetic_weight) and synthetic_weight >= 0):
            raise UsageError(f"synthetic_weight must be a finite number of at least 0, not {synthetic_weight}")
        return np.where(self.is_synthetic, float(synthetic_weight), 1.0)

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

    def _learn_forms(self, item: Any, owner_index: int) -> None:
        self._item_form = ItemForm.of(item)
        image, self._label_example = self._item_form.split(item)
        actual, expected = np.asarray(self._label_example), np.asarray(self._label(self.targets[0]))
        if actual.size == expected.size == 1 and actual.item() != expected.item():
            raise UsageError(
                f"item 0 is labelled {actual.item()!r}, but by the labels found it should be {expected.item()!r}",
                fix="pass labels= in the order of the dataset's items",
            )
        self._image_form, self._by_keyword = self._transform_input(image, owner_index)

    def _transform_input(self, image: Any, owner_index: int) -> tuple[ImageForm, bool]:
        """The form that a pool image is brought to, and whether the transform then gets it by keyword."""
        if self._transform is None and _has_only_joint_transforms(self._owner):
            raise UsageError("the dataset transforms image and label together", fix="pass transform=, for images alone")
        image_size = self.pool.image_size
        native = ImageForm("pil", "L" if self.pool.channels == 1 else "RGB", image_size)
        transforms_itself = self._own_transform() is not None
        seen = observe_transform(self._owner, owner_index) if transforms_itself else None
        like = image if seen is None else seen.image
        form = ImageForm.of(like)
        if self._transform is not None:
            by_keyword = type(self._transform).__module__.startswith("albumentations.")
            if form is not None:
                native = replace(native, mode=form.mode, size=form.size).fitting(image_size)
            return (native.as_array() if by_keyword else native), by_keyword
        if transforms_itself and seen is None:
            return native, False
        if form is None:
            raise UsageError(
                "a synthetic image can't take the form of the dataset's: PIL, uint8 or [0, 1] pixels are needed",
                where=type(like).__name__,
                fix="pass transform=, which makes of a PIL image what the dataset returns",
            )
        return (form, False) if seen is None else (form.fitting(image_size), seen.by_keyword)

    def _own_transform(self) -> Callable[..., Any] | None:
        """The dataset's transform as it is now: people exchange it after building the dataset."""
        found: Callable[..., Any] | None = getattr(self._owner, "transform", None)
        return found

    def _synthetic_item(self, position: int) -> Any:
        image = self._image_form.convert(self.pool.read(position - self._real_count))
        transform = self._transform or self._own_transform()
        if transform is not None:
            image = call_transform(transform, image, by_keyword=self._by_keyword)
        return self._item_form.join(image, self._label(self.targets[position]))

    def _label(self, target: int) -> Any:
        """What an item of this class index is labelled with."""
        transform = getattr(self._owner, "target_transform", None)
        if transform is not None and not self._labels_are_final:
            return transform(self._names[target] if self._names_are_targets else target)
        named = isinstance(self._label_example, str)
        return label_like(self._names[target] if named else target, self._label_example)


def _match_classes(
    labels: Sequence[Label], dataset_classes: dict[str, int] | None, pool_classes: Sequence[str]
) -> tuple[dict[str, int], list[int]]:
    """Class name to index for dataset and pool together, and the index of each of the pool's classes.

    Raises:
        UsageError: The classes differ, or labels lie outside them.
    """
    of_pool = _indices_of_pool_classes(labels, dataset_classes, pool_classes)
    class_to_idx = dataset_classes or of_pool or {}
    if of_pool is None or not {*class_to_idx, *class_to_idx.values()}.issuperset(labels):
        found = sorted(set(labels), key=str) if dataset_classes is None else list(dataset_classes)
        raise UsageError(
            f"the classes of dataset and pool differ: {found} and {list(pool_classes)}",
            fix="use a pool that was generated from this dataset's training images",
        )
    return class_to_idx, [of_pool[name] for name in pool_classes]


def _indices_of_pool_classes(
    labels: Sequence[Label], dataset_classes: dict[str, int] | None, pool_classes: Sequence[str]
) -> dict[str, int] | None:
    """The dataset's index for each of the pool's classes, or None where the classes are others.

    Matched by name where the dataset has names, a class's folder name counting as its name; else by the number
    that a pool class is called by, as "10" sorts before "2".

    Raises:
        UsageError: Labels are numbers and names are unknown, so that any order of the classes could be meant.
    """
    if dataset_classes is not None:
        by_folder = {storage.safe_names([name])[name]: index for name, index in dataset_classes.items()}
        return next((names for names in (dataset_classes, by_folder) if set(names) == set(pool_classes)), None)
    numbers = {name: int(name) for name in pool_classes if name.isdecimal()}
    if len(set(numbers.values())) == len(pool_classes):
        return numbers
    if isinstance(labels[0], str):
        return {name: index for index, name in enumerate(pool_classes)}
    if max(map(int, labels)) + 1 != len(pool_classes):
        return None
    raise UsageError(
        f"the dataset's labels are numbers, and the pool's classes are called {', '.join(pool_classes)}",
        fix=f"name the classes in the order of their numbers, such as classes={tuple(pool_classes)}",
    )


def _inherited_transform(dataset: Any) -> Callable[..., Any] | None:
    """The `transform=` of an AugmentedDataset that is being wrapped again."""
    while isinstance(dataset, Subset | AugmentedDataset):
        if isinstance(dataset, AugmentedDataset) and dataset._transform is not None:
            return dataset._transform
        dataset = dataset.dataset
    return None


def _transform_owner(dataset: Any, index: int, shared: tuple[str, ...]) -> tuple[Any, int]:
    """The dataset that applies the transforms to item `index`, and the item's index there.

    Args:
        dataset: Where to begin.
        index: Index in `dataset`.
        shared: Attributes that the parts of a `ConcatDataset` must have in common.
    """
    if any(getattr(dataset, name, None) is not None for name in (*SEPARATE_TRANSFORMS, JOINT_TRANSFORM)):
        return dataset, index
    if isinstance(dataset, AugmentedDataset):
        return _transform_owner(dataset.dataset, index, shared)
    if isinstance(dataset, Subset):
        return _transform_owner(dataset.dataset, int(dataset.indices[index]), shared)
    if isinstance(dataset, ConcatDataset):
        owners = [_transform_owner(part, 0, shared) for part in dataset.datasets if len(part)]  # type: ignore[arg-type]
        for name in shared:
            if any(getattr(owner, name, None) is not getattr(owners[0][0], name, None) for owner, _ in owners):
                raise UsageError(
                    f"the parts of the ConcatDataset differ in {name}",
                    fix=f"give all parts one {name}, or pass transform=",
                )
        return owners[0]
    return dataset, index


def _has_only_joint_transforms(dataset: Any) -> bool:
    """Whether a torchvision dataset was given `transforms=`, which take image and label."""
    separate = (getattr(dataset, name, None) for name in SEPARATE_TRANSFORMS)
    return getattr(dataset, JOINT_TRANSFORM, None) is not None and all(transform is None for transform in separate)
