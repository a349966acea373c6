from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffaug.augment.materialize import folder_of_dataset, materialize
from diffaug.errors import DataError, UsageError
from tests.augment.items import Items


def labeled(labels: list[object], **attributes: object) -> Items:
    """8 px images, each of its index's brightness."""
    return Items([(np.full((8, 8), index, np.uint8), label) for index, label in enumerate(labels)], **attributes)


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def put(dataset: Items, root: Path) -> Path:
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
    folder = put(labeled(labels, **attributes), tmp_path)
    assert written(folder) == ["cat/000001.png", "dog/000000.png", "dog/000002.png"]


def test_each_dataset_has_its_own_folder_that_is_written_once(tmp_path) -> None:
    first = put(labeled(["a", "a", "b", "b"]), tmp_path)
    (first / "a" / "own.png").write_bytes(b"not diffaug's")
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    second = put(labeled(["b", "a"]), tmp_path)
    assert put(labeled(["a", "a", "b", "b"]), tmp_path) == first != second
    assert written(second) == ["a/000001.png", "b/000000.png"]
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before


def test_what_lies_in_the_place_of_the_images_is_left_alone(tmp_path) -> None:
    folder = folder_of_dataset(labeled(["a", "b"]), tmp_path / "study")
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "000000.png").write_bytes(b"not diffaug's")
    with pytest.raises(UsageError, match="was not created by diffaug"):
        materialize(labeled(["a", "b"]), folder)
    assert [path.read_bytes() for path in folder.rglob("*.png")] == [b"not diffaug's"]


def test_a_dataset_that_changes_its_images_at_random_is_refused(tmp_path) -> None:
    noise = np.random.default_rng(0)
    restless = Items([lambda: (noise.integers(0, 255, (8, 8), dtype=np.uint8), "a")] * 2)
    with pytest.raises(DataError, match="without random transforms"):
        put(restless, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_label_outside_the_classes_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="item 1 of the dataset has label 2"):
        put(labeled([0, 2], classes=["cat", "dog"]), tmp_path)


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_pillow_images_of_any_mode_keep_their_colors(tmp_path, mode) -> None:
    gray = mode in ("1", "LA", "I;16")
    color = Image.new("L" if gray else "RGB", (8, 8), 255 if gray else (204, 51, 51))
    image = Image.fromarray(np.full((8, 8), 65535, np.uint16)) if mode == "I;16" else color.convert(mode)
    seen = np.asarray(Image.open(next(put(Items([(image, "a")]), tmp_path).rglob("*.png"))), np.int64)
    assert np.abs(seen - np.asarray(color, np.int64)).max() <= 6
