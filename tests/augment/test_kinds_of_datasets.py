"""One contract for every kind of dataset: a synthetic item is made like a real one, or is refused with what to do."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, default_collate
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder, VisionDataset
from torchvision.transforms import v2

from diffaug import AugmentedDataset
from diffaug.augment.labels import get_class_to_idx, get_targets
from diffaug.errors import DataError, UsageError
from diffaug.synthesis.pool.pool import Pool

this_module = sys.modules[__name__]
CLASSES = ("cat", "dog")
SHADES = {0: 50, 1: 200}  # of the synthetic images of a class; real ones are black
SIZE = 12
LABELS = [0, 1, 0]


@pytest.fixture(scope="module")
def pool(make_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    images = [(label, np.full((SIZE, SIZE, 3), shade, np.uint8)) for label, shade in SHADES.items()]
    return make_pool(tmp_path_factory.mktemp("study") / "pool", CLASSES, images)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for number, label in enumerate(LABELS):
        (root / CLASSES[label]).mkdir(exist_ok=True)
        black().save(root / CLASSES[label] / f"{number}.png")
    return root


def black() -> Image.Image:
    return Image.new("RGB", (SIZE, SIZE))


class Plain(Dataset):
    """A dataset of three items; keyword arguments become attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.targets, self.classes = LABELS, CLASSES
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.targets)


def kind_of(get_item: Callable[[Any, int], Any], base: type = Plain, **attributes: Any) -> Dataset:
    """A dataset written by hand, whose `__getitem__` this is."""
    return type("Kind", (base,), {"__getitem__": get_item})(**attributes)


def invert(image: Any) -> Any:
    return ImageOps.invert(image)


GLOBAL = v2.Lambda(invert)


def inverted() -> Any:
    return GLOBAL(black())


def invert_both(image: Any, label: int) -> tuple[Any, int]:
    return invert(image), label


def invert_sample(sample: dict[str, Any]) -> dict[str, Any]:
    sample["image"] = invert(sample["image"])
    return sample


def invert_batch(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    batch["pixel_values"] = [invert(image) for image in batch.pop("picture")]
    return batch


def process_batch(batch: dict[str, list[Any]]) -> dict[str, Any]:
    """As processors of Hugging Face: stacked tensors under other names."""
    images = [v2.functional.pil_to_tensor(invert(image)) for image in batch["picture"]]
    return {"pixel_values": torch.stack(images), "labels": batch["animal"]}


class ByMethod(Plain):
    def augment(self, image: Any) -> Any:
        return invert(image)


class ByClass(Plain):
    tfm = v2.Lambda(invert)


class ByStaticMethod(Plain):
    @staticmethod
    def preprocess(image: Any) -> Any:
        return invert(image)


class Joint(VisionDataset):
    def __init__(self, **transforms: Any) -> None:
        super().__init__("nowhere", **transforms)
        self.targets, self.classes = LABELS, list(CLASSES)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return self.transforms(black(), self.targets[index])


class Wrapper(Dataset):
    """The usual way to give a part of a dataset a transform of its own."""

    def __init__(self, wrapped: Any, transform: Any, targets: Any = LABELS) -> None:
        self.subset, self.tf, self.targets, self.classes = wrapped, transform, targets, CLASSES

    def __len__(self) -> int:
        return len(self.subset)

    def __getitem__(self, index: int) -> Any:
        image, label = self.subset[index]
        return self.tf(image), label


class Delegating(Wrapper):
    """A wrapper that has what the dataset has, and can't be copied therefore."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.subset, name)


def by(name: str) -> Callable[..., Any]:
    return lambda d, i: (getattr(d, name)(black()), d.targets[i])


def capturing(transform: Any) -> Dataset:
    return kind_of(lambda d, i: (transform(black()), d.targets[i]))


def hugging_face() -> datasets.Dataset:
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "animal": datasets.ClassLabel(names=list(CLASSES)),
            "id": datasets.Value("string"),
        }
    )
    rows = {"picture": [black() for _ in LABELS], "animal": LABELS, "id": ["a", "b", "c"]}
    return datasets.Dataset.from_dict(rows, features=features)


def set_transform() -> datasets.Dataset:
    dataset = hugging_face()
    dataset.set_transform(invert_batch)
    return dataset


pipeline = A.Compose([A.InvertImg(p=1)])
INVERTING: dict[str, Callable[[Path], Any]] = {
    "ImageFolder": lambda folder: ImageFolder(folder, transform=invert),
    "Subset": lambda folder: Subset(ImageFolder(folder, transform=invert), [2, 0]),
    "ConcatDataset": lambda folder: ConcatDataset([ImageFolder(folder, invert), kind_of(by("aug"), aug=invert)]),
    "Subset of ConcatDataset": lambda _: Subset(ConcatDataset([kind_of(by("aug"), aug=invert)] * 2), [4, 0]),
    "transform": lambda _: kind_of(by("transform"), transform=invert),
    "aug": lambda _: kind_of(by("aug"), aug=invert),
    "a private attribute": lambda _: kind_of(by("_tf"), _tf=v2.Lambda(invert)),
    "a method": lambda _: kind_of(by("augment"), ByMethod),
    "a static method": lambda _: kind_of(by("preprocess"), ByStaticMethod),
    "an attribute of the class": lambda _: kind_of(by("tfm"), ByClass),
    "two in turn": lambda _: kind_of(lambda d, i: (d.b(d.a(black())), d.targets[i]), a=v2.Resize(6), b=invert),
    "the first of a list": lambda _: kind_of(
        lambda d, i: (d.steps[0](black()), d.targets[i]), steps=[invert, v2.Resize(2)]
    ),
    "of an object": lambda _: kind_of(lambda d, i: (d.cfg.aug(black()), d.targets[i]), cfg=SimpleNamespace(aug=invert)),
    "a global function": lambda _: kind_of(lambda d, i: (invert(black()), d.targets[i])),
    "a global transform": lambda _: kind_of(lambda d, i: (GLOBAL(black()), d.targets[i])),
    "a function of a module": lambda _: kind_of(lambda d, i: (this_module.invert(black()), d.targets[i])),
    "behind a global function": lambda _: kind_of(lambda d, i: (inverted(), d.targets[i])),
    "a captured transform": lambda _: capturing(v2.RandomInvert(1)),
    "a list in turn": lambda _: kind_of(
        lambda d, i: (d.steps[1](d.steps[0](black())), d.targets[i]), steps=[v2.Resize(6), invert]
    ),
    "of a mapping": lambda _: kind_of(
        lambda d, i: (d.tfs["train"](black()), d.targets[i]), tfs={"train": invert, "val": None}
    ),
    "with a constant": lambda _: kind_of(
        lambda d, i: (d.aug(black(), 0.5), d.targets[i]),
        aug=lambda image, strength: Image.blend(image, invert(image), strength * 2),
    ),
    "albumentations": lambda _: kind_of(
        lambda d, i: (d.aug(image=np.asarray(black()))["image"], d.targets[i]), aug=pipeline
    ),
    "image and label": lambda _: kind_of(lambda d, i: d.joint(black(), d.targets[i]), joint=invert_both),
    "transforms": lambda _: Joint(transforms=invert_both),
    "StandardTransform": lambda _: Joint(transform=invert),
    "a sample": lambda _: kind_of(
        lambda d, i: d.transform({"image": black(), "label": d.targets[i]}), transform=invert_sample
    ),
    "a sample with an id": lambda _: kind_of(
        lambda d, i: d.transform({"image": black(), "label": d.targets[i], "id": i}), transform=invert_sample
    ),
    "a wrapper": lambda folder: Wrapper(ImageFolder(folder), invert, [0, 0, 1]),
    "a wrapper of a transform": lambda folder: Wrapper(
        ImageFolder(folder, v2.PILToTensor()), v2.RandomInvert(1), [0, 0, 1]
    ),
    "a wrapper that delegates": lambda folder: Delegating(ImageFolder(folder), invert, [0, 0, 1]),
    "set_transform": lambda _: set_transform(),
    "with_transform": lambda _: hugging_face().with_transform(invert_batch),
    "a processor": lambda _: hugging_face().remove_columns("id").with_transform(process_batch),
    "Subset of Hugging Face": lambda _: Subset(set_transform(), [1, 2]),
    "AugmentedDataset": lambda folder: ImageFolder(folder, transform=invert),
}


def parts(item: Any) -> list[Any]:
    """The image and the label of an item."""
    if isinstance(item, dict):
        named = [
            next(key for key in keys if key in item)
            for keys in (("pixel_values", "image"), ("animal", "labels", "label"))
        ]
        return [item[name] for name in named]
    return list(item[:2])


def require_alike(real: Any, synthetic: Any) -> None:
    """Same container, types, dtypes and shapes."""
    assert type(synthetic) is type(real)
    if isinstance(real, dict):
        assert list(synthetic) == list(real)
    if isinstance(real, tuple | list | dict):
        for one, other in zip(*(x.values() if isinstance(x, dict) else x for x in (real, synthetic)), strict=True):
            require_alike(one, other)
    for name in ("dtype", "shape", "mode", "size") if not isinstance(real, str) else ():
        if not callable(getattr(real, name, None)):
            assert getattr(synthetic, name, None) == getattr(real, name, None)


@pytest.mark.parametrize("kind", INVERTING)
def test_a_synthetic_image_goes_through_the_datasets_own_transform(folder: Path, pool: Pool, kind: str) -> None:
    dataset = INVERTING[kind](folder)
    augmented = AugmentedDataset(dataset, pool)
    if kind == "AugmentedDataset":
        augmented = AugmentedDataset(augmented, pool)
    assert len(augmented) > len(dataset)
    real = augmented[0]
    assert np.asarray(parts(real)[0]).min() == 255
    for index in range(len(dataset), len(augmented)):
        item = augmented[index]
        require_alike(real, item)
        image, label = parts(item)
        assert np.unique(np.asarray(image)).tolist() == [255 - SHADES[label]]
        assert label == augmented.targets[index]


def test_code_that_is_executed_has_global_names_too(pool: Pool) -> None:
    code = "tf = invert\ndef get_item(dataset, index):\n    return tf(black()), dataset.targets[index]"
    names: dict[str, Any] = {"invert": invert, "black": black, "__name__": "nowhere"}
    exec(code, names)
    image, _ = AugmentedDataset(kind_of(names["get_item"]), pool)[len(LABELS)]
    assert np.unique(np.asarray(image)).tolist() == [255 - SHADES[0]]


def ten(label: int) -> int:
    return 10 * label


LABELS_TRANSFORMED = {
    "together": lambda: Joint(transform=invert, target_transform=ten),
    "before": lambda: kind_of(
        lambda d, i: d.joint(black(), d.target_transform(d.targets[i])), joint=invert_both, target_transform=ten
    ),
    "in the sample, as a tensor": lambda: kind_of(
        lambda d, i: d.tf({"image": black(), "label": torch.tensor(d.target_transform(d.targets[i]))}),
        tf=invert_sample,
        target_transform=ten,
    ),
}


@pytest.mark.parametrize("kind", LABELS_TRANSFORMED)
def test_a_label_goes_through_the_target_transform_once(pool: Pool, kind: str) -> None:
    augmented = AugmentedDataset(LABELS_TRANSFORMED[kind](), pool)
    labels = [item["label"] if isinstance(item, dict) else item[1] for item in augmented]
    assert [int(label) for label in labels] == [0, 10, 0, 0, 10]
    assert {type(label) for label in labels} == {type(labels[0])}


def test_a_transform_that_is_exchanged_later_is_followed_wherever_it_is(pool: Pool) -> None:
    dataset = set_transform()
    augmented = AugmentedDataset(dataset, pool)
    dataset.set_transform(
        lambda batch: {"pixel_values": batch["picture"], "animal": batch["animal"], "id": batch["id"]}
    )
    assert np.asarray(augmented[3]["pixel_values"]).max() == SHADES[0]


def sometimes(dataset: Any, index: int) -> Any:
    return (dataset.aug(black()) if random.random() < 0.5 else black()), dataset.targets[index]


def noise() -> Any:
    return Image.fromarray(np.random.randint(0, 255, (SIZE, SIZE, 3), np.uint8))  # noqa: NPY002


NOT_FOUND = {
    "changed afterwards": lambda: kind_of(lambda d, i: (np.asarray(d.aug(black())) / 255, d.targets[i]), aug=invert),
    "turned afterwards": lambda: kind_of(
        lambda d, i: (d.aug(np.asarray(black())).transpose(1, 0, 2), d.targets[i]), aug=np.invert
    ),
    "by chance": lambda: kind_of(sometimes, aug=invert),
    "by class": lambda: kind_of(
        lambda d, i: (d.strong(black()) if d.targets[i] else d.weak(black()), d.targets[i]),
        strong=invert,
        weak=v2.Resize(9),
    ),
    "random code": lambda: kind_of(lambda d, i: (noise(), d.targets[i])),
    "random code before it": lambda: kind_of(lambda d, i: (d.aug(noise()), d.targets[i]), aug=invert),
    "with the index": lambda: kind_of(lambda d, i: (d.aug(black(), i), d.targets[i]), aug=lambda image, index: image),
    "with a mask": lambda: kind_of(
        lambda d, i: (d.aug(image=black(), mask=black())["image"], d.targets[i]), aug=lambda **both: both
    ),
    "parts that differ": lambda: ConcatDataset([kind_of(by("aug"), aug=invert), kind_of(by("aug"), aug=v2.Resize(9))]),
    "in no format": lambda: kind_of(lambda d, i: (v2.functional.pil_to_tensor(black()) - 1.5, d.targets[i])),
}


@pytest.mark.parametrize("kind", NOT_FOUND)
def test_a_transform_that_is_not_found_is_refused_with_what_to_pass(pool: Pool, kind: str) -> None:
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    with pytest.raises(UsageError) as caught:
        AugmentedDataset(NOT_FOUND[kind](), pool)
    assert "transform=" in str(caught.value.fix)
    augmented = AugmentedDataset(NOT_FOUND[kind](), pool, transform=invert)
    assert np.unique(np.asarray(augmented[len(augmented) - 1][0])).tolist() == [255 - SHADES[1]]
    assert state == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002


def chw(dtype: Any) -> Any:
    return np.zeros((3, SIZE, SIZE), dtype)


FORMATS: dict[str, tuple[Any, float]] = {
    "RGB": (black(), 50),
    "L": (black().convert("L"), 50),
    "P": (black().convert("P"), 50),
    "1": (black().convert("1"), 1),
    "LA": (black().convert("LA"), 50),
    "RGBA": (black().convert("RGBA"), 50),
    "CMYK": (black().convert("CMYK"), 50),
    "YCbCr": (black().convert("YCbCr"), 50),
    "HSV": (black().convert("HSV"), 50),
    "I;16": (Image.fromarray(np.zeros((SIZE, SIZE), np.uint16)), 50 * 257),
    "I": (Image.fromarray(np.zeros((SIZE, SIZE), np.int32)), 50 * 257),
    "HWC": (np.zeros((SIZE, SIZE, 3), np.uint8), 50),
    "HW1": (np.zeros((SIZE, SIZE, 1), np.uint8), 50),
    "CHW": (chw(np.uint8), 50),
    "CHW float": (chw(np.float32), 50 / 255),
    "CHW of 4 px": (np.zeros((3, 4, 4), np.uint8), 50),
    "HWC of 4 px": (np.zeros((4, 4, 3), np.uint8), 50),
    "16 bits": (np.zeros((SIZE, SIZE), np.uint16), 50 * 257),
    "16 bits CHW": (chw(np.uint16), 50 * 257),
    "tensor": (torch.zeros(3, SIZE, SIZE), 50 / 255),
    "tensor of bytes": (torch.zeros(1, SIZE, SIZE, dtype=torch.uint8), 50),
    "tensor HWC": (torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8), 50),
    "tensor of half precision": (torch.zeros(3, SIZE, SIZE, dtype=torch.bfloat16), 50 / 255),
    "tensor of 16 bits": (torch.zeros(1, SIZE, SIZE, dtype=torch.uint16), 50 * 257),
    "tv_tensor": (tv_tensors.Image(torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)), 50),
    "another size": (torch.zeros(3, 7, 5), 50 / 255),
}


def value_of(image: Any) -> float:
    if isinstance(image, Image.Image) and image.mode not in ("I", "I;16", "1"):
        image = image.convert("RGB")
    return float(np.asarray(image.float() if isinstance(image, torch.Tensor) else image).max())


@pytest.mark.parametrize("form", FORMATS)
def test_a_synthetic_image_has_the_format_of_a_real_one(pool: Pool, form: str) -> None:
    example, expected = FORMATS[form]
    augmented = AugmentedDataset(kind_of(lambda d, i: (example, d.targets[i])), pool)
    image = augmented[len(LABELS)][0]
    require_alike(example, image)
    assert value_of(image) == pytest.approx(expected, rel=5e-3, abs=2 if form in ("YCbCr", "HSV", "CMYK") else 0)


def test_16_bit_images_have_the_levels_that_the_pool_was_made_with(make_pool: Any, tmp_path: Path) -> None:
    pixels = np.array([[0, 100], [200, 255]], np.uint8).repeat(4, 0).repeat(4, 1)[..., None]
    pool = make_pool(tmp_path, CLASSES, [(0, pixels)], {"levels": [1000, 3550]})
    image = AugmentedDataset(kind_of(lambda d, i: (np.zeros((8, 8), np.uint16), d.targets[i])), pool)[len(LABELS)][0]
    assert np.unique(image).tolist() == [1000, 2000, 3000, 3550]


EXTRAS = {
    "an index": (lambda i: i, [3, 4]),
    "an index as a tensor": (torch.tensor, [torch.tensor(3), torch.tensor(4)]),
    "another number": (lambda i: 70 + i, [-1, -1]),
    "None": (lambda i: None, [None, None]),
    "nested": (lambda i: {"id": i + 9, "none": None}, [{"id": -1, "none": None}] * 2),
}


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("container", [tuple, list, dict])
def test_further_parts_of_an_item_are_kept_and_filled(pool: Pool, container: type, extra: str) -> None:
    make, expected = EXTRAS[extra]

    def item(dataset: Any, index: int) -> Any:
        made = {"image": torch.zeros(3, 4, 4), "label": dataset.targets[index], "extra": make(index)}
        return made if container is dict else container(made.values())

    augmented = AugmentedDataset(kind_of(item), pool)
    for index, value in ((3, expected[0]), (4, expected[1])):
        found = list(augmented[index].values())[2] if container is dict else augmented[index][2]
        assert found == value
        assert type(found) is type(value)
    if extra != "None" and extra != "nested":
        default_collate([augmented[index] for index in range(5)])


@pytest.mark.parametrize("make", [str, Path])
def test_a_path_of_a_synthetic_item_is_that_of_its_file(pool: Pool, make: type) -> None:
    augmented = AugmentedDataset(kind_of(lambda d, i: (black(), d.targets[i], make(f"{i}.png"))), pool)
    assert augmented[0][2] == make("0.png")
    path = augmented[3][2]
    assert type(path) is type(make("x"))
    assert np.asarray(Image.open(path)).max() == SHADES[0]


@pytest.mark.parametrize("part", [0.5, torch.zeros(2, 4), object(), True])
def test_a_further_part_of_unknown_meaning_is_refused(pool: Pool, part: Any) -> None:
    with pytest.raises(UsageError, match="unknown") as caught:
        AugmentedDataset(kind_of(lambda d, i: (black(), d.targets[i], part)), pool)
    assert "wrap the dataset" in str(caught.value.fix)


ONE_HOT = {
    "tensor": lambda label: torch.eye(2)[label],
    "array": lambda label: np.eye(2, dtype=np.float32)[label],
    "list": lambda label: [float(label == k) for k in range(2)],
}


@pytest.mark.parametrize("kind", ONE_HOT)
def test_one_hot_labels_stay_one_hot(pool: Pool, kind: str) -> None:
    augmented = AugmentedDataset(kind_of(lambda d, i: (black(), ONE_HOT[kind](d.targets[i]))), pool)
    for index, label in ((3, 0), (4, 1)):
        found = augmented[index][1]
        assert type(found) is type(ONE_HOT[kind](label))
        assert np.asarray(found).tolist() == np.asarray(ONE_HOT[kind](label)).tolist()


def test_labels_of_hugging_face_are_read_without_the_images() -> None:
    dataset = hugging_face()
    broken = datasets.Dataset.from_dict(
        {"picture": [{"bytes": b"no image", "path": None}] * 3, "animal": LABELS, "id": ["a"] * 3},
        features=dataset.features,
    )
    for one, expected in ((broken, LABELS), (broken.with_transform(invert_batch), LABELS), (Subset(broken, [1]), [1])):
        assert get_targets(one) == expected
        assert get_class_to_idx(one) == {"cat": 0, "dog": 1}
    plain = broken.cast_column("animal", datasets.Value("int64")).rename_column("animal", "label")
    assert get_targets(plain) == LABELS
    two = broken.add_column("other", LABELS).cast_column("other", dataset.features["animal"])
    with pytest.raises(UsageError, match="animal, other"):
        get_targets(two)


def test_hugging_face_without_a_transform_keeps_its_columns(pool: Pool) -> None:
    augmented = AugmentedDataset(hugging_face(), pool)
    item = augmented[4]
    assert list(item) == ["picture", "animal", "id"]
    assert (np.asarray(item["picture"]).max(), item["animal"]) == (200, 1)
    tensors = AugmentedDataset(hugging_face().with_format("torch"), pool)[3]
    assert tensors["picture"].shape == (3, SIZE, SIZE)
    assert int(tensors["picture"].max()) == 50


def test_a_pool_of_some_classes_is_enough(make_pool: Any, pool: Pool, tmp_path: Path) -> None:
    three = kind_of(lambda d, i: (black(), d.targets[i]), targets=[0, 1, 2], classes=["cat", "dog", "owl"])
    assert AugmentedDataset(three, pool).targets == [0, 1, 2, 0, 1]
    names = kind_of(lambda d, i: (black(), d.targets[i]), targets=["owl", "dog", "cat"], classes=None)
    augmented = AugmentedDataset(names, pool)
    assert [augmented[index][1] for index in (3, 4)] == ["cat", "dog"]
    numbers = make_pool(tmp_path, ["3", "7"], [(1, np.full((SIZE, SIZE, 3), 7, np.uint8))])
    unnamed = TensorDataset(torch.zeros(10, 3, 4, 4), torch.arange(10))
    assert AugmentedDataset(unnamed, numbers).targets[10:] == [7]
    other = kind_of(lambda d, i: (black(), d.targets[i]), targets=[0, 1], classes=["fox", "owl"])
    with pytest.raises(UsageError, match="differ"):
        AugmentedDataset(other, pool)


def test_a_dataset_that_raises_is_named(pool: Pool) -> None:
    def fail(*_: Any) -> Any:
        raise OSError("truncated")

    with pytest.raises(DataError, match="item 0"):
        AugmentedDataset(kind_of(fail), pool)
