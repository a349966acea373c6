"""The albumentations transform: what it replaces, when it refuses, and that its draws never repeat."""

from __future__ import annotations

import builtins
import importlib.util
import json
import pickle
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from diffaug.errors import MissingExtraError, UsageError
from diffaug.integrations import albumentations_transforms
from diffaug.integrations.albumentations_transforms import SyntheticReplace
from diffaug.synthesis.pool.pool import Pool

CLASSES = ("cat", "dog", "empty")


@pytest.fixture(scope="module")
def pool(make_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Twenty flat 6 x 4 RGB images: cats are 0 to 9, dogs 100 to 109, in all three channels."""
    images = [(k, np.full((6, 4, 3), 100 * k + i, np.uint8)) for k in (0, 1) for i in range(10)]
    return make_pool(tmp_path_factory.mktemp("study") / "pool", CLASSES, images)


def real(shape: tuple[int, ...] = (12, 10, 3), dtype: Any = np.uint8) -> np.ndarray:
    return np.full(shape, 255 if dtype == np.uint8 else 1.0, dtype)


def shade(image: np.ndarray) -> float:
    assert image.min() == image.max()
    return float(image.flat[0])


@pytest.mark.parametrize("label", [1, "dog", np.int64(1), np.array(1), torch.tensor(1), np.str_("dog")])
def test_replaces_by_an_image_of_the_items_own_class(pool: Pool, label: Any) -> None:
    replaced = A.Compose([SyntheticReplace(pool=str(pool.root), p=1)])(image=real(), label=label)

    assert 100 <= shade(replaced["image"]) <= 109
    assert replaced["label"] is label


def test_every_image_of_the_class_turns_up_and_no_other(pool: Pool) -> None:
    transform = SyntheticReplace(pool=pool, p=1)

    assert {shade(transform(image=real(), label=0)["image"]) for _ in range(200)} == set(range(10))


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 1), (12, 10, 3), (3, 5, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_takes_the_shape_and_type_of_the_image_it_replaces(pool: Pool, shape: tuple[int, ...], dtype: Any) -> None:
    image = SyntheticReplace(pool=pool, p=1)(image=real(shape, dtype), label="dog")["image"]

    assert image.shape == shape
    assert image.dtype == dtype
    value = shade(image) * (1 if dtype == np.uint8 else 255)
    assert 99.9 <= value <= 109.1


def test_grey_pool_fills_three_channels(digits_pool: Pool) -> None:
    image = SyntheticReplace(pool=digits_pool, p=1)(image=real((8, 8, 3)), label="1")["image"]

    expected = digits_pool.read(int(digits_pool.indices_of(1)[0]))
    np.testing.assert_array_equal(image, np.repeat(expected, 3, axis=2))


def test_probability_is_kept(pool: Pool) -> None:
    transform = SyntheticReplace(pool=pool, p=0.3)
    transform.set_random_seed(0)
    replaced = sum(shade(transform(image=real(), label=0)["image"]) != 255 for _ in range(1000))

    assert 0.25 < replaced / 1000 < 0.35


def test_a_class_without_synthetic_images_passes_through(pool: Pool) -> None:
    image = real()

    np.testing.assert_array_equal(SyntheticReplace(pool=pool, p=1)(image=image, label="empty")["image"], image)


@pytest.mark.parametrize("label", ["horse", 3, -1, 1.5, None])
def test_unknown_label_is_an_error_or_skipped(pool: Pool, label: Any) -> None:
    with pytest.raises(UsageError, match=r"cat.*dog"):
        SyntheticReplace(pool=pool, p=1)(image=real(), label=label)

    skipped = SyntheticReplace(pool=pool, p=1, on_unknown_label="skip")(image=real(), label=label)
    assert shade(skipped["image"]) == 255


@pytest.mark.parametrize(
    "annotations",
    [
        {"mask": np.zeros((12, 10), np.uint8)},
        {"masks": np.zeros((2, 12, 10), np.uint8)},
        {"bboxes": np.array([[0.1, 0.1, 0.5, 0.5]])},
        {"keypoints": np.array([[1.0, 2.0]])},
        {"images": np.zeros((2, 12, 10, 3), np.uint8)},
    ],
)
def test_annotations_are_an_error_or_skipped(pool: Pool, annotations: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(annotations))):
        SyntheticReplace(pool=pool, p=1)(image=real(), label=0, **annotations)

    skipped = SyntheticReplace(pool=pool, p=1, on_annotations="skip")(image=real(), label=0, **annotations)
    assert shade(skipped["image"]) == 255


def test_boxes_inside_a_pipeline_are_refused_and_empty_ones_are_not(pool: Pool) -> None:
    pipeline = A.Compose(
        [SyntheticReplace(pool=pool, p=1), A.HorizontalFlip(p=1)],
        bbox_params=A.BboxParams("pascal_voc", label_fields=["box_labels"]),
    )
    with pytest.raises(UsageError, match="bboxes"):
        pipeline(image=real(), label=0, bboxes=[[1, 1, 4, 4]], box_labels=[1])

    assert shade(pipeline(image=real(), label=0, bboxes=[], box_labels=[])["image"]) < 10


def test_a_second_image_or_mask_under_another_name_is_refused(pool: Pool) -> None:
    pipeline = A.Compose([SyntheticReplace(pool=pool, p=1)], additional_targets={"left": "image", "area": "mask"})

    for key in ("left", "area"):
        with pytest.raises(UsageError, match=key):
            pipeline(image=real(), label=0, **{key: real()})


def test_missing_label_names_the_key(pool: Pool) -> None:
    with pytest.raises(ValueError, match="species"):
        A.Compose([SyntheticReplace(pool=pool, label_key="species", p=1)])(image=real())


def test_the_label_key_is_legal_in_a_strict_pipeline(pool: Pool) -> None:
    pipeline = A.Compose([SyntheticReplace(pool=pool, label_key="species", p=1)], strict=True)

    assert shade(pipeline(image=real(), species=0)["image"]) < 10


@pytest.mark.parametrize(
    "wrong", [{"p": 1.5}, {"pool": 3}, {"label_key": None}, {"on_unknown_label": "ignore"}, {"on_annotations": "warn"}]
)
def test_wrong_arguments_are_refused_when_built(pool: Pool, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SyntheticReplace(**{"pool": str(pool.root), **wrong})


def test_images_of_another_type_are_refused(pool: Pool) -> None:
    for image in (real(dtype=np.int16), real((12, 10, 5)), real(dtype=np.float32) * -2):
        with pytest.raises(UsageError, match="shape"):
            SyntheticReplace(pool=pool, p=1).apply(image, pool_index=0)


def test_no_pool_is_said_at_the_first_use(tmp_path: Path) -> None:
    transform = SyntheticReplace(pool=tmp_path / "none", p=1)

    with pytest.raises(UsageError, match="no finished pool"):
        transform(image=real(), label=0)


def test_a_study_opens_its_pool(pool: Pool) -> None:
    assert shade(SyntheticReplace(pool=pool.root.parent, p=1)(image=real(), label=0)["image"]) < 10


def test_replay_repeats_the_image_and_records_small_numbers_only(pool: Pool) -> None:
    with pytest.warns(UserWarning, match="params depend on targets"):
        pipeline = A.ReplayCompose([SyntheticReplace(pool=pool, p=1), A.HorizontalFlip(p=0.5)])
        first = pipeline(image=real(), label=0)
        json.dumps(first["replay"]["transforms"][0]["params"]["pool_index"])

        for _ in range(5):
            again = A.ReplayCompose.replay(first["replay"], image=real(), label=0)
            np.testing.assert_array_equal(again["image"], first["image"])


def test_applied_parameters_are_recorded(pool: Pool) -> None:
    pipeline = A.Compose([SyntheticReplace(pool=pool, p=1)], save_applied_params=True)
    result = pipeline(image=real(), label=1)
    ((name, params),) = result["applied_transforms"]

    assert name == "SyntheticReplace"
    assert shade(pool.read(params["pool_index"])) == shade(result["image"])


def test_settings_survive_dict_yaml_and_pickle(pool: Pool, tmp_path: Path) -> None:
    transform = SyntheticReplace(pool.root, "species", "skip", "skip", p=0.7)
    transform(image=real(), species=0)
    A.save(transform, tmp_path / "transform.yaml", data_format="yaml")
    copies = [
        A.from_dict(json.loads(json.dumps(A.to_dict(transform)))),
        A.load(tmp_path / "transform.yaml", data_format="yaml"),
        pickle.loads(pickle.dumps(transform)),
    ]

    for copy in copies:
        assert isinstance(copy, SyntheticReplace)
        assert copy.to_dict() == transform.to_dict()
        assert copy.pool == str(pool.root)
        assert shade(copy(image=real(), species=0, force_apply=True)["image"]) < 10
    assert A.to_dict(transform)["transform"]["__class_fullname__"] == (
        "diffaug.integrations.albumentations_transforms.SyntheticReplace"
    )


def test_an_opened_pool_is_not_pickled(pool: Pool) -> None:
    transform = SyntheticReplace(pool=pool, p=1)
    before = len(pickle.dumps(transform))
    for _ in range(20):
        transform(image=real(), label=0)
    transform.set_random_seed(0)

    assert len(pickle.dumps(transform)) < before + 200


def test_seeded_pipelines_agree(pool: Pool) -> None:
    def draws() -> list[float]:
        pipeline = A.Compose([SyntheticReplace(pool=pool, p=0.6)], seed=5)
        return [shade(pipeline(image=real(), label=0)["image"]) for _ in range(40)]

    assert draws() == draws()
    assert len(set(draws())) > 3


class Draws(Dataset):
    """32 items: the shade of a sure replacement, and whether one of probability 0.5 took place."""

    def __init__(self, pool: str) -> None:
        self.sure = A.Compose([SyntheticReplace(pool=pool, p=1)], seed=1)
        self.perhaps = A.Compose([SyntheticReplace(pool=pool, p=0.5)], seed=1)

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[float, bool]:
        item = {"image": real(), "label": 0}
        return shade(self.sure(**item)["image"]), shade(self.perhaps(**item)["image"]) != 255


def epochs(pool: Pool, context: str, *, count: int = 2, persistent: bool = False) -> list[list[list[float]]]:
    """Shades and replacements of each epoch."""
    loader = DataLoader(
        Draws(str(pool.root)),
        batch_size=16,
        num_workers=2,
        multiprocessing_context=context,
        persistent_workers=persistent,
        generator=torch.Generator().manual_seed(3),
    )
    return [[torch.cat(column).tolist() for column in zip(*loader, strict=True)] for _ in range(count)]


@pytest.fixture(scope="module")
def forked(pool: Pool) -> list[list[list[float]]]:
    return epochs(pool, "fork")


def test_workers_and_epochs_draw_differently_and_repeatably(pool: Pool, forked: list[list[list[float]]]) -> None:
    for column in (0, 1):
        by_worker = {tuple(epoch[column][start : start + 16]) for epoch in forked for start in (0, 16)}
        assert len(by_worker) == 4

    assert epochs(pool, "fork") == forked


def test_persistent_workers_do_not_repeat_epochs(pool: Pool) -> None:
    first, second = epochs(pool, "fork", persistent=True)

    assert first != second


def test_spawned_workers_draw_what_forked_ones_do(pool: Pool, forked: list[list[list[float]]]) -> None:
    assert epochs(pool, "spawn", count=1) == forked[:1]


@dataclass
class SampledParams:
    params: dict[str, Any]


class NewStyleBase:
    """The part of the newer albumentations interface that the transform relies on."""

    def __init_subclass__(cls) -> None:
        if "get_params_dependent_on_data" in cls.__dict__ or "get_params" in cls.__dict__:
            raise TypeError("the old hooks are refused")

    def __init__(self, p: float) -> None:
        self.p = p

    def sample_parameters(self, params: Any, data: Any, targets: Any, sampling: Any) -> Any:
        raise AssertionError("the subclass samples")


def load_under(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Executes the module's source once more, under another name."""
    spec = importlib.util.spec_from_file_location(name, albumentations_transforms.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_newer_interface_gets_its_own_hook(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    newer: Any = types.ModuleType("albumentations")
    newer.BasicTransform = newer.ImageOnlyTransform = NewStyleBase
    newer.SampledParams = SampledParams
    monkeypatch.setitem(sys.modules, "albumentations", newer)
    transform = load_under("newer_transforms", monkeypatch).SyntheticReplace(str(pool.root), p=1)
    sampling = types.SimpleNamespace(random_generator=np.random.default_rng(0))

    indices = [transform.sample_parameters({}, {"label": "dog"}, {}, sampling).params["pool_index"] for _ in range(30)]

    assert set(indices) <= set(pool.indices_of(1).tolist())
    assert len(set(indices)) > 3
    assert 100 <= shade(transform.apply(real(), pool_index=indices[0])) <= 109
    assert "__call__" not in vars(type(transform))


@pytest.fixture
def without_albumentations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment where importing albumentations fails as if it were not installed."""
    original = builtins.__import__

    def guarded(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "albumentations":
            raise ModuleNotFoundError("No module named 'albumentations'", name="albumentations")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)
    yield


@pytest.mark.usefixtures("without_albumentations")
def test_missing_albumentations_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingExtraError, match=r"diffaug\[albumentations\]"):
        load_under("bare_transforms", monkeypatch)
