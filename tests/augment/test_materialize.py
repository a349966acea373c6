from collections import namedtuple
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset

from diffaug.augment.labels import get_targets
from diffaug.augment.materialize import DatasetFolder, folder_of_dataset, folder_of_unlabeled, materialize
from diffaug.configuration.settings import DataSettings
from diffaug.data.layouts.entries import sorted_classes
from diffaug.data.layouts.scan import scan
from diffaug.decoding.decode import decode
from diffaug.errors import DataError, UsageError
from tests.augment.items import Items


def labeled(labels: list[object], /, **attributes: object) -> Items:
    """8 px images, each of its index's brightness."""
    return Items([(np.full((8, 8), index, np.uint8), label) for index, label in enumerate(labels)], **attributes)


def written(target: DatasetFolder) -> list[str]:
    return sorted(path.relative_to(target.root).as_posix() for path in target.root.rglob("*.png"))


def put(dataset: Any, root: Path) -> DatasetFolder:
    target = folder_of_dataset(dataset, root / "study")
    materialize(dataset, target)
    return target


def classes_found(dataset: Any, root: Path) -> list[str]:
    """The class of each item in the order of the items, by the names of the folders."""
    target = put(dataset, root)
    names = {folder: name for name, folder in target.folders.items()}
    return [names[file.split("/")[0]] for file in sorted(written(target), key=lambda file: file.split("/")[1])]


HUGGING_FACE = {"features": {"label": SimpleNamespace(names=["cat", "dog"]), "image": None}}
HF_ITEMS = [{"image": np.zeros((8, 8), np.uint8), "label": k} for k in (1, 0, 1)]
MEDMNIST = {"info": {"label": {"0": "cat", "1": "dog"}}, "labels": np.array([[1], [0], [1]])}


@pytest.mark.parametrize(
    ("labels", "attributes"),
    [
        ([2, 1, 2], {"class_to_idx": {"cat": 1, "dog": 2}}),
        ([1, 0, 1], {"classes": ["cat", "dog"]}),
        ([1, 0, 1], {"classes": np.array(["cat", "dog"])}),
        ([1, 0, 1], {"class_names": ("cat", "dog")}),
        ([True, False, True], {"classes": ["cat", "dog"]}),
        (["dog", "cat", "dog"], {"classes": ["cat", "dog"]}),
        (["dog", "cat", "dog"], {"classes": ["unused", "dog", "cat"]}),
        (["dog", "cat", "dog"], {}),
        ([np.array([1]), np.array([0]), np.array([1])], MEDMNIST),
        ([np.array([0, 1]), np.array([1, 0]), np.array([0, 1])], {"classes": ["cat", "dog"]}),
    ],
)
def test_images_lie_in_the_folder_of_their_own_class(tmp_path, labels, attributes) -> None:
    assert written(put(labeled(labels, **attributes), tmp_path)) == [
        "cat/000001.png",
        "dog/000000.png",
        "dog/000002.png",
    ]


@pytest.mark.parametrize("wrap", [lambda data: Subset(data, [0, 1]), lambda data: ConcatDataset([data])])
def test_class_names_are_found_in_hugging_face_datasets_and_through_wrappers(tmp_path, wrap) -> None:
    class Named(Items):
        def __getitem__(self, index: Any) -> Any:
            return [item["label"] for item in self.items] if isinstance(index, str) else super().__getitem__(index)

    data = Named(HF_ITEMS, **HUGGING_FACE)
    assert put(data, tmp_path).class_to_idx == {"cat": 0, "dog": 1}
    assert classes_found(wrap(data), tmp_path)[:2] == ["dog", "cat"]


@pytest.mark.parametrize(
    "names",
    [
        ["a/b", "a_b", "a:b", "a\\b"],
        [".hidden", "ends.", "ends ", " begins"],
        ["con", "NUL", "aux.txt", "com1"],
        ["x" * 300, "x" * 301, "\N{SNOWMAN}" * 200],
        ["new\nline", "tab\t", "nul\0", "\x1b[31m", "\u202etxt.exe"],
        ["Case", "case", "CASE"],
        ["..", ".", "/", "//"],
        ["train", "test", "masks", "unlabelled", "lost+found", "__MACOSX", "Thumbs.db"],
        ["0", "00", "0.0", "1e3", "no"],
    ],
)
def test_any_class_name_gets_a_folder_of_its_own_that_leads_back(tmp_path, names) -> None:
    target = put(labeled(names * 2), tmp_path)
    assert classes_found(labeled(names * 2), tmp_path) == names * 2
    folders = list(target.folders.values())
    assert len({folder.casefold() for folder in folders}) == len(names)
    assert all(len(folder.encode()) < 100 and folder.isprintable() for folder in folders)
    found = scan(target.root, DataSettings())
    assert found.classes == sorted_classes(names)
    assert [entry.label for entry in sorted(found.entries, key=lambda entry: entry.path[-10:])] == names * 2
    assert {entry.split for entry in found.entries} == {None} and not found.remarks


def test_a_name_in_two_unicode_forms_is_one_class(tmp_path) -> None:
    assert classes_found(labeled(["caf\u00e9", "cafe\u0301"]), tmp_path) == ["caf\u00e9"] * 2


def test_numbers_are_numbers_and_not_positions(tmp_path) -> None:
    target = put(labeled([5, 20, 5]), tmp_path)
    assert written(target) == ["20/000001.png", "5/000000.png", "5/000002.png"]
    assert target.class_to_idx == {"20": 20, "5": 5}


def test_each_dataset_has_its_own_folder_that_is_written_once(tmp_path) -> None:
    first = put(labeled(["a", "a", "b", "b"]), tmp_path)
    (first.root / "a" / "own.png").write_bytes(b"not diffaug's")
    before = {path: path.stat().st_mtime_ns for path in first.root.rglob("*")}
    second = put(labeled(["b", "a"]), tmp_path)
    assert put(labeled(["a", "a", "b", "b"]), tmp_path) == first != second
    assert written(second) == ["a/000001.png", "b/000000.png"]
    assert {path: path.stat().st_mtime_ns for path in first.root.rglob("*")} == before


def test_what_lies_in_the_place_of_the_images_is_left_alone(tmp_path) -> None:
    target = folder_of_dataset(labeled(["a", "b"]), tmp_path / "study")
    (target.root / "a").mkdir(parents=True)
    (target.root / "a" / "000000.png").write_bytes(b"not diffaug's")
    with pytest.raises(UsageError, match="was not created by diffaug"):
        materialize(labeled(["a", "b"]), target)
    assert [path.read_bytes() for path in target.root.rglob("*.png")] == [b"not diffaug's"]


def test_a_dataset_that_changes_its_images_at_random_is_refused(tmp_path) -> None:
    noise = np.random.default_rng(0)
    restless = Items([lambda: (noise.integers(0, 255, (8, 8), dtype=np.uint8), "a")] * 2)
    with pytest.raises(DataError, match="without random transforms"):
        put(restless, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("labels", "attributes", "words"),
    [
        ([0, 2], {"classes": ["cat", "dog"]}, "item 1 of the dataset: there is no class 2"),
        ([0, -1], {"classes": ["cat", "dog"]}, "(?s)item 1 .*-1.*unlabeled"),
        ([0, -1], {}, "(?s)1 items have negative labels, item 1 has -1.*unlabeled"),
        ([0, None], {}, "item 1 .* missing label"),
        (list(range(30)), {}, "30 items have 30 different labels"),
        ([1, 0], {"classes": ["cat", "dog"], "targets": [0, 1]}, "item 0 has label 1, but .* says 0"),
        ([0, "a"], {}, "item 0 has the label 0 and item 1 has 'a'.*mixed"),
        ([1, "01"], {}, "mixed"),
        ([0, 10**5000], {}, "item 1 .*too large for a class index"),
        (["a", "\ud800"], {}, r"item 1 .*'\\ud800' is no valid Unicode"),
        ([0, 1], {"classes": ["a", "\ud800"]}, r"item 1 .*'\\ud800' is no valid Unicode"),
        ([0, torch.tensor(1, device="meta")], {}, "label of item 1 .*meta tensor"),
        ([0, 1], {"targets": torch.zeros(2, device="meta")}, "labels that the dataset stores .*meta tensor"),
        (["cow", "dog"], {"classes": ["cat", "dog"]}, "item 0 .* no class 'cow'"),
    ],
)
def test_labels_without_a_class_are_refused_by_name(tmp_path, labels, attributes, words) -> None:
    with pytest.raises(DataError, match=words):
        put(labeled(labels, **attributes), tmp_path)
    assert not list(tmp_path.iterdir())


def failing(error: BaseException) -> Items:
    def fail() -> None:
        raise error

    return Items([(np.zeros((8, 8), np.uint8), 0), fail])


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        OSError(5, "bad"),
        IndexError("bad"),
        KeyError("bad"),
        StopIteration("bad"),
        RuntimeError("bad"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("read", [put, folder_of_unlabeled, lambda data, _: get_targets(data)])
@pytest.mark.filterwarnings("ignore:Items has no attribute")
def test_whatever_a_dataset_raises_names_the_item(tmp_path, error, read) -> None:
    with pytest.raises(
        DataError, match=f"(?s)item 1 of the dataset can't be read: {type(error).__name__}.*bad.*Subset"
    ):
        read(failing(error), tmp_path / "study")


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(1), UsageError("own")])
def test_what_is_not_the_fault_of_a_dataset_is_passed_on(tmp_path, error) -> None:
    with pytest.raises(type(error)):
        put(failing(error), tmp_path)


def test_the_advice_to_leave_an_item_out_works(tmp_path) -> None:
    assert put(Subset(failing(ValueError("bad")), [0]), tmp_path).folders == {"0": "0"}


class Broken(Items):
    """A dataset of which the length, or the attribute of the class names, raises."""

    @property
    def classes(self) -> Any:
        raise ZeroDivisionError("bad")


class Endless(Items):
    def __len__(self) -> int:
        raise TypeError("endless")


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        yield from labeled([0, 1])


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (DataLoader(labeled([0, 1])), "loader.dataset"),
        (Stream(), "with a length"),
        (iter([(0, 1)]), "with a length"),
        ((np.zeros((4, 8, 8)), np.zeros(4)), "TensorDataset"),
        (torch.zeros(4, 1, 8, 8), "TensorDataset"),
        ({"train": labeled([0, 1]), "test": labeled([0, 1])}, r"train, test[\s\S]*data\['train'\]"),
        (None, "NoneType"),
        (7, "int"),
        ({1, 2}, "set"),
        ([], "no items"),
        (Broken([(0, 1)]), "class names of the dataset .*bad"),
        (Endless([(0, 1)]), "can't be used.*endless"),
        ([(0, 1), (0,)], "item 0 .*type int"),
        ([(np.zeros((8, 8), np.uint8), 1), (0,)], "item 1 .*tuple of 1"),
        ([(np.zeros((8, 8), np.uint8), 1), None], "item 1 .*NoneType"),
        (Subset(labeled([0, 1]), []), "no items"),
        (["a.png", "b.png"], "item 0 .* no image with a label"),
        ([{"image": np.zeros((8, 8), np.uint8), "fine": 1, "coarse": 0}], "(?s)item 0 .*coarse"),
        ([{"image": 0, "label": 1, "target": 0}], "(?s)item 0 .*label, target.*keep one"),
    ],
)
def test_what_is_no_dataset_of_labeled_images_is_refused_with_what_to_pass(tmp_path, dataset, words) -> None:
    with pytest.raises((UsageError, DataError), match=words):
        put(dataset, tmp_path)


Named = namedtuple("Named", ["label", "name", "image"])
gray = np.arange(64, dtype=np.uint8).reshape(8, 8)


@pytest.mark.parametrize(
    "item",
    [
        (gray, 1, 7),
        [gray, 1],
        Named(1, "a.png", gray),
        {"image": gray, "label": 1, "path": "a.png"},
        {"img": gray, "label": 1},
        {"pixel_values": gray, "labels": 1},
        {"image": gray, "target": 1},
    ],
)
def test_items_may_hold_more_than_image_and_label(tmp_path, item) -> None:
    (file,) = put([item], tmp_path).root.rglob("*.png")
    assert file.parent.name == "1"
    assert np.array_equal(np.asarray(Image.open(file)), gray)


color = np.stack([gray, gray.T, 255 - gray], axis=-1)
half = np.full((8, 8), 0.5, np.float32)
deep = gray.astype(np.uint16) * 900
clear = np.dstack([color, np.zeros((8, 8), np.uint8)])
tensor = partial(torch.as_tensor)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (gray, gray),
        (gray[..., None], gray),
        (gray[None], gray),
        (gray > 30, np.where(gray > 30, 255, 0)),
        (color, color),
        (np.moveaxis(color, -1, 0), color),
        (clear, np.full((8, 8), 255)),
        (np.dstack([gray, np.full_like(gray, 255)]), gray),
        (gray / np.float64(255), gray),
        ((gray / 255).astype(np.float32) * 1.0004, gray),
        (deep, deep),
        ((deep // 2).astype(np.int16), deep // 2),
        (tensor(gray), gray),
        (tensor(gray)[None], gray),
        (tensor(color), color),
        (tensor(color).permute(2, 0, 1), color),
        (tensor(color).permute(2, 0, 1).half() / 255, color),
        (tensor(half).bfloat16()[None], np.full((8, 8), 128)),
        (tensor(clear).permute(2, 0, 1), np.full((8, 8), 255)),
        (tensor(deep), deep),
        (deep.astype(">u2"), deep),
        (tensor(half).requires_grad_()[None], np.full((8, 8), 128)),
        (Image.fromarray(gray), gray),
        (Image.fromarray(deep), deep),
        (Image.fromarray(deep.astype(np.int32)), deep),
        (Image.fromarray(half), np.full((8, 8), 128)),
    ],
)
def test_pixels_are_kept(tmp_path, image, expected) -> None:
    (file,) = put([(image, 0)], tmp_path).root.rglob("*.png")
    assert np.array_equal(np.asarray(Image.open(file)), expected)


def with_value(value: float, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    image = half.astype(dtype)
    image[0, 0] = value
    return image


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (with_value(np.nan), "1 of its values are NaN"),
        (with_value(np.inf, np.float64), "NaN or infinite"),
        (tensor(with_value(-np.inf)).half()[None], "NaN or infinite"),
        (np.dstack([with_value(np.nan)] * 3) * 300, "NaN or infinite"),
        (Image.fromarray(with_value(np.nan)), "NaN or infinite"),
        (half * 300, "normalization"),
        (-half, "normalization"),
        (gray.astype(np.int64), "int64"),
        (tensor(gray).int(), "int32"),
        (deep.astype(np.int32).astype(np.uint32), "uint32"),
        (-deep.astype(np.int16), "beyond 16 bits"),
        (np.dstack([deep] * 4), "alpha channel of 16 bits"),
        (Image.fromarray(np.full((8, 8), 70_000, np.int32)), "beyond 16 bits"),
        (gray.tolist(), "type list"),
        ("a.png", "type str"),
        (None, "type NoneType"),
        (np.zeros((2, 8, 8, 3), np.uint8), "shape"),
        (np.zeros((5, 8, 8), np.uint8), "shape"),
        (np.zeros(8, np.uint8), "shape"),
        (gray.astype(complex), "complex"),
        *((np.zeros((0, 0), kind), "0 x 0 px") for kind in (np.uint8, np.int16, np.float32)),
        *((Image.new(mode, (0, 5)), "0 x 5 px") for mode in ("L", "I", "RGBA")),
        (gray[:3], "8 x 3 px, and each side needs 4"),
        (tensor(gray / 255).to_sparse(), "TypeError.*[Ss]parse"),
        (torch.zeros(1, 8, 8, device="meta"), "meta tensor"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, image, words) -> None:
    with pytest.raises(DataError, match=f"item 0 .*{words}|{words}"):
        put([(image, 0)], tmp_path)


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_pillow_images_of_any_mode_keep_their_colors(tmp_path, mode) -> None:
    is_gray = mode in ("1", "LA")
    plain = Image.new("L" if is_gray else "RGB", (8, 8), 255 if is_gray else (204, 51, 51))
    (file,) = put(Items([(plain.convert(mode), "a")]), tmp_path).root.rglob("*.png")
    assert np.abs(np.asarray(Image.open(file), np.int64) - np.asarray(plain, np.int64)).max() <= 6


def test_colors_of_16_bits_reach_the_decoder_whole(tmp_path) -> None:
    (file,) = put([(np.dstack([deep, deep[::-1], deep.T]), 0)], tmp_path).root.rglob("*.png")
    expected = np.dstack([deep, deep[::-1], deep.T]) / 65535 * 255
    decoded = decode(file).pixels
    assert decoded is not None and np.abs(decoded - expected).max() <= 0.5
