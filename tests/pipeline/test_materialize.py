from pathlib import Path

import numpy as np
import pytest

from diffaug.errors import DataError
from diffaug.pipeline.materialize import materialize


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
    materialize(Labelled(labels, **attributes), tmp_path)
    assert written(tmp_path) == ["cat/000001.png", "dog/000000.png", "dog/000002.png"]


def test_nothing_of_an_earlier_dataset_is_left(tmp_path) -> None:
    materialize(Labelled(["a", "a", "b", "b"]), tmp_path)
    (tmp_path / "a" / "own.png").write_bytes(b"not diffaug's")
    materialize(Labelled(["b", "a"]), tmp_path)
    assert written(tmp_path) == ["a/000001.png", "a/own.png", "b/000000.png"]


def test_a_label_outside_the_classes_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="item 1 of the dataset is labelled 2"):
        materialize(Labelled([0, 2], classes=["cat", "dog"]), tmp_path)
