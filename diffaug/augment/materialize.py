"""A labelled torch Dataset becomes class folders of PNG, so that there is one way from images to catalog."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.augment.labels import get_class_to_idx
from diffaug.data.decode import decode_image, pixel_sha256
from diffaug.errors import DataError, UsageError
from diffaug.files import storage

AS_THEY_ARE = ("L", "RGB", "F")  # Pillow's modes whose values are those of a grey or RGB array


def folder_of_dataset(dataset: Any, study: Path) -> Path:
    """Where `materialize` puts a dataset's images: beside the study, named by their classes and pixels.

    So other images never meet these, and a study knows by its data folder whether a dataset is its own.

    Args:
        dataset: As of `materialize`; every item is read.
        study: The study's folder.

    Raises:
        DataError: An item is no labelled image.
    """
    contents = [[name, pixel_sha256(pixels)] for name, pixels in _items(dataset)]
    return study.parent / f"{study.name}-images-{storage.fingerprint(contents)}" / "images"


def materialize(dataset: Any, folder: Path) -> None:
    """Writes every item of a map-style dataset of (image, label) pairs as PNG, unless that was done before.

    Args:
        dataset: Items are (image, label), the image PIL, uint8 array (H, W[, C]), or tensor (C, H, W), a float
            one in [0, 1]. Labels are indices by the dataset's `class_to_idx` or `classes`, or anything printable.
        folder: Of `folder_of_dataset`.

    Raises:
        DataError: An item is something else, or the dataset gives other images each time.
        UsageError: Something that diffaug did not write has the folder's place.
    """
    home, contents = folder.parent, []
    if (home / storage.DONE).is_file():
        return
    if home.exists():
        fix = "move it away, or choose another study"
        raise UsageError("images were to be written here, and something else is there", where=home, fix=fix)
    with storage.new_directory(home, {}) as staging:
        for name, pixels in _items(dataset):
            storage.write_unfinished(staging / folder.name / name, storage.png_bytes(pixels))
            contents.append([name, pixel_sha256(pixels)])
        if not home.name.endswith(storage.fingerprint(contents)):
            raise DataError(
                "the dataset gives other images each time it is read, and a study is of certain images",
                fix="pass it without random transforms; training changes the images at random by itself",
            )


def _items(dataset: Any) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """File name below the folder and pixels of every item."""
    names = {index: name for name, index in (get_class_to_idx(dataset) or {}).items()}
    for index in range(len(dataset)):
        image, label = _pair(dataset[index], index)
        name = _class_name(label.item() if hasattr(label, "item") else label, names, index)
        yield f"{storage.safe_names([name])[name]}/{index:06d}.png", _pixels(image, index)


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
    if isinstance(image, Image.Image) and image.mode not in AS_THEY_ARE:
        image = decode_image(image).pixels
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
