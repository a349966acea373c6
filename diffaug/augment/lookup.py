"""Looks up synthetic images by label, for the transforms."""

import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from diffaug.augment.formats import ImageFormat
from diffaug.augment.packed import PackedImages, packed_reader
from diffaug.data.labels import (
    SHOWN,
    UnknownLabelError,
    class_of,
    integers_are_clear,
    is_integer,
    match_name,
    plain_label,
)
from diffaug.data.layouts.entries import listed
from diffaug.errors import UsageError, did_you_mean
from diffaug.synthesis.pool.pool import Pool, without_blind

CACHED_IMAGES = 128
NAME = "SyntheticReplace"

OnProblem = Literal["error", "skip"]


class PoolLookup:
    """Images of a pool by label; each process opens the pool, or that of a study, at the first use.

    Images of blind classes are left out, see `usable_pool`, unless `include_blind`. Errors name the place `where`.
    """

    def __init__(
        self,
        path: str,
        class_to_idx: Mapping[str, int] | None = None,
        *,
        include_blind: bool = False,
        where: str = NAME,
    ) -> None:
        self.path, self._class_to_idx, self._include_blind, self.where = path, class_to_idx, include_blind, where

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(type(self), include_blind=self._include_blind, where=self.where)
        return make, (self.path, self._class_to_idx)

    @cached_property
    def pool(self) -> Pool:
        """The open pool."""
        pool = Pool.open(self.path)
        return pool if self._include_blind else without_blind(pool)[0]

    @cached_property
    def read(self) -> Callable[[int], NDArray[np.uint8]]:
        """What reads an image by its position in the pool, packed or else with a cache."""
        read = packed_reader(self.pool)
        return read if isinstance(read, PackedImages) else lru_cache(CACHED_IMAGES)(read)

    def position_of(self, image: Sequence[str]) -> int:
        """The position in the pool of an image, given by file and sha256; a UsageError if it is not there any more."""
        position = self._position_by_key.get(tuple(image))
        if position is None:
            what = f"the image '{image[0]}' is gone from the pool {self.path}: a reviewer rejects it, its class is "
            what += "left out, or the pool was made anew"
            raise UsageError(what, where=self.where, fix="accept it again, or draw anew instead of replaying")
        return position

    @cached_property
    def _position_by_key(self) -> dict[tuple[str, ...], int]:
        return {key: position for position, key in enumerate(self.pool.image_keys)}

    def require_known_names(self, on_unknown: OnProblem) -> None:
        """Raises UsageError if `class_to_idx` names a class that the pool does not have, unless it may be skipped."""
        for name in (self._class_to_idx or {}) if on_unknown == "error" else ():
            if match_name(name, self.pool.classes) is None:
                classes = listed(self.pool.classes, shown=SHOWN)
                what = f"class_to_idx names {name!r}, which is not a class of the pool: {classes}"
                fix = f"{did_you_mean(name, self.pool.classes)}; or set on_unknown_label='skip'"
                raise UsageError(what, where=self.where, fix=fix)

    def candidates(self, label: Any, on_unknown: OnProblem) -> NDArray[np.int64]:
        """Positions in the pool of the images of a label's class; none of an unknown, skipped one.

        For what a label means see `diffaug.data.labels.class_of`. An integer that means another class in another
        dataset is a UsageError, even where unknown labels are skipped.
        """
        try:
            name = self._cached_class_of(label) if type(label) in (int, str) else self.class_of(label)
        except UnknownLabelError as error:
            if on_unknown == "skip":
                return np.empty(0, np.int64)
            fix = f"{error.fix}; or set on_unknown_label='skip'"
            raise UnknownLabelError(error.what, where=self.where, fix=fix) from error
        return self._positions_of(name)

    @cached_property
    def class_to_idx(self) -> Mapping[str, int]:
        """Class name to label of the dataset; a UsageError if that is unknown."""
        if self._numbering is not None:
            return self._numbering
        if integers_are_clear(self.pool.classes):
            return {name: int(name) for name in self.pool.classes}
        what = "a soft label needs the order of the classes in your dataset, which is unknown"
        raise UsageError(what, where=self.where, fix="pass class_to_idx=dataset.class_to_idx")

    @cached_property
    def _numbering(self) -> Mapping[str, int] | None:
        return self.pool.dataset_class_to_idx if self._class_to_idx is None else self._class_to_idx

    @cached_property
    def _cached_class_of(self) -> Callable[[int | str], str]:
        return lru_cache(None)(self.class_of)

    @cached_property
    def _positions_of(self) -> Callable[[str], NDArray[np.int64]]:
        return lru_cache(None)(lambda name: self.pool.indices_of(self.pool.classes.index(name)))

    def class_of(self, label: Any) -> str:
        """The class of the pool that a label of the dataset means, see `diffaug.data.labels.class_of`."""
        classes = self.pool.classes
        if self._numbering is None and not integers_are_clear(classes) and is_integer(label):
            example = {name: index for index, name in enumerate(sorted(classes)[:SHOWN])}
            raise UsageError(
                f"which class label {label} means in your dataset is unknown; classes: {listed(classes, shown=SHOWN)}",
                where=self.where,
                fix=f"pass class_to_idx=dataset.class_to_idx, such as {example} of an ImageFolder, or names as labels",
            )
        return class_of(label, classes, self._numbering, where=self.where)


def usable_pool(pool: Pool, *, include_blind: bool) -> Pool:
    """The pool without images that nothing shows to belong to their class, with a warning, unless they are wanted."""
    if include_blind:
        return pool
    usable, left_out = without_blind(pool)
    if left_out:
        warnings.warn(f"{left_out}; use them anyway with include_blind=True", stacklevel=3)
    return usable


def must_skip(stale: Collection[str], reaction: OnProblem, where: str = NAME) -> bool:
    """Whether an item must stay unchanged because its annotations would no longer match its image."""
    if stale and reaction == "error":
        what = f"{', '.join(sorted(stale))} would no longer match the changed image"
        raise UsageError(what, where=where, fix="pass images without annotations, or set on_annotations='skip'")
    return bool(stale)


def replaceable_format(image: Any, where: str = NAME) -> ImageFormat:
    """The format of a synthetic image that replaces an image or one of a batch NCHW."""
    is_batch = isinstance(image, torch.Tensor) and image.ndim == 4
    form = ImageFormat.of(image.movedim(0, 1).flatten(1, 2) if is_batch else image)  # NCHW as one tall image
    if form is None or not form.is_usual:
        names = ("shape", "dtype") if hasattr(image, "dtype") else ("mode",)
        found = ", ".join(str(getattr(image, name, "")) for name in names)
        what = f"can't replace or mix an image of this type, shape or range: {type(image).__name__} {found}"
        fix = "place it before Normalize, where images are uint8 or floats in [0, 1] of 1 or 3 channels"
        raise UsageError(what, where=where, fix=fix)
    return replace(form, size=tuple(image.shape[2:])) if is_batch else form


def pool_path(pool: Any) -> Any:
    """The path of a pool as a string, which can be saved and opened by another process."""
    if isinstance(pool, Pool):
        return str(pool.root)
    return os.fspath(pool) if isinstance(pool, os.PathLike) else pool


def checked_class_to_idx(class_to_idx: Any, where: str = NAME) -> dict[str, int] | None:
    """The mapping with plain numbers; a UsageError if it is not one of distinct names to distinct whole numbers."""
    if class_to_idx is None:
        return None
    try:
        plain = {plain_label(name): plain_label(index) for name, index in dict(class_to_idx).items()}
    except (TypeError, ValueError, UnknownLabelError):
        plain = {}
    checked = {str(name): index for name, index in plain.items() if isinstance(index, int)}
    if not checked or not len(set(checked.values())) == len(checked) == len(class_to_idx):
        what = f"class_to_idx must map class names to distinct whole numbers, not be {class_to_idx!r}"
        raise UsageError(what, where=where, fix="pass dataset.class_to_idx, such as {'cat': 0, 'dog': 1}")
    return checked
