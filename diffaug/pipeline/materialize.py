"""A labelled torch Dataset becomes class folders of PNG, so that there is one way from images to catalog."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug import storage
from diffaug.augment.labels import get_class_to_idx
from diffaug.errors import DataError


def materialize(dataset: Any, folder: Path) -> Path:
    """Writes every item of a map-style dataset of (image, label) pairs as PNG below `folder`.

    Args:
        dataset: Items are (image, label), the image PIL, uint8 array (H, W[, C]), or tensor (C, H, W), a float
            one in [0, 1]. Labels are indices by the dataset's `class_to_idx` or `classes`, or anything printable.
        folder: Where to write; images that are there already, with the same pixels, are kept, and those that an
            earlier call wrote and this one doesn't are removed.

    Returns:
        `folder`.

    Raises:
        DataError: An item is something else.
    """
    names = {index: name for name, index in (get_class_to_idx(dataset) or {}).items()}
    written: set[Path] = set()
    for index in range(len(dataset)):
        image, label = _pair(dataset[index], index)
        name = _class_name(label.item() if hasattr(label, "item") else label, names, index)
        content = storage.png_bytes(_pixels(image, index))
        path = storage.safe_join(folder, storage.safe_names([name])[name], f"{index:06d}.png")
        if not (path.is_file() and path.read_bytes() == content):
            storage.write_bytes(path, content)
        written.add(path)
    for stale in set(folder.glob(f"*/{'[0-9]' * 6}.png")) - written:
        stale.unlink()
    return folder


def _pair(item: Any, index: int) -> tuple[Any, Any]:
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    if isinstance(item, dict) and {"image", "label"} <= item.keys():
        return item["image"], item["label"]
    raise DataError(f"item {index} of the dataset is not an (image, label) pair", fix="wrap the dataset so that it is")


def _class_name(label: Any, names: Mapping[int, str], index: int) -> str:
    if not names or label in names.values():
        return str(label)
    if label not in names:
        raise DataError(f"item {index} of the dataset is labelled {label!r}, which is none of its classes: {names}")
    return names[label]


def _pixels(image: Any, index: int) -> NDArray[np.uint8]:
    array = np.asarray(image)
    if hasattr(image, "detach"):
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    if array.dtype.kind == "f":
        if array.min() < 0 or array.max() > 1:
            raise DataError(
                f"item {index} of the dataset has values from {array.min():.2g} to {array.max():.2g}; "
                "images as floats must lie in [0, 1]",
                fix="pass the dataset without normalisation in its transform",
            )
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3)):
        raise DataError(f"item {index} of the dataset is no image: {array.dtype} {array.shape}")
    return np.ascontiguousarray(array)
