"""What is in a sample of a dataset besides image and label, and where in nested containers an image is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffaug.augment.formats import rebuilt
from diffaug.errors import UsageError

MOST_DEPTH, MOST_PARTS = 4, 64  # of nested containers that are looked through

CONTAINERS = (Mapping, tuple, list)

Path = tuple[Any, ...]
"""Keys and indices that lead through nested containers."""


def parts_of(sample: Any) -> dict[Any, Any]:
    """The parts of a sample by position or name."""
    return dict(sample if isinstance(sample, Mapping) else enumerate(sample))


def extra_like(example: Any, index: int, file: str, *, counts: bool) -> Any:
    """What a synthetic item has in place of a part that is neither image nor label, in the type of `example`.

    A path or another text becomes the path of the synthetic file. A whole number becomes the item's index if the
    dataset `counts` its items so, else -1. Nested parts are filled likewise, and None stays.

    Raises:
        UsageError: The part is something else, as boxes, masks and weights are.
    """
    if isinstance(example, Mapping):
        return {key: extra_like(part, index, file, counts=counts) for key, part in example.items()}
    if isinstance(example, tuple | list):
        return rebuilt(type(example), {k: extra_like(p, index, file, counts=counts) for k, p in enumerate(example)})
    if example is None or isinstance(example, str):
        return example if example is None else file
    if isinstance(example, PurePath):
        return type(example)(file)
    number = index if counts else -1
    if isinstance(example, int | np.integer) and not isinstance(example, bool):
        return type(example)(number)
    if isinstance(example, torch.Tensor | np.ndarray) and example.ndim == 0 and is_whole(example):
        return torch.full_like(example, number) if isinstance(example, torch.Tensor) else np.full_like(example, number)
    what = f"the items hold more than image and label, and what a synthetic item has there is unknown: {example!r:.80}"
    raise UsageError(what, fix="wrap the dataset so that an item is (image, label), or also holds ids and paths")


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, and no truth value."""
    kind = str(getattr(value, "dtype", type(value).__name__))
    return "int" in kind and (isinstance(value, int) or value.ndim == 0)


def is_image(value: Any) -> bool:
    """Whether a value may be an image: PIL, or an array or tensor of two or three dimensions."""
    return isinstance(value, Image.Image) or (
        isinstance(value, np.ndarray | torch.Tensor) and value.ndim in (2, 3) and min(value.shape) > 0
    )


def same_image(one: Any, other: Any, *, by_value: bool = False) -> bool:
    """Whether two images are one object or share their pixels, or at least have equal ones."""
    if one is other:
        return True
    if isinstance(one, Image.Image) or isinstance(other, Image.Image):
        return by_value and isinstance(one, type(other)) and bool(one == other)
    if not all(isinstance(value, np.ndarray | torch.Tensor) for value in (one, other)):
        return False
    if type(one) is not type(other) or one.shape != other.shape:
        return False
    if by_value:
        return torch.equal(one, other) if isinstance(one, torch.Tensor) else np.array_equal(one, other)
    return _memory(one) == _memory(other)


def _memory(pixels: Any) -> tuple[Any, ...]:
    """Where pixels are, and in which order."""
    if isinstance(pixels, torch.Tensor):
        return pixels.data_ptr(), pixels.stride(), pixels.dtype
    return pixels.__array_interface__["data"][0], pixels.strides, pixels.dtype


def nodes(value: Any, at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """A value and everything in it if it is a container, each with its path; of an array of images the first one."""
    yield at, value
    if len(at) == MOST_DEPTH:
        return
    if isinstance(value, CONTAINERS) and len(value) <= MOST_PARTS:
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from nodes(part, (*at, key))
    elif isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 4 and len(value):
        yield (*at, 0), value[0]


def leaves(value: Any) -> list[tuple[Path, Any]]:
    """What is in nested containers, each with its path."""
    found = [(path, part) for path, part in nodes(value) if not isinstance(part, CONTAINERS)]
    arrays = {path for path, part in found if isinstance(part, np.ndarray | torch.Tensor)}
    return [(path, part) for path, part in found if path[:-1] not in arrays]


def replaced(value: Any, changed: Mapping[Path, Any], at: Path = ()) -> Any:
    """A copy of nested containers with other leaves at some paths."""
    if at in changed:
        return changed[at]
    if isinstance(value, Mapping | tuple | list) and len(value) > MOST_PARTS:
        return value
    if isinstance(value, Mapping):
        return {key: replaced(part, changed, (*at, key)) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(replaced(part, changed, (*at, key)) for key, part in enumerate(value))
    return value


def follow(path: Path, value: Any) -> Any:
    """What a path leads to."""
    for key in path:
        value = value[key]
    return value
