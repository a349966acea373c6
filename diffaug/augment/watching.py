"""Finds the transforms that a dataset applies to its images, by watching it read an item.

A dataset may keep a transform under any name: in an attribute, in a list or mapping, as a method, in a dataset that it
wraps, or, as those of Hugging Face, in the arguments of a format. A copy of the dataset is read whose callables record
what they get and return. The calls that lead from one image to the next are the steps that synthetic images take, too.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffaug.augment.formats import plain
from diffaug.augment.labels import LABEL_KEYS
from diffaug.augment.samples import Path, contents, follow, is_image, path_to, same_image
from diffaug.errors import UsageError

READS = 8  # of one item, so that a transform that acts half of the time is missed in one dataset of 256
MOST_PARTS = 64  # of a list or mapping that is looked through for transforms
LIBRARIES = ("torch.", "torchvision.", "datasets.", "diffaug.")  # whose methods transform no images
FIX = "pass transform=, which turns a PIL image into what the dataset returns"


@dataclass(frozen=True)
class Place:
    """Where a dataset keeps something that can be called: an attribute, or a part of one."""

    owner: Any
    name: str
    keys: Path = ()

    def get(self) -> Any:
        """What is kept there now."""
        return follow(self.keys, getattr(self.owner, self.name))


@dataclass(frozen=True)
class Call:
    """One call: the containers of arguments and result as they were, and when it began and ended."""

    place: Place
    given: tuple[tuple[Any, ...], dict[str, Any]]
    result: Any
    began: int
    ended: int


@dataclass(frozen=True)
class Step:
    """A call that turns one image into another.

    Attributes:
        given: Positional and keyword arguments as the dataset passes them.
        image, label: Where they are in `given`; no label is passed if that is None.
        made: Where the new image is in the result.
        made_label: Where the label is there, if it is.
    """

    place: Place
    given: tuple[tuple[Any, ...], dict[str, Any]]
    image: Path
    label: Path | None
    made: Path
    made_label: Path | None

    def is_like(self, other: Step) -> bool:
        """Whether two steps call the same, with the same but for image, label and what a mapping holds."""
        if self.place.get() != other.place.get() or (self.image, self.made) != (other.image, other.made):
            return False
        return bool(self._constants() == other._constants())

    def _constants(self) -> list[tuple[Path, Any]]:
        found = [(path, leaf) for path, leaf in contents(self.given) if path not in (self.image, self.label)]
        return [(path, leaf) for path, leaf in found if not _is_of_mapping(path, self.given)]

    def __call__(self, image: Any, label: Any) -> Any:
        """The result of the call for another image and label, both in the format of those in `given`."""
        changed = {self.image: image, **({} if self.label is None else {self.label: label})}
        args, kwargs = _replaced(self.given, changed)
        return self.place.get()(*args, **kwargs)


@dataclass(frozen=True)
class Watched:
    """What reading one item showed.

    Attributes:
        item: The item.
        steps: Transforms of the image, in order.
        source: The image that the first of them got; without any, that of the item.
        calls: All calls.
    """

    item: Any
    steps: tuple[Step, ...]
    source: Any
    calls: tuple[Call, ...]

    def stored_label(self) -> Any | None:
        """What the dataset passes to its `target_transform`; None if it calls none."""
        return next(iter(_stored_labels(self.calls)), None)


def watch(dataset: Any, index: int, image_key: Any, label_key: Any) -> Watched:
    """Reads an item of a dataset, which is not changed, and finds the transforms of its image.

    Raises:
        UsageError: The image is made in a way that can't be repeated for another one.
    """
    calls: list[Call] = []
    item = _probe(dataset, calls, count())[index]
    image, labels = item[image_key], [item[label_key], *_stored_labels(calls)]
    chosen, wanted, before = [], image, float("inf")
    for call in reversed(calls):
        made = path_to(wanted, call.result) if call.ended < before else None
        images = [(path, leaf) for path, leaf in contents(call.given) if is_image(leaf)]
        if made is not None and images:
            chosen.append((_step(call, [path for path, _ in images], made, label_key, labels), call))
            wanted, before = images[0][1], call.began
    _require_complete(calls, chosen, image)
    return Watched(item, tuple(step for step, _ in reversed(chosen)), wanted, tuple(calls))


def find_steps(dataset: Any, indices: Sequence[int], image_key: Any, label_key: Any) -> Watched:
    """What reading the first of some items shows; the others, and the first once more, must show the same.

    Raises:
        UsageError: The image is made in a way that can't be repeated for another one, as where chance or the class
            decides about a transform.
    """
    seen = [watch(dataset, index, image_key, label_key) for index in (*[indices[0]] * READS, *indices[1:])]
    first, again = seen[0], seen[:READS]
    if any(len(one.steps) != len(first.steps) or not all(map(Step.is_like, one.steps, first.steps)) for one in again):
        raise UsageError("the dataset decides by chance how it transforms an image", fix=FIX)
    if any(not same_image(one.source, first.source, by_value=True) for one in again):
        raise UsageError("the dataset changes its images at random, and by what was not found", fix=FIX)
    for one, index in zip(seen[READS:], indices[1:], strict=True):
        if len(one.steps) != len(first.steps) or not all(map(Step.is_like, one.steps, first.steps)):
            what = f"the dataset's items {indices[0]} and {index} differ in transform"
            raise UsageError(what, fix=f"use the same for all items, or {FIX}")
    return first


def watch_leniently(dataset: Any, index: int, image_key: Any, label_key: Any) -> Watched:
    """As `watch`; where the way of an image is unclear, nothing is said about it but the item."""
    try:
        return watch(dataset, index, image_key, label_key)
    except UsageError:
        item = dataset[index]
        return Watched(item, (), item[image_key], ())


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


def _stored_labels(calls: Sequence[Call]) -> list[Any]:
    return [call.given[0][0] for call in calls if call.place.name == "target_transform" and call.given[0]]


def _step(call: Call, images: list[Path], made: Path, label_key: Any, labels: list[Any]) -> Step:
    name = call.place.name
    if len(images) > 1:
        raise UsageError(f"the dataset's '{name}' gets several images at once", fix=FIX)
    image = images[0]
    others = [(path, leaf) for path, leaf in contents(call.given) if path not in images]
    label = next((path for path, leaf in others if _is_label(path, leaf, image, label_key, labels)), None)
    for path, leaf in others:
        is_plain = isinstance(leaf, str | bool | int | float | None) or _is_of_mapping(path, call.given)
        if path != label and not is_plain:
            raise UsageError(f"the dataset's '{name}' gets more than image and label: {leaf!r:.80}", fix=FIX)
    made_label = None if label is None else _label_beside(made, call.result, label_key)
    return Step(call.place, call.given, image, label, made, made_label)


def _is_label(path: Path, leaf: Any, image: Path, label_key: Any, labels: list[Any]) -> bool:
    """Whether a leaf is the label of an image: it has the usual key, or comes after it and is one of `labels`."""
    differing = [keys for keys in zip(path, image, strict=False) if keys[0] != keys[1]]
    if len(path) != len(image) or len(differing) != 1:
        return False
    is_after = differing[0] == (1, 0) and any(plain(leaf) == plain(one) for one in labels)
    return differing[0][0] in (*LABEL_KEYS, label_key) if isinstance(differing[0][0], str) else is_after


def _is_of_mapping(path: Path, given: Any) -> bool:
    """Whether something lies in a mapping that is an argument, as other parts of a sample do."""
    return any(isinstance(follow(path[:depth], given), Mapping) for depth in range(2, len(path)))


def _label_beside(made: Path, result: Any, label_key: Any) -> Path | None:
    """Where the label is in a result that holds the image at `made`."""
    for depth, key in enumerate(made):
        around = follow(made[:depth], result)
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
        gets = any(is_image(leaf) for _, leaf in contents(call.given))
        gives = [leaf for _, leaf in contents(call.result) if is_image(leaf)]
        if gets and gives and not inside and not any(leaf is image for leaf in gives):
            what = f"the dataset changes what its '{call.place.name}' returns before it returns the image"
            raise UsageError(what, fix=FIX)


def _replaced(value: Any, changed: Mapping[Path, Any], at: Path = ()) -> Any:
    """Nested containers with other leaves at some paths."""
    if at in changed:
        return changed[at]
    if isinstance(value, Mapping):
        return {key: _replaced(part, changed, (*at, key)) for key, part in value.items()}
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(_replaced(part, changed, (*at, key)) for key, part in enumerate(value))
    return value


class _Recorder:
    """Calls a function and records the call."""

    def __init__(self, function: Callable[..., Any], place: Place, calls: list[Call], clock: Iterator[int]) -> None:
        self._function, self._place, self._calls, self._clock = function, place, calls, clock

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began, given = next(self._clock), _replaced((args, kwargs), {})  # containers may be changed in place
        result = self._function(*args, **kwargs)
        self._calls.append(Call(self._place, given, _replaced(result, {}), began, next(self._clock)))
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


def _probe(dataset: Any, calls: list[Call], clock: Iterator[int]) -> Any:
    """A shallow copy of a dataset, and of those that it wraps, whose callables record their calls."""
    probe = copy.copy(dataset)
    kept = getattr(probe, "__dict__", None)
    if kept is None or kept is vars(dataset):
        return dataset
    for name, value in _attributes(dataset).items():
        kept[name] = _spied(value, Place(dataset, name), calls, clock)
    for name, function in _methods(type(dataset)).items():
        if name not in vars(dataset):
            kept[name] = _Recorder(MethodType(function, probe), Place(dataset, name), calls, clock)
    return probe


def _attributes(dataset: Any) -> dict[str, Any]:
    """What the dataset keeps, in itself or in its class."""
    of_class = {
        name: getattr(dataset, name)
        for one in type(dataset).__mro__
        for name, value in vars(one).items()
        if not name.startswith("__") and not _is_of_library(one) and _may_transform(value)
    }
    return of_class | vars(dataset)


def _may_transform(value: Any) -> bool:
    """Whether an entry of a class is a transform, and no method, property or class."""
    return isinstance(value, staticmethod) or (callable(value) and not isinstance(value, FunctionType | type))


def _methods(kind: type) -> dict[str, FunctionType]:
    """The methods that the user has written."""
    found: dict[str, FunctionType] = {}
    for one in reversed(kind.__mro__):
        for name, value in vars(one).items() if not _is_of_library(one) else ():
            if isinstance(value, FunctionType) and not (name.startswith("__") and name.endswith("__")):
                found[name] = value
    return found


def _is_of_library(kind: type) -> bool:
    return f"{kind.__module__}.".startswith((*LIBRARIES, "builtins.", "typing."))


def _spied(value: Any, place: Place, calls: list[Call], clock: Iterator[int]) -> Any:
    """The value, recording its calls if it is a transform, a dataset, or a short list or mapping of those."""
    if _is_dataset(value):
        return _probe(value, calls, clock)
    if isinstance(value, list | tuple | dict) and type(value) in (list, tuple, dict):
        if len(value) > MOST_PARTS:
            return value
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        spied = {
            key: _spied(part, Place(place.owner, place.name, (*place.keys, key)), calls, clock) for key, part in parts
        }
        return spied if isinstance(value, dict) else type(value)(spied.values())
    is_transform = callable(value) and not isinstance(value, type | Image.Image | torch.Tensor)
    return _Recorder(value, place, calls, clock) if is_transform else value


def _is_dataset(value: Any) -> bool:
    has_items = all(hasattr(type(value), name) for name in ("__getitem__", "__len__"))
    return has_items and hasattr(value, "__dict__") and not (callable(value) or hasattr(value, "shape"))
