from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffaug.augment.materialize import folder_of_dataset, materialize
from diffaug.errors import DataError, UsageError


class Labelled:
    """A map-style dataset of 8 px images, each of its index's brightness."""

    def __init__(self, labels: list[object], **attributes: object) -> None:
        self.labels = labels
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, object]:
        return np.full((8, 8), index, np.uint8), self.labels[index]


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def put(dataset: Labelled, root: Path) -> Path:
    folder = folder_of_dataset(dataset, root / "study")
    materialize(dataset, folder)
    return folder


@pytest.mark.parametrize(
    ("labels", "attributes"),
    [
        ([2, 1, 2], {"class_to_idx": {"cat": 1, "dog": 2}}),
        ([1, 0, 1], {"classes": ["cat", "dog"]}),
        (["dog", "cat", "dog"], {"classes": ["cat", "dog"]}),
        (["dog", "cat", "dog"], {}),
    ],
)
def test_images_lie_in_the_folder_of_their_own_class(tmp_path, labels, attributes) -> None:
    folder = put(Labelled(labels, **attributes), tmp_path)
    assert written(folder) == ["cat/000001.png", "dog/000000.png", "dog/000002.png"]


def test_each_dataset_has_its_own_folder_that_is_written_once(tmp_path) -> None:
    first = put(Labelled(["a", "a", "b", "b"]), tmp_path)
    (first / "a" / "own.png").write_bytes(b"not diffaug's")
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    second = put(Labelled(["b", "a"]), tmp_path)
    assert put(Labelled(["a", "a", "b", "b"]), tmp_path) == first != second
    assert written(second) == ["a/000001.png", "b/000000.png"]
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before


def test_what_lies_in_the_place_of_the_images_is_left_alone(tmp_path) -> None:
    folder = folder_of_dataset(Labelled(["a", "b"]), tmp_path / "study")
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "000000.png").write_bytes(b"not diffaug's")
    with pytest.raises(UsageError, match="something else is there"):
        materialize(Labelled(["a", "b"]), folder)
    assert [path.read_bytes() for path in folder.rglob("*.png")] == [b"not diffaug's"]


def test_a_dataset_that_changes_its_images_at_random_is_refused(tmp_path) -> None:
    class Restless(Labelled):
        def __getitem__(self, index: int) -> tuple[np.ndarray, object]:
            self.reads = getattr(self, "reads", 0) + 1
            return np.full((8, 8), self.reads, np.uint8), self.labels[index]

    with pytest.raises(DataError, match="without random transforms"):
        put(Restless(["a", "b"]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_label_outside_the_classes_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="item 1 of the dataset is labelled 2"):
        put(Labelled([0, 2], classes=["cat", "dog"]), tmp_path)


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I;16"])
def test_pillow_images_of_any_mode_keep_their_colours(tmp_path, mode) -> None:
    grey = mode in ("1", "LA", "I;16")
    colour = Image.new("L" if grey else "RGB", (8, 8), 255 if grey else (204, 51, 51))
    image = Image.fromarray(np.full((8, 8), 65535, np.uint16)) if mode == "I;16" else converted(colour, mode)

    class Pictures(Labelled):
        def __getitem__(self, index: int) -> tuple[Image.Image, object]:
            return image, self.labels[index]

    seen = np.asarray(Image.open(next(put(Pictures(["a"]), tmp_path).rglob("*.png"))), np.int64)
    assert np.abs(seen - np.asarray(colour, np.int64)).max() <= 6


def converted(image: Image.Image, mode: str) -> Image.Image:
    if mode != "LAB":
        return image.convert(mode)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
