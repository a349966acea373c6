"""Writes a labeled torch Dataset as class folders of PNG, from which a catalog is built as usual."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.augment.labels import get_class_to_idx
from diffaug.data.decoding.decode import decode_image, pixel_sha256
from diffaug.errors import DataError, UsageError
from diffaug.files import storage

DIRECT_MODES = ("L", "RGB", "F")  # of Pillow, with the values of a gray or RGB array


def folder_of_dataset(dataset: Any, study: Path) -> Path:
    """The folder of a dataset's images: beside the study, named by their classes and pixels, all of which are read.

    So images of different datasets are never mixed, and the data folder of a study identifies its dataset.
    """
    contents = [[name, pixel_sha256(pixels)] for name, pixels in _items(dataset)]
    return study.parent / f"{study.name}-images-{storage.fingerprint(contents)}" / "images"


def materialize(dataset: Any, folder: Path) -> None:
    """Writes every item of a map-style dataset as PNG to the `folder_of_dataset`, unless that is complete.

    Items are (image, label). The image is PIL, a uint8 array (H, W[, C]) or a tensor (C, H, W); floats lie in [0, 1].
    Labels are indices by the dataset's `class_to_idx` or `classes`, or anything printable.
    """
    home, contents = folder.parent, []
    if (home / storage.DONE).is_file():
        return
    if home.exists():
        fix = "move it, or choose another study"
        raise UsageError("the target folder exists and was not created by diffaug", where=home, fix=fix)
    with storage.new_directory(home, {}) as staging:
        for name, pixels in _items(dataset):
            storage.write_unfinished(staging / folder.name / name, storage.png_bytes(pixels))
            contents.append([name, pixel_sha256(pixels)])
        if not home.name.endswith(storage.fingerprint(contents)):
            fix = "pass it without random transforms; diffaug augments by itself"
            raise DataError("the dataset returns different images each time it is read", fix=fix)


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
    what = f"item {index} of the dataset is not an (image, label) pair"
    raise DataError(what, fix="wrap the dataset to return such pairs")


def _class_name(label: Any, names: Mapping[int, str], index: int) -> str:
    if not names or label in names.values():
        return str(label)
    if label not in names:
        raise DataError(f"item {index} of the dataset has label {label!r}, which is not one of its classes: {names}")
    return names[label]


def _pixels(image: Any, index: int) -> NDArray[np.uint8]:
    if isinstance(image, Image.Image) and image.mode not in DIRECT_MODES:
        image = decode_image(image).pixels
    array = np.asarray(image)
    if hasattr(image, "detach") and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if array.dtype.kind == "f":
        if array.min() < 0 or array.max() > 1:
            found = f"item {index} of the dataset has values from {array.min():.2g} to {array.max():.2g}"
            fix = "remove the normalization from the dataset's transform"
            raise DataError(f"{found}; images as floats must lie in [0, 1]", fix=fix)
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3)):
        raise DataError(f"item {index} of the dataset is not an image: {array.dtype} {array.shape}")
    return np.ascontiguousarray(array)
