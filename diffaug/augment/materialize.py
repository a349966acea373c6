"""Writes a labeled dataset as class folders of PNG, from which a catalog is built as usual."""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffaug.augment.foreign import item_of
from diffaug.augment.formats import IMAGE_KEYS, image_and_label_keys, what_is_held
from diffaug.augment.labels import (
    checked_labels,
    columns_of,
    get_class_to_idx,
    label_of,
    require_map_style,
    stored_targets,
)
from diffaug.augment.pixels import Values, pixels_of
from diffaug.data.labels import Label, UnknownLabelError, class_of, is_integer
from diffaug.data.layouts.reading import FOLDERS
from diffaug.errors import DataError, UsageError
from diffaug.files import storage
from diffaug.runtime.distributed import current


@dataclass(frozen=True)
class DatasetFolder:
    """Where the images of a dataset belong on disk.

    Attributes:
        root: The folder of the class folders, named by the content of the dataset, so that images of different
            datasets are never mixed and the data folder of a study identifies its dataset.
        folders: Folder of each class by name.
        class_to_idx: Class name to label; None if labels are names themselves.
    """

    root: Path
    folders: dict[str, str]
    class_to_idx: dict[str, int] | None


def folder_of_dataset(dataset: Any, study: Path) -> DatasetFolder:
    """The folder for the images of a dataset, beside the study; all items are read.

    Raises:
        UsageError: This is no map-style dataset.
        DataError: It has no items, or one that is not an image with a single class.
    """
    require_map_style(dataset)
    if not len(dataset):
        raise DataError("the dataset has no items", fix="pass the training images")
    contents = [(name, _hash(pixels)) for name, pixels in _named_images(dataset)]
    names = sorted({name for name, _ in contents})
    class_to_idx = get_class_to_idx(dataset)
    if class_to_idx is None and is_integer(label_of(item_of(dataset, 0), 0, columns_of(dataset)[1])):
        class_to_idx = {name: int(name) for name in names}
    folder = study.parent / f"{study.name}-images-{storage.fingerprint(contents)}" / "images"
    return DatasetFolder(folder, storage.safe_names(names), class_to_idx)


def materialize(dataset: Any, target: DatasetFolder) -> None:
    """Writes every item of a dataset as PNG to its folder, unless that is complete.

    An item is (image, label, ...) or a mapping with these. For the image see `pixels_of`, for the label `plain_label`.
    A file beside the folders holds the names of their classes, so that no name is taken for a split or for masks.
    """
    home, contents = target.root.parent, []
    if (home / storage.DONE).is_file():
        return
    if home.exists():
        fix = "move it, or choose another study"
        raise UsageError("the target folder exists and was not created by diffaug", where=home, fix=fix)
    with storage.new_directory(home, {}) as staging:
        folder = staging / target.root.name
        for index, (name, pixels) in enumerate(_named_images(dataset)):
            contents.append((name, _hash(pixels)))
            if name in target.folders:
                file = folder / target.folders[name] / f"{index:06d}.png"
                storage.write_unfinished(file, storage.png_bytes(pixels))
        storage.write_json(folder / FOLDERS, {folder: name for name, folder in target.folders.items()})
        if not home.name.endswith(storage.fingerprint(contents)):
            fix = "pass it without random transforms; diffaug augments by itself"
            raise DataError("the dataset returns different images each time it is read", fix=fix)


def folder_of_unlabeled(images: str | Path | Any, study: Path) -> Path:
    """The folder of unlabeled images: as given, or that beside the study to which a dataset is written as PNG.

    An item of a dataset is an image, or a tuple or mapping that holds one. Labels are not looked at.

    Raises:
        UsageError: This is neither a folder nor a map-style dataset.
        DataError: It has no items, or one that is no image.
    """
    if isinstance(images, str | Path):
        return Path(images)
    require_map_style(images)
    if not len(images):
        raise DataError("the dataset of unlabeled images has no items", fix="leave unlabeled= out")
    contents = [_hash(pixels) for pixels in _images(images)]
    home = study.parent / f"{study.name}-unlabeled-{storage.fingerprint(contents)}"
    with current().main_first():
        if current().is_main and not (home / storage.DONE).is_file():
            _write_unlabeled(images, contents, home)
    return home / "images"


def _write_unlabeled(dataset: Any, contents: list[str], home: Path) -> None:
    with storage.new_directory(home, {}) as staging:
        for index, pixels in enumerate(_images(dataset)):
            if _hash(pixels) != contents[index]:
                fix = "pass it without random transforms; diffaug augments by itself"
                raise DataError("the dataset returns different images each time it is read", fix=fix)
            storage.write_unfinished(staging / "images" / f"{index:06d}.png", storage.png_bytes(pixels))


def _images(dataset: Any) -> Iterator[Values]:
    """The pixels of every item, without its label."""
    column = columns_of(dataset)[0]
    for index in range(len(dataset)):
        yield pixels_of(_image_of(item_of(dataset, index), column), index)


def _image_of(item: Any, column: str | None) -> Any:
    names = item if isinstance(item, Mapping) else getattr(item, "_fields", ())
    key = next((name for name in (column, *IMAGE_KEYS) if name is not None and name in names), None)
    if key is not None:
        return item[key] if isinstance(item, Mapping) else getattr(item, key)
    return item[0] if isinstance(item, tuple | list) and item else item


def _hash(pixels: Values) -> str:
    return storage.sha256_bytes(repr((pixels.shape, pixels.dtype.str)).encode() + pixels.tobytes())


def _named_images(dataset: Any) -> Iterator[tuple[str, Values]]:
    """Class name and pixels of every item."""
    class_to_idx, stored, labels = get_class_to_idx(dataset), stored_targets(dataset), []
    columns = columns_of(dataset)
    for index in range(len(dataset)):
        item = item_of(dataset, index)
        keys = image_and_label_keys(item, columns)
        if keys is None:
            what = f"item {index} of the dataset is no image with a label: {what_is_held(item)}"
            raise DataError(what, fix="wrap the dataset to return (image, label)")
        label = label_of(item, index, columns[1])
        if class_to_idx is not None and stored is not None:
            _require_same(label, stored[index], class_to_idx, index)
        labels.append(label)
        yield _class_name(label, class_to_idx, index), pixels_of(item[keys[0]], index)
    checked_labels(labels, named=class_to_idx is not None)


def _require_same(label: Label, stored: Label, class_to_idx: Mapping[str, int], index: int) -> None:
    """A `target_transform` that renumbers classes leaves their names behind."""
    if class_to_idx.get(str(label), label) != class_to_idx.get(str(stored), stored):
        what = f"item {index} has label {label!r}, but the dataset's own list of labels says {stored!r}"
        fix = "remove the target_transform, which class names do not follow, or wrap the dataset without names"
        raise DataError(what, fix=fix)


def _class_name(label: Label, class_to_idx: Mapping[str, int] | None, index: int) -> str:
    """The name of the class, composed, since a folder of either Unicode form is the same class."""
    try:
        name = str(label) if class_to_idx is None else class_of(label, list(class_to_idx), class_to_idx)
        name.encode()
    except UnknownLabelError as error:
        raise DataError(f"item {index} of the dataset: {error.what}", fix=error.fix) from error
    except UnicodeEncodeError as error:
        what = f"item {index} of the dataset: the class name {error.object!a} is no valid Unicode text"
        raise DataError(what, fix="rename the class in the dataset") from error
    return unicodedata.normalize("NFC", name)
