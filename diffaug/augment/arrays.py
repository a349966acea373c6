"""Images as scikit-learn passes them: arrays X and y become a labeled dataset, and images become rows of X."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.augment.formats import MODE_OF_CHANNELS, ImageFormat
from diffaug.data.images import LabeledImages
from diffaug.data.labels import UnknownLabelError, plain_label
from diffaug.errors import UsageError
from diffaug.files import storage

WHERE = "fit_resample"
COLORS = (1, 3)


@dataclass(frozen=True)
class ImageRows:
    """A labeled dataset of uint8 images (H, W, C) and class names, made of arrays.

    uint8 stays as it is. Of other types the smallest value of all images is black and the largest is white.

    Attributes:
        rows: X as it was given, (N, H, W), (N, H, W, C) or (N, columns).
        labels: y as it was given, (N,).
        shape: Height, width and channels of the images.
        values: Label of each class by its name.
    """

    rows: NDArray[Any]
    labels: NDArray[Any]
    shape: tuple[int, int, int]
    values: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], str]:
        row = self.rows[index].reshape(self.shape)
        if self.rows.dtype != np.uint8:
            low, high = self._range
            row = np.rint((row.astype(np.float64) - low) / (high - low) * 255).astype(np.uint8)
        return row, _name(self.labels[index], index)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Images of each class by name."""
        names = [_name(label, index) for index, label in enumerate(self.labels)]
        return {name: names.count(name) for name in self.values}

    @cached_property
    def fingerprint(self) -> str:
        """Names the content."""
        content = (self.shape, self.rows.dtype.str, self.rows.tobytes(), [str(label) for label in self.labels])
        return storage.sha256_bytes(repr(content).encode())

    def extended(self, images: LabeledImages) -> tuple[NDArray[Any], NDArray[Any]]:
        """X and y with these images of any size after them, in the shape, type and range of X."""
        form = ImageFormat("numpy", MODE_OF_CHANNELS[self.shape[2]], self.shape[:2], np.dtype(np.uint8))
        made = np.stack([form.convert(pixels) for pixels in images.pixels]) if len(images) else self.rows[:0]
        added = self._as_rows(made.reshape(len(images), *self.rows.shape[1:]))
        labels = np.array([self.values[images.classes[index]] for index in images.labels], self.labels.dtype)
        return np.concatenate([self.rows, added]), np.concatenate([self.labels, labels])

    def _as_rows(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        if self.rows.dtype == np.uint8:
            return pixels
        low, high = self._range
        values = low + pixels / 255 * (high - low)
        return (values if self.rows.dtype.kind == "f" else np.rint(values)).astype(self.rows.dtype)

    @cached_property
    def _range(self) -> tuple[float, float]:
        return float(self.rows.min()), float(self.rows.max())


def image_rows(rows: Any, labels: Any, image_shape: Sequence[int] | None = None) -> ImageRows:
    """Reads X and y; a UsageError says what is wrong with them.

    `image_shape` is that of flat columns: height, width and perhaps channels. Without it they are square and gray.
    """
    array, targets = np.asarray(rows), np.asarray(labels)
    if array.dtype.kind not in "buif":
        raise UsageError(f"X must hold numbers, not {array.dtype}", where=WHERE, fix="pass images as arrays")
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim != 1:
        what = f"y must be one label per image, (N,), not of the shape {targets.shape}"
        raise UsageError(what, where=WHERE, fix="pass class indices or names: y.argmax(axis=1) if it is one-hot")
    if not array.ndim or len(array) != len(targets) or not len(targets):
        what = f"X has {len(array) if array.ndim else 0} images and y has {len(targets)} labels"
        raise UsageError(what, where=WHERE, fix="pass as many labels as images, and at least one")
    shape = _image_shape(array.shape[1:], image_shape)
    _require_values(array)
    return ImageRows(array, targets, shape, _values(targets))


def like(given: Any, result: NDArray[Any]) -> Any:
    """The result as a pandas object if the given one is one, with its names; otherwise as it is."""
    if isinstance(given, pd.DataFrame):
        return pd.DataFrame(result, columns=given.columns)
    return pd.Series(result, name=given.name, dtype=given.dtype) if isinstance(given, pd.Series) else result


def _image_shape(row: tuple[int, ...], given: Sequence[int] | None) -> tuple[int, int, int]:
    if given is not None:
        height, width, channels = (*given, 1)[:3] if len(given) in (2, 3) else (0, 0, 0)
        flat = (height * width * channels,)
        if channels not in COLORS or row not in (flat, tuple(given), (height, width, channels)):
            what = f"image_shape {tuple(given)} does not fit X, whose rows have the shape {row}"
            raise UsageError(what, where=WHERE, fix="give height, width and channels (1 or 3), in the order of X")
        return height, width, channels
    if len(row) == 1:
        side = math.isqrt(row[0])
        if side * side == row[0]:
            return side, side, 1
        what = f"X has {row[0]} columns, which is no square gray image"
        fix = "set image_shape=(height, width) or (height, width, 3)"
    elif len(row) == 2:
        return row[0], row[1], 1
    elif len(row) == 3 and row[2] in COLORS:
        return row[0], row[1], row[2]
    else:
        what = f"X must be (N, H, W), (N, H, W, 1 or 3) or (N, columns), not {('N', *row)}".replace("'", "")
        fix = "move the channels to the end: X.transpose(0, 2, 3, 1)" if len(row) == 3 else "pass one image per row"
    raise UsageError(what, where=WHERE, fix=fix)


def _require_values(array: NDArray[Any]) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        what = f"{int((~np.isfinite(array)).sum())} values of X are NaN or infinite"
        raise UsageError(what, where=WHERE, fix="replace them, or leave these images out")
    if array.dtype != np.uint8 and array.min() == array.max():
        raise UsageError(f"all values of X are {array.min()}", where=WHERE, fix="pass images")


def _values(labels: NDArray[Any]) -> dict[str, Any]:
    """Each label by the name of its class."""
    values: dict[str, Any] = {}
    for index, label in enumerate(labels):
        known = values.setdefault(_name(label, index), label)
        if known != label:
            what = f"y has the labels {known!r} and {label!r}, which have one name"
            raise UsageError(what, where=WHERE, fix="give each class one label of one type")
    return {name: values[name] for name in sorted(values)}


def _name(label: Any, index: int) -> str:
    try:
        return unicodedata.normalize("NFC", str(plain_label(label)))
    except UnknownLabelError as error:
        raise UsageError(f"y[{index}]: {error.what}", where=WHERE, fix=error.fix) from error
