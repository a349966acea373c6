"""Finds the transforms that a dataset applies to its images, by watching it read an item.

The calls that lead from one image to the next are the steps that synthetic images take, too, wherever the dataset keeps
what it calls: under any name, in a list, as a method, in a dataset that it wraps, or as a format of Hugging Face.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
import torch

from diffaug.augment.formats import label_like, plain
from diffaug.augment.labels import LABEL_KEYS
from diffaug.augment.watching.nested import Path, is_image, leaves, nodes, replaced, same_image
from diffaug.augment.watching.recording import Call, Place, Recording
from diffaug.data.labels import Label
from diffaug.errors import DiffaugError, UsageError

READS = 8  # of one item, so that a transform that acts half of the time is missed in one dataset of 256
FIX = "pass transform=, which turns a PIL image into what the dataset returns"


@dataclass(frozen=True)
class Step:
    """A call that turns one image into another.

    Attributes:
        given: Positional and keyword arguments as the dataset passes them.
        image, label: Where they are in `given`; no label is passed if that is None.
        made: Where the new image is in the result.
        made_label: Where the label is there, if it is.
        gets_final: Whether the label that is passed is that of the item, after any `target_transform`.
    """

    place: Place
    given: tuple[tuple[Any, ...], dict[str, Any]]
    image: Path
    label: Path | None
    made: Path
    made_label: Path | None
    gets_final: bool

    def is_like(self, other: Step) -> bool:
        """Whether two steps call the same, with the same but for image, label and what a mapping holds."""
        if self.place.get() != other.place.get() or (self.image, self.made) != (other.image, other.made):
            return False
        return bool(self._constants() == other._constants())

    def _constants(self) -> list[tuple[Path, Any]]:
        found = [(path, leaf) for path, leaf in leaves(self.given) if path not in (self.image, self.label)]
        return [(path, leaf) for path, leaf in found if not _is_of_mapping(path, self.given)]

    def __call__(self, image: Any, label: Any) -> Any:
        """The result of the call for another image and label, both in the format of those in `given`."""
        changed = {self.image: image}
        if self.label is not None:
            example = dict(leaves(self.given))[self.label]
            changed[self.label] = label if type(label) is type(example) else label_like(plain(label), example)
        args, kwargs = replaced(self.given, changed)
        return self.place.get()(*args, **kwargs)


@dataclass(frozen=True)
class Watched:
    """What reading one item showed.

    Attributes:
        item: The item.
        steps: Transforms of the image, in order.
        source: The image that the first of them got; without any, that of the item.
        stored_label: What the dataset passes to its `target_transform`; None if it calls none.
    """

    item: Any
    steps: tuple[Step, ...]
    source: Any
    stored_label: Any | None

    def takes_steps_of(self, other: Watched) -> bool:
        """Whether the image went through the same transforms."""
        return len(self.steps) == len(other.steps) and all(map(Step.is_like, self.steps, other.steps))


def watch(dataset: Recording, index: int, keys: tuple[Any, Any], label: Label) -> Watched:
    """Reads an item of a dataset, and finds the transforms of its image.

    `keys` say where image and label are in the item, and `label` is that which the dataset stores.

    Raises:
        UsageError: The image is made in a way that can't be repeated for another one.
    """
    try:
        item, calls = dataset.read(index)
    except (DiffaugError, MemoryError):
        raise
    except Exception as error:
        what = f"the dataset can't be watched while it reads an item ({type(error).__name__}: {error})"
        raise UsageError(what, fix=FIX) from error
    stored = [call.given[0][0] for call in calls if call.place.name == "target_transform" and call.given[0]]
    image, labels = item[keys[0]], [item[keys[1]], label, *stored]
    chosen, wanted, before = [], image, float("inf")
    for call in reversed(calls):
        made = _path_to(wanted, call) if call.ended < before else None
        images = [(path, leaf) for path, leaf in leaves(call.given) if is_image(leaf)]
        if made is not None and images:
            chosen.append((_step(call, [path for path, _ in images], made, keys[1], labels), call))
            wanted, before = images[0][1], call.began
    _require_complete(calls, chosen, image)
    return Watched(item, tuple(step for step, _ in reversed(chosen)), wanted, next(iter(stored), None))


def find_steps(dataset: Any, keys: tuple[Any, Any], labels: Mapping[int, Label]) -> Watched:
    """What reading the first of some items shows; the others, and the first once more, must show the same.

    `labels` are the stored ones of the items by index.

    Raises:
        UsageError: The image is made in a way that can't be repeated for another one, as where chance or the class
            decides about a transform.
    """
    indices, recorded = list(labels), Recording(dataset)
    seen = [watch(recorded, index, keys, labels[index]) for index in (*[indices[0]] * READS, *indices[1:])]
    first, again = seen[0], seen[:READS]
    if not all(one.takes_steps_of(first) for one in again):
        raise UsageError("the dataset decides by chance how it transforms an image", fix=FIX)
    if is_image(first.source) and any(not same_image(one.source, first.source, by_value=True) for one in again):
        raise UsageError("the dataset changes its images at random, and by what was not found", fix=FIX)
    for one, index in zip(seen[READS:], indices[1:], strict=True):
        if not one.takes_steps_of(first):
            what = f"the dataset's items {indices[0]} and {index} differ in transform"
            raise UsageError(what, fix=f"use the same for all items, or {FIX}")
    of_all = zip(*(one.steps for one in seen), strict=True)  # a class whose label stays the same says nothing
    steps = [replace(same[0], gets_final=all(step.gets_final for step in same)) for same in of_all]
    return replace(first, steps=tuple(steps))


def watch_leniently(dataset: Any, index: int, keys: tuple[Any, Any], label: Label) -> Watched:
    """As `watch`; where the way of an image is unclear, nothing is said about it but the item."""
    try:
        return watch(Recording(dataset), index, keys, label)
    except UsageError:
        item = dataset[index]
        return Watched(item, (), item[keys[0]], None)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restores the random generators of Python, NumPy and torch after the block."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (the one that datasets draw from)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


def _step(call: Call, images: list[Path], made: Path, label_key: Any, labels: list[Any]) -> Step:
    name = str(call.place)
    if len(images) > 1:
        raise UsageError(f"the dataset's '{name}' gets several images at once", fix=FIX)
    image = images[0]
    others = [(path, leaf) for path, leaf in leaves(call.given) if path not in images]
    label = next((path for path, leaf in others if _is_label(path, leaf, image, label_key, labels)), None)
    for path, leaf in others:
        is_plain = isinstance(leaf, str | bool | int | float | Enum | None) or _is_of_mapping(path, call.given)
        if path != label and not is_plain:
            raise UsageError(f"the dataset's '{name}' gets more than image and label: {leaf!r:.80}", fix=FIX)
    made_label = None if label is None else _label_beside(made, call, label_key)
    gets_final = label is not None and bool(plain(dict(others)[label]) == plain(labels[0]))
    return Step(call.place, replaced(call.given, {image: None}), image, label, made, made_label, gets_final)


def _is_label(path: Path, leaf: Any, image: Path, label_key: Any, labels: list[Any]) -> bool:
    """Whether a leaf is the label of an image: it has the usual key, or comes after it and is one of `labels`."""
    differing = [keys for keys in zip(path, image, strict=False) if keys[0] != keys[1]]
    if len(path) != len(image) or len(differing) != 1:
        return False
    is_after = differing[0] == (1, 0) and any(plain(leaf) == plain(one) for one in labels)
    return differing[0][0] in (*LABEL_KEYS, label_key) if isinstance(differing[0][0], str) else is_after


def _is_of_mapping(path: Path, given: Any) -> bool:
    """Whether something lies in a mapping that is an argument, as other parts of a sample do."""
    parts = dict(nodes(given))
    return any(isinstance(parts[path[:depth]], Mapping) for depth in range(2, len(path)))


def _path_to(wanted: Any, call: Call) -> Path | None:
    """Where something is in the result of a call."""
    return next((path for path, part in call.result if part is wanted or same_image(part, wanted)), None)


def _label_beside(made: Path, call: Call, label_key: Any) -> Path | None:
    """Where the label is in a result that holds the image at `made`."""
    parts = dict(call.result)
    for depth, key in enumerate(made):
        around = parts[made[:depth]]
        if isinstance(around, Mapping):
            key_of_label = next((one for one in (label_key, *LABEL_KEYS) if one in around), None)
            return None if key_of_label is None else (*made[:depth], key_of_label, *made[depth + 1 :])
        if isinstance(around, tuple | list) and key == 0 and len(around) > 1:
            return (*made[:depth], 1, *made[depth + 1 :])
    return None


def _require_complete(calls: list[Call], chosen: list[tuple[Step, Call]], image: Any) -> None:
    """Raises UsageError if an image was transformed that did not become that of the item by known steps alone."""
    for call in calls:
        inside = any(outer.began <= call.began and call.ended <= outer.ended for _, outer in chosen)
        gets = any(is_image(leaf) for _, leaf in nodes(call.given))
        gives = [part for _, part in call.result if is_image(part)]
        if gets and gives and not inside and not any(leaf is image for leaf in gives):
            what = f"the dataset changes what its '{call.place}' returns before it returns the image"
            raise UsageError(what, fix=FIX)
