"""A copy of a dataset that records which functions it calls while it reads an item.

Recorded are callables that the user's classes reach: attributes of the dataset and of its class, also in lists,
mappings and objects, methods, global and captured names, and all of these in datasets that it wraps.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import count
from pathlib import PurePath
from sysconfig import get_paths
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

from torch.utils.data import Dataset

from diffaug.augment.watching.nested import MOST_PARTS, Path, nodes, replaced

MOST_DEPTH = 2  # of functions that call each other
LIBRARIES = ("torch.", "torchvision.", "datasets.", "diffaug.", "numpy.", "pandas.", "PIL.", "builtins.", "typing.")
INSTALLED = ("stdlib", "purelib", "platlib")
CONTAINER = ("__getitem__", "__iter__", "__len__", "__enter__", "__fspath__")  # what a recorder can't stand for


@dataclass(frozen=True)
class Attribute:
    """A step of a path that is an attribute, and no key."""

    name: str


@dataclass(frozen=True)
class Module:
    """The owner of global names; unlike the module itself, it can be pickled."""

    name: str


@dataclass(frozen=True)
class Place:
    """Where something that can be called is kept: an attribute or a global name, or what a path leads to from there."""

    owner: Any
    name: str
    keys: Path = ()

    def get(self) -> Any:
        """What is kept there now."""
        owner = vars(sys.modules[self.owner.name]) if isinstance(self.owner, Module) else self.owner
        found: Any = owner.get(self.name) if isinstance(owner, dict) else getattr(owner, self.name, None)
        for key in self.keys:
            found = getattr(found, key.name) if isinstance(key, Attribute) else found[key]
        return found

    def at(self, key: Any) -> Place:
        """The place of a part."""
        return Place(self.owner, self.name, (*self.keys, key))

    def __str__(self) -> str:
        names = [key.name if isinstance(key, Attribute) else str(key) for key in self.keys]
        return ".".join(names if isinstance(self.owner, CellType) else [self.name, *names])


@dataclass(frozen=True)
class Call:
    """One call: its arguments and what its result held at the time, and when it began and ended."""

    place: Place
    given: tuple[tuple[Any, ...], dict[str, Any]]
    result: list[tuple[Path, Any]]
    began: int
    ended: int


class Recording:
    """Reads items of a dataset with a copy of it, and records what that calls; the dataset is not changed."""

    def __init__(self, dataset: Any) -> None:
        self.calls: list[Call] = []  # in the order of their ends
        self.clock = count()
        self._dataset = dataset

    def read(self, index: int) -> tuple[Any, list[Call]]:
        """An item, and the calls that made it."""
        self.calls.clear()
        return self._probe[index], list(self.calls)

    @cached_property
    def _probe(self) -> Any:
        return self._probe_of(self._dataset)

    def _probe_of(self, dataset: Any) -> Any:
        """A shallow copy of a dataset that records its calls."""
        probe = _shallow_copy(dataset)
        kept = getattr(probe, "__dict__", None)
        if kept is None or kept is vars(dataset):
            return dataset
        kind, members = type(dataset), _members(type(dataset))
        get_item = members.pop("__getitem__", None)
        for name, value in members.items():
            if isinstance(value, FunctionType):
                kept[name] = _Recorder(MethodType(self._instrumented(value), probe), Place(dataset, name), self)
            elif isinstance(value, staticmethod | classmethod) or _can_be_recorded(value):
                kept[name] = self.spied(getattr(dataset, name), Place(dataset, name))
        for name, value in dict(vars(dataset)).items():
            kept[name] = self.spied(value, Place(dataset, name))
        if isinstance(get_item, FunctionType):
            probe.__class__ = type(kind.__name__, (kind,), {"__getitem__": self._instrumented(get_item)})
        return probe

    def spied(self, value: Any, place: Place) -> Any:
        """The value, recording its calls if it is or holds something that can be called."""
        kind = type(value)
        if _is_dataset(value):
            return self._probe_of(value)
        if kind in (list, tuple, dict) and len(value) <= MOST_PARTS:
            parts = value.items() if kind is dict else enumerate(value)
            spied = {key: self.spied(part, place.at(key)) for key, part in parts}
            return spied if kind is dict else kind(spied.values())
        return self._recorder(value, place)

    def _recorder(self, value: Any, place: Place, depth: int = 0) -> Any:
        """What records the calls of a value, and of a function also what it calls; the value itself if nothing can."""
        if isinstance(value, FunctionType):
            return _Recorder(self._instrumented(value, depth), place, self)
        return _Recorder(value, place, self) if _can_be_recorded(value) else value

    def _instrumented(self, function: FunctionType, depth: int = 0) -> FunctionType:
        """A copy of a function that the user has written, which records calls of global and captured names."""
        if _is_of_library(function.__module__) or depth > MOST_DEPTH:
            return function
        known, module = dict(function.__globals__), sys.modules.get(function.__module__)
        is_of_module = module is not None and vars(module) is function.__globals__
        owner = Module(function.__module__) if is_of_module else function.__globals__  # as of code that `exec` runs
        for name in known.keys() & set(function.__code__.co_names):
            known[name] = self._named(known[name], Place(owner, name), depth)
        cells = tuple(self._spied_cell(cell, depth) for cell in function.__closure__ or ())
        made = FunctionType(function.__code__, known, function.__name__, function.__defaults__, cells or None)
        made.__kwdefaults__ = function.__kwdefaults__
        return made

    def _named(self, value: Any, place: Place, depth: int) -> Any:
        """What a global or captured name means; functions of libraries, which mostly convert, are not recorded."""
        if isinstance(value, ModuleType):
            return _Recorder(value, place, self) if _is_of_user(value) else value
        if isinstance(value, FunctionType | BuiltinFunctionType) and _is_of_library(value.__module__):
            return value
        return self._recorder(value, place, depth + 1)

    def _spied_cell(self, cell: CellType, depth: int) -> CellType:
        try:
            return CellType(self._named(cell.cell_contents, Place(cell, "cell_contents"), depth))
        except ValueError:  # it is empty
            return cell


class _Recorder:
    """Stands for something that can be called, or for an object that holds such things."""

    def __init__(self, value: Any, place: Place, recording: Recording) -> None:
        self._value, self._place, self._recording = value, place, recording

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began, given = next(self._recording.clock), replaced((args, kwargs), {})  # containers may be changed in place
        result = self._value(*args, **kwargs)
        ended = next(self._recording.clock)
        self._recording.calls.append(Call(self._place, given, list(nodes(result)), began, ended))
        return result

    def __getattr__(self, name: str) -> Any:
        return self._recording.spied(getattr(self._value, name), self._place.at(Attribute(name)))

    def __eq__(self, other: object) -> bool:
        return bool(self._value == other)

    def __hash__(self) -> int:
        return hash(self._value)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # so that `isinstance` says what it says of the value
        return type(self._value)


def _shallow_copy(dataset: Any) -> Any:
    try:
        return copy.copy(dataset)
    except Exception:  # such as of a class whose `__getattr__` asks the dataset that it wraps
        made = object.__new__(type(dataset))
        vars(made).update(vars(dataset))
        return made


def _members(kind: type) -> dict[str, Any]:
    """What the user's classes define, by name: attributes and methods, of special ones only `__getitem__`."""
    found: dict[str, Any] = {}
    for one in reversed(kind.__mro__):
        for name, value in vars(one).items():
            found.pop(name, None)
            if not _is_of_library(one.__module__) and (name == "__getitem__" or not name.startswith("__")):
                found[name] = value
    return found


def _is_of_library(module: str | None) -> bool:
    return f"{module}.".startswith(LIBRARIES)


def _is_of_user(module: ModuleType) -> bool:
    """Whether a module is installed nowhere, as one beside the script."""
    file, installed = getattr(module, "__file__", None), get_paths()
    return file is not None and not any(PurePath(file).is_relative_to(installed[name]) for name in INSTALLED)


def _can_be_recorded(value: Any) -> bool:
    """Whether a value is a function, a transform or an object with methods, and none that would behave otherwise."""
    if isinstance(value, type | ModuleType | Enum | str | bytes | int | float | property):
        return False
    if isinstance(value, FunctionType | MethodType | BuiltinFunctionType):
        return True
    kind = type(value)
    is_transform = callable(value) and not hasattr(value, "shape")
    is_object = hasattr(value, "__dict__") and not _is_of_library(kind.__module__)
    return is_transform or (is_object and not any(hasattr(kind, name) for name in CONTAINER))


def _is_dataset(value: Any) -> bool:
    kind = type(value)
    has_items = all(hasattr(kind, name) for name in ("__getitem__", "__len__")) and hasattr(value, "__dict__")
    is_known = isinstance(value, Dataset) or hasattr(value, "features") or not _is_of_library(kind.__module__)
    return has_items and is_known and not (callable(value) or hasattr(kind, "__array__"))
