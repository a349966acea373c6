"""Looks up synthetic images by label, for the transforms."""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from diffaug.augment.formats import ImageFormat
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.synthesis.pool.pool import Pool

CACHED_IMAGES = 128
NAME = "SyntheticReplace"  # of both transforms, for albumentations and for torchvision

OnProblem = Literal["error", "skip"]


class PoolLookup:
    """Images of a pool by label, with a cache; each process opens the pool, or that of a study, at the first use."""

    def __init__(self, path: str, class_to_idx: Mapping[str, int] | None = None) -> None:
        self._path, self._class_to_idx = path, class_to_idx

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._path, self._class_to_idx)

    @cached_property
    def pool(self) -> Pool:
        """The open pool."""
        return Pool.open(self._path)

    @cached_property
    def read(self) -> Callable[[int], NDArray[np.uint8]]:
        """`Pool.read`, cached."""
        return lru_cache(CACHED_IMAGES)(self.pool.read)

    def candidates(self, label: Any, on_unknown: OnProblem) -> NDArray[np.int64]:
        """Positions in the pool of the images of a class, given by name or index; none of an unknown, skipped one."""
        array = np.asarray(label.cpu() if isinstance(label, torch.Tensor) else label)
        plain = array.item() if array.size == 1 else label  # of a NumPy or torch scalar
        found = self._indices_of(plain) if isinstance(plain, int | str) else None
        if found is None and on_unknown == "error":
            fix = "pass a class name or its index in that order, or set on_unknown_label='skip'"
            what = f"label {plain!r} is not a class of the pool: {list(self.pool.classes)}"
            raise UsageError(what, where=NAME, fix=fix)
        return np.empty(0, np.int64) if found is None else found

    @cached_property
    def _indices_of(self) -> Callable[[int | str], NDArray[np.int64] | None]:
        known = self.pool.class_to_idx
        names = {index: name for name, index in (self._class_to_idx or known).items()}

        def look_up(label: int | str) -> NDArray[np.int64] | None:
            name = label if isinstance(label, str) else names.get(label)
            spellings = () if name is None else (name, storage.safe_names([name])[name])  # also as a folder's name
            return next((self.pool.indices_of(known[spelling]) for spelling in spellings if spelling in known), None)

        return lru_cache(None)(look_up)


def must_skip(stale: Collection[str], reaction: OnProblem) -> bool:
    """Whether an item must stay unchanged because its annotations would no longer match its image."""
    if stale and reaction == "error":
        what = f"{', '.join(sorted(stale))} would no longer match the replaced image"
        raise UsageError(what, where=NAME, fix="pass images without annotations, or set on_annotations='skip'")
    return bool(stale)


def replaceable_format(image: Any) -> ImageFormat:
    """The format of a synthetic image that replaces an image or one of a batch NCHW."""
    is_batch = isinstance(image, torch.Tensor) and image.ndim == 4
    form = ImageFormat.of(image.movedim(0, 1).flatten(1, 2) if is_batch else image)  # NCHW as one tall image
    if form is None:
        names = ("shape", "dtype") if hasattr(image, "dtype") else ("mode",)
        found = ", ".join(str(getattr(image, name, "")) for name in names)
        what = f"can't replace an image of this type, shape or range: {type(image).__name__} {found}"
        fix = "place it before Normalize, where images are uint8 or floats in [0, 1] of 1 or 3 channels"
        raise UsageError(what, where=NAME, fix=fix)
    return replace(form, size=tuple(image.shape[2:])) if is_batch else form


def pool_path(pool: Any) -> Any:
    """The path of a pool as a string, which can be saved and opened by another process."""
    if isinstance(pool, Pool):
        return str(pool.root)
    return os.fspath(pool) if isinstance(pool, os.PathLike) else pool
