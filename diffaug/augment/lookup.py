"""What the transforms share: synthetic images of a label, looked up in a pool."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from diffaug.augment.forms import ImageForm
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.synthesis.pool.pool import Pool

CACHED_IMAGES = 128
NAME = "SyntheticReplace"  # of the transform, with albumentations as with torchvision

OnProblem = Literal["error", "skip"]


class PoolLookup:
    """A pool by label, with its most recently used images; each process opens it for itself at the first use.

    Args:
        path: Of a pool or of its study.
        class_to_idx: Class name to the index that labels are given as; none: the pool's.
    """

    def __init__(self, path: str, class_to_idx: Mapping[str, int] | None = None) -> None:
        self._path, self._class_to_idx = path, class_to_idx

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._path, self._class_to_idx)

    @cached_property
    def pool(self) -> Pool:
        """The open pool.

        Raises:
            UsageError: There is no finished one.
        """
        return Pool.open(self._path)

    @cached_property
    def read(self) -> Callable[[int], NDArray[np.uint8]]:
        """`Pool.read`, cached."""
        return lru_cache(CACHED_IMAGES)(self.pool.read)

    def candidates(self, label: Any, on_unknown: OnProblem) -> NDArray[np.int64]:
        """Positions in the pool of the images of a class, given by name or index.

        Returns:
            int64 (n,), n being 0 for a class without synthetic images or an unknown one that is skipped.

        Raises:
            UsageError: The pool doesn't have the class.
        """
        plain = _plain(label)
        found = self._indices_of(plain) if isinstance(plain, int | str) else None
        if found is None and on_unknown == "error":
            raise UsageError(
                f"label {plain!r} is not one of the pool's classes {list(self.pool.classes)}",
                where=NAME,
                fix="pass the class name or its index in that order, or set on_unknown_label='skip'",
            )
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
    """Whether an item has to stay as it is because of what would no longer fit its image.

    Raises:
        UsageError: It has, and that is to be an error.
    """
    if stale and reaction == "error":
        raise UsageError(
            f"{', '.join(sorted(stale))} would no longer fit the image once it is replaced",
            where=NAME,
            fix="pass images without annotations, or set on_annotations='skip'",
        )
    return bool(stale)


def replaceable_form(image: Any) -> ImageForm:
    """The form that a synthetic image takes to replace `image`.

    Args:
        image: PIL, an array HW or HWC, a tensor HW or CHW, or a batch NCHW, all of whose images have one form.

    Raises:
        UsageError: It is of a type or range that pixels can't be brought into.
    """
    is_batch = isinstance(image, torch.Tensor) and image.ndim == 4
    form = ImageForm.of(image.movedim(0, 1).flatten(1, 2) if is_batch else image)  # NCHW as one high image
    if form is None:
        names = ("shape", "dtype") if hasattr(image, "dtype") else ("mode",)
        facts = ", ".join(str(getattr(image, name, "")) for name in names)
        raise UsageError(
            f"can't replace an image of this type, shape or range: {type(image).__name__} {facts}",
            where=NAME,
            fix="place it before Normalize, where images are uint8 or floats in [0, 1] of 1 or 3 channels",
        )
    return replace(form, size=tuple(image.shape[2:])) if is_batch else form


def pool_path(pool: Any) -> Any:
    """The path of a pool, as a string that can be saved and opened again by another process."""
    if isinstance(pool, Pool):
        return str(pool.root)
    return os.fspath(pool) if isinstance(pool, os.PathLike) else pool


def _plain(label: Any) -> Any:
    """A NumPy or torch scalar as a Python one."""
    array = np.asarray(label.cpu() if isinstance(label, torch.Tensor) else label)
    return array.item() if array.size == 1 else label
