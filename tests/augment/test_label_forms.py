"""One rule in everything that takes labels: an integer is an index into the dataset's classes, a text is a name."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException

from diffaug import AugmentedDataset, MixedBatchSampler, SyntheticReplace
from diffaug.augment.formats import plain
from diffaug.augment.materialize import folder_of_dataset, materialize
from diffaug.data.labels import class_of
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.generator.usual import USUAL
from diffaug.errors import DataError, UsageError
from diffaug.evaluation.experiment.training_task import perform
from diffaug.integrations import albumentations_transforms
from diffaug.integrations.mlflow_model import GeneratorModel
from diffaug.synthesis.pool.pool import Pool
from diffaug.synthesis.pool.targets import resolve_targets
from tests.augment.items import Items

SIZE = 4  # px


@dataclass(frozen=True)
class Numbering:
    """The classes of a pool in its order, and what the dataset that it was made from calls them."""

    classes: tuple[str, ...]
    class_to_idx: dict[str, int]
    pool: Pool

    def class_in(self, image: Any) -> str:
        """The class of a synthetic image, which is as bright as its class says."""
        value = np.asarray(image).flat[0]
        return self.classes[round(float(value) * (255 if value.dtype.kind == "f" else 1))]

    def dataset(self, label: Any, **attributes: Any) -> Items:
        return Items([(np.zeros((SIZE, SIZE), np.uint8), label)] * 2, classes=self._names(), **attributes)

    def _names(self) -> list[str]:
        names = [f"unused {index}" for index in range(max(self.class_to_idx.values()) + 1)]
        for name, index in self.class_to_idx.items():
            names[index] = name
        return names


NUMBERINGS = {
    "names, not in the order of the alphabet": {"owl": 0, "cat": 1, "a/b: c": 2},
    "two": {"negative": 0, "positive": 1},
    "numbers as names, in another order": {"3": 0, "1": 1, "2": 2},
    "twelve numbers": {str(number): number for number in range(12)},
    "numbers from one": {str(number): number for number in range(1, 10)},
    "numbers with gaps": {"0": 0, "20": 20, "5": 5},
    "words that YAML reads as values": {"no": 0, "010": 1, "8": 2, "2020-01-01": 3, "~": 4, "1e3": 5, "1000": 6},
}


@pytest.fixture(scope="module")
def numberings(make_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Numbering]:
    made = []
    for class_to_idx in NUMBERINGS.values():
        classes = tuple(sorted(class_to_idx))
        images = [(position, np.full((SIZE, SIZE, 1), position, np.uint8)) for position in range(len(classes))]
        about = {"dataset_class_to_idx": class_to_idx}
        pool = make_pool(tmp_path_factory.mktemp("study") / "pool", classes, images, about)
        made.append(Numbering(classes, class_to_idx, pool))
    return made


def one_hot(index: int, numbering: Numbering) -> list[int]:
    return [int(position == index) for position in range(max(numbering.class_to_idx.values()) + 1)]


FORMS: dict[str, Callable[[str, int, Numbering], Any]] = {
    "name": lambda name, index, _: name,
    "NumPy text": lambda name, index, _: np.str_(name),
    "list of one name": lambda name, index, _: [name],
    "array of one name": lambda name, index, _: np.array([name]),
    "int": lambda name, index, _: index,
    "int64": lambda name, index, _: np.int64(index),
    "uint8": lambda name, index, _: np.uint8(index),
    "float": lambda name, index, _: float(index),
    "float32": lambda name, index, _: np.float32(index),
    "0-d array": lambda name, index, _: np.array(index),
    "array of one": lambda name, index, _: np.array([index]),
    "list of one": lambda name, index, _: [index],
    "0-d tensor": lambda name, index, _: torch.tensor(index),
    "tensor of one": lambda name, index, _: torch.tensor([index]),
    "float tensor": lambda name, index, _: torch.tensor(float(index), dtype=torch.bfloat16),
    "one-hot list": lambda name, index, one: one_hot(index, one),
    "one-hot array": lambda name, index, one: np.array(one_hot(index, one), np.float32),
    "one-hot bools": lambda name, index, one: np.array(one_hot(index, one), bool),
    "one-hot tensor": lambda name, index, one: torch.tensor(one_hot(index, one)),
}
REFUSED = {
    "two targets": (1, 0),
    "tuple of one": (1,),
    "several classes": [1, 1, 0],
    "no class": [0, 0, 0],
    "several classes as a tensor": torch.tensor([1, 1]),
    "probabilities": np.array([0.5, 0.5]),
    "rows": np.eye(2),
    "mapping": {"labels": torch.tensor([1])},
    "bytes": b"cat",
    "None": None,
    "NaN": float("nan"),
    "NaN in an array": np.array([np.nan]),
    "infinity": float("inf"),
    "fraction": 0.5,
    "fraction as a tensor": torch.tensor(1.5),
    "unlabeled": -1,
    "negative": np.int64(-2),
    "no such index": 99,
    "no such name": "horse",
    "empty text": "",
    "date": datetime.date(2020, 1, 1),
    "NumPy date": np.datetime64("2020-01-01"),
    "set": {1},
    "complex": 1j,
    "empty list": [],
    "object": object(),
}


def by_torchvision(one: Numbering, label: Any, _: Path) -> str:
    return one.class_in(SyntheticReplace(one.pool, p=1)(torch.zeros(1, SIZE, SIZE, dtype=torch.uint8), label)[0])


def by_mapping_given_to_torchvision(one: Numbering, label: Any, _: Path) -> str:
    transform = SyntheticReplace(one.pool, p=1, class_to_idx=one.class_to_idx)
    return one.class_in(transform({"image": torch.zeros(1, SIZE, SIZE), "label": label})["image"])


def by_albumentations(one: Numbering, label: Any, _: Path) -> str:
    transform = albumentations_transforms.SyntheticReplace(pool=one.pool, p=1)
    return one.class_in(transform(image=np.zeros((SIZE, SIZE, 1), np.uint8), label=label)["image"])


def by_augmented_dataset(one: Numbering, label: Any, _: Path) -> str:
    """Of the synthetic items, that with the label of the real ones."""
    dataset = one.dataset(label)
    dataset.class_to_idx = one.class_to_idx
    with pytest.warns(UserWarning, match="every item is read"):
        items = AugmentedDataset(dataset, one.pool)
    same = [image for image, found in (items[k] for k in range(2, len(items))) if plain(found) == plain(label)]
    assert len(same) == 1
    assert {type(found) for _, found in (items[k] for k in range(len(items)))} == {type(label)}
    return one.class_in(same[0])


def by_mixed_batches(one: Numbering, label: Any, _: Path) -> str:
    """The class whose synthetic items are left out of all batches; the others have all been drawn after six epochs."""
    indices = [one.class_to_idx[name] for name in one.classes]
    dataset = one.dataset(0, class_to_idx=one.class_to_idx, targets=indices[:2])
    dataset.items = [(np.zeros((SIZE, SIZE), np.uint8), index) for index in indices[:2]]
    items = AugmentedDataset(dataset, one.pool)
    sampler = MixedBatchSampler(items, batch_size=4, synthetic_fraction=0.5, without=[label])
    drawn = {items.targets[k] for _ in range(6) for batch in sampler for k in batch if items.is_synthetic[k]}
    (left_out,) = set(indices) - drawn
    return items.classes[sorted(one.class_to_idx.values()).index(left_out)]


def without_network(one: Numbering) -> PixelGenerator:
    return PixelGenerator(
        classes=one.classes,
        weights_sha256="",
        dataset_class_to_idx=one.class_to_idx,
        denoiser=None,  # type: ignore[arg-type]
        normalization=None,  # type: ignore[arg-type]
    )


def by_generator(one: Numbering, label: Any, _: Path) -> str:
    return without_network(one).class_of(label)


def by_mlflow_model(one: Numbering, label: Any, _: Path) -> str:
    generator = without_network(one)
    shades = {name: np.full((8, SIZE, SIZE, 1), position, np.uint8) for position, name in enumerate(one.classes)}
    model = GeneratorModel()
    model.generator = SimpleNamespace(
        class_of=generator.class_of, sample=lambda name, *_, **__: shades[name], usual=USUAL
    )
    answer = model.predict(None, {"label": [label], "n": [1]})  # type: ignore[arg-type]
    return str(answer["label"][0])


def by_list_in_strategy(one: Numbering, label: Any, _: Path) -> str:
    counts = dict.fromkeys(one.classes, 1) | {"the largest": 5}
    lifted = resolve_targets(counts, [label], class_to_idx=one.class_to_idx)
    return next(name for name, number in lifted.items() if number)


def by_key_in_strategy(one: Numbering, label: Any, _: Path) -> str:
    try:
        hash(label)
    except TypeError:
        return by_list_in_strategy(one, label, _)
    lifted = resolve_targets(dict.fromkeys(one.classes, 1), {label: 4}, class_to_idx=one.class_to_idx)
    return next(name for name, number in lifted.items() if number)


def by_files_of_dataset(one: Numbering, label: Any, folder: Path) -> str:
    dataset = one.dataset(label)
    dataset.class_to_idx = one.class_to_idx
    target = folder_of_dataset(dataset, folder / "study")
    materialize(dataset, target)
    (written,) = {path.parent.name for path in target.root.rglob("*.png")}
    assert target.class_to_idx == one.class_to_idx
    return next(name for name, named in target.folders.items() if named == written)


CONSUMERS = [
    by_torchvision,
    by_mapping_given_to_torchvision,
    by_albumentations,
    by_augmented_dataset,
    by_mixed_batches,
    by_generator,
    by_mlflow_model,
    by_list_in_strategy,
    by_key_in_strategy,
    by_files_of_dataset,
]


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("form", FORMS)
def test_a_label_means_the_same_class_everywhere(form: str, consumer: Any, numberings: Any, tmp_path: Path) -> None:
    for one in numberings[:3] if consumer is by_files_of_dataset else numberings:  # files take long
        for name in {one.classes[0], one.classes[len(one.classes) // 2], one.classes[-1]}:
            index = one.class_to_idx[name]
            label = FORMS[form](name, index, one)
            assert consumer(one, label, tmp_path / name.replace("/", "-") / one.classes[0].replace("/", "-")) == name


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_class_is_refused_everywhere(form: str, consumer: Any, numberings: Any, tmp_path: Path) -> None:
    with pytest.raises((UsageError, DataError, MlflowException), match="class"):
        consumer(numberings[0], REFUSED[form], tmp_path)


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_a_truth_value_is_a_class_of_two(consumer: Any, numberings: Any, tmp_path: Path) -> None:
    for label in (True, np.True_):
        assert consumer(numberings[1], label, tmp_path / str(type(label))) == "positive"
    with pytest.raises(UsageError, match="True can't mean one of 3 classes"):
        class_of(True, numberings[0].classes)


@pytest.mark.parametrize(
    ("classes", "meaning"),
    [
        (tuple(map(str, range(10))), {0: "0", 9: "9"}),
        (("0", "1"), {0: "0", 1: "1"}),
        (tuple(map(str, range(12))), "ImageFolder gives 2 to the class 10"),
        (tuple(map(str, range(1, 10))), "counted from 1, or a position"),
        (("cat", "dog"), "of which order"),
        (("0", "20", "5"), "gaps"),
        (("-1", "0", "1"), "negative"),
    ],
)
def test_a_number_from_an_unknown_dataset_is_never_guessed(
    make_pool: Any, tmp_path: Path, classes: tuple[str, ...], meaning: dict[int, str] | str
) -> None:
    """The pool of a folder does not know how a dataset that is trained on numbers these classes."""
    images = [(position, np.full((SIZE, SIZE, 1), position, np.uint8)) for position in range(len(classes))]
    one = Numbering(classes, {}, make_pool(tmp_path / "pool", classes, images))
    for consumer in (by_torchvision, by_albumentations):
        assert consumer(one, classes[-1], tmp_path) == classes[-1]
        for label, name in (meaning if isinstance(meaning, dict) else dict.fromkeys((0, 1), None)).items():
            if name is not None:
                assert consumer(one, label, tmp_path) == name
                continue
            with pytest.raises(UsageError, match=r"pass class_to_idx=dataset\.class_to_idx"):
                consumer(one, label, tmp_path)
    skipping = SyntheticReplace(one.pool, p=1, on_unknown_label="skip")
    if not isinstance(meaning, dict):  # skipping unknown labels is no way to guess
        with pytest.raises(UsageError, match="pass class_to_idx"):
            skipping(torch.zeros(1, SIZE, SIZE), 1)


@pytest.mark.parametrize(
    ("classes", "label", "expected"),
    [
        (("1", "2", "3"), 3, "3"),
        (("1", "2", "3"), 0, None),
        (("0", "1", "2", "10"), 10, "10"),
        (("0", "1", "2", "10"), 3, None),
        (("007", "7", "12"), 7, "7"),
        (("007", "07"), 7, "mean"),
        (("007", "12"), 7, "007"),
        (("007", "12"), "7", None),
        (("0.0", "1.0"), 1.0, "1.0"),
        (("1.0", "2.0"), 1, "1.0"),
        (("False", "True"), True, "True"),
        (("False", "True"), 0, "False"),
        (("cat", "dog"), 1, "dog"),
        (("cat", "dog"), "1", None),
        (("cat", "dog"), 2, None),
        (("1", "2", "other"), 1, "1"),
        (("1", "2", "other"), 0, None),
        (("no", "yes"), "no", "no"),
        (("no", "yes"), False, "no"),
        (("cafe\u0301", "tea"), "caf\u00e9", "cafe\u0301"),
        (("T-shirt_top-4a7d2d10", "bag"), "T-shirt/top", None),
        (("1e999999", "2"), 2, "2"),
    ],
)
def test_without_a_numbering_numbers_are_names_and_else_positions(
    classes: tuple[str, ...], label: Any, expected: str | None
) -> None:
    if expected in classes:
        assert class_of(label, classes) == expected
        return
    with pytest.raises(UsageError, match=expected or "no class"):
        class_of(label, classes)


def test_the_users_own_training_may_answer_with_names(make_images: Any) -> None:
    training = SimpleNamespace(images=make_images([2, 2, 2]))
    tested = SimpleNamespace(examples=lambda: range(3))
    task: Any = SimpleNamespace(training_set=lambda: training, eval_images=tested, seed=0)

    def answered(answer: Any) -> Any:
        return perform(task, lambda *_, seed: answer, "cpu", "train_fn mine").answer.tolist()

    assert answered(["class 2", "class 0", "class 2"]) == answered([2, 0, 2]) == [2, 0, 2]
    with pytest.raises(UsageError, match="no class 'class 9'"):
        answered(["class 9"] * 3)


@pytest.mark.parametrize("wrong", [{"cat": 0, "dog": 0}, {"cat": "x"}, {0: "cat"}, ["cat", "dog"], {}, {"cat": None}])
def test_a_numbering_is_distinct_names_and_numbers(numberings: Any, wrong: Any) -> None:
    with pytest.raises(UsageError, match="class_to_idx must map"):
        SyntheticReplace(numberings[0].pool, class_to_idx=wrong)
    with pytest.raises(ValueError, match="class_to_idx"):
        albumentations_transforms.SyntheticReplace(pool=numberings[0].pool, class_to_idx=wrong)


def test_a_wrong_name_in_a_numbering_is_found_when_the_transform_is_built(numberings: Any) -> None:
    wrong = {"owl": 0, "catt": 1, "a/b: c": 2}
    for kind in (SyntheticReplace, albumentations_transforms.SyntheticReplace):
        with pytest.raises(UsageError, match=r"'catt'[\s\S]*did you mean 'cat'"):
            kind(pool=numberings[0].pool, class_to_idx=wrong)
        kind(pool=numberings[0].pool, class_to_idx=wrong, on_unknown_label="skip")
