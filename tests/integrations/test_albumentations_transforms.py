"""The albumentations transform: what it replaces, when it refuses, and that its draws never repeat."""

import json
import pickle
import runpy
import shutil
import sys
from types import SimpleNamespace

import albumentations as A
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from diffaug.errors import MissingExtraError, UsageError
from diffaug.integrations import albumentations_base
from diffaug.integrations.albumentations_transforms import SyntheticMix, SyntheticReplace
from diffaug.synthesis.decisions import ReviewFile
from diffaug.synthesis.pool.pool import Pool

CLASSES = ("cat", "dog", "empty")


@pytest.fixture(scope="module")
def pool(make_pool, tmp_path_factory) -> Pool:
    """Twenty flat 6 x 4 RGB images: cats are 0 to 9, dogs 100 to 109, in all three channels."""
    images = [(k, np.full((6, 4, 3), 100 * k + i, np.uint8)) for k in (0, 1) for i in range(10)]
    about = {"dataset_class_to_idx": {"cat": 0, "dog": 1, "empty": 2}}
    return make_pool(tmp_path_factory.mktemp("study") / "pool", CLASSES, images, about)


@pytest.fixture
def always(pool):
    """A transform that replaces each image."""
    return lambda **options: SyntheticReplace(**{"pool": pool, "p": 1, **options})


def real(shape=(12, 10, 3), dtype=np.uint8) -> np.ndarray:
    return np.full(shape, 255 if dtype == np.uint8 else 1.0, dtype)


def shade(image: np.ndarray) -> float:
    assert image.min() == image.max()
    return float(image.flat[0])


def replaced(transform, label=0, **item) -> float:
    return shade(transform(image=real(), label=label, **item)["image"])


@pytest.mark.parametrize("label", [1, "dog", np.int64(1), np.array(1), torch.tensor(1), np.str_("dog")])
def test_replaces_by_an_image_of_the_items_own_class(pool, always, label):
    item = A.Compose([always(pool=str(pool.root))])(image=real(), label=label)
    assert 100 <= shade(item["image"]) <= 109
    assert item["label"] is label


def test_every_image_of_the_class_turns_up_and_no_other(always):
    transform = always()
    assert {replaced(transform) for _ in range(200)} == set(range(10))


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 1), (12, 10, 3), (3, 5, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_takes_the_shape_and_type_of_the_image_it_replaces(always, shape, dtype):
    image = always()(image=real(shape, dtype), label="dog")["image"]
    assert (image.shape, image.dtype) == (shape, dtype)
    assert 99.9 <= shade(image) * (1 if dtype == np.uint8 else 255) <= 109.1


def test_grey_pool_fills_three_channels(digits_pool):
    image = SyntheticReplace(pool=digits_pool, p=1)(image=real((8, 8, 3)), label="1")["image"]
    expected = digits_pool.read(int(digits_pool.indices_of(1)[0]))
    np.testing.assert_array_equal(image, np.repeat(expected, 3, axis=2))


def test_probability_is_kept(always):
    transform = always(p=0.3)
    transform.set_random_seed(0)
    assert 0.25 < np.mean([replaced(transform) != 255 for _ in range(1000)]) < 0.35


@pytest.mark.parametrize("label", ["horse", 3, -1, 1.5, None])
def test_unknown_label_is_an_error_or_skipped_and_a_class_without_images_passes_through(always, label):
    assert replaced(always(), "empty") == 255
    with pytest.raises(UsageError, match=r"cat.*dog"):
        replaced(always(), label)
    assert replaced(always(on_unknown_label="skip"), label) == 255


ANNOTATIONS = {"mask": (12, 10), "masks": (2, 12, 10), "bboxes": (1, 4), "keypoints": (1, 2), "images": (2, 12, 10, 3)}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_annotations_are_an_error_or_skipped(always, name):
    annotation = {name: np.zeros(ANNOTATIONS[name], np.uint8)}
    with pytest.raises(UsageError, match=name):
        replaced(always(), **annotation)
    assert replaced(always(on_annotations="skip"), **annotation) == 255


def test_boxes_and_second_images_or_masks_in_a_pipeline_are_refused_and_no_boxes_are_not(always):
    boxes = A.BboxParams("pascal_voc", label_fields=["box_labels"])
    targets = {"left": "image", "area": "mask"}
    pipeline = A.Compose([always(), A.HorizontalFlip()], bbox_params=boxes, additional_targets=targets)
    assert replaced(pipeline, bboxes=[], box_labels=[]) < 10
    for name, content in (("bboxes", [[1, 1, 4, 4]]), ("left", real()), ("area", real())):
        with pytest.raises(UsageError, match=name):
            replaced(pipeline, **{"bboxes": [], "box_labels": [1] * (name == "bboxes"), name: content})


def test_the_label_key_is_legal_in_a_strict_pipeline_and_named_if_missing(always):
    pipeline = A.Compose([always(label_key="species")], strict=True)
    assert shade(pipeline(image=real(), species=0)["image"]) < 10
    with pytest.raises(ValueError, match="species"):
        pipeline(image=real())


@pytest.mark.parametrize(
    "wrong", [{"p": 1.5}, {"pool": 3}, {"label_key": None}, {"on_unknown_label": "ignore"}, {"on_annotations": "warn"}]
)
def test_wrong_arguments_are_refused_when_built(always, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        always(**wrong)


def test_images_of_another_type_are_refused(pool, always):
    for image in (real(dtype=np.int16), real((12, 10, 5)), real(dtype=np.float32) * -2):
        with pytest.raises(UsageError, match="shape"):
            always().apply(image, pool_image=pool.image_keys[0])


def test_a_study_opens_its_pool_or_its_lack_is_an_error_when_built(pool, always, tmp_path):
    assert replaced(always(pool=pool.root.parent)) < 10
    saved = json.dumps(A.to_dict(always())).replace(str(pool.root), str(tmp_path / "none"))
    for build in (lambda: always(pool=tmp_path / "none"), lambda: A.from_dict(json.loads(saved))):
        with pytest.raises(UsageError, match="no finished pool"):
            build()


def test_replay_repeats_the_image_and_records_only_its_name_and_hash(pool, always):
    with pytest.warns(UserWarning, match="params depend on targets"):
        pipeline = A.ReplayCompose([always(), A.HorizontalFlip(p=0.5)])
        first = pipeline(image=real(), label=0)
        name = json.loads(json.dumps(first["replay"]["transforms"][0]["params"]["pool_image"]))
        assert shade(pool.read(pool.image_keys.index(tuple(name)))) == shade(first["image"])
        for _ in range(5):
            again = A.ReplayCompose.replay(first["replay"], image=real(), label=0)
            np.testing.assert_array_equal(again["image"], first["image"])
        with pytest.raises(UsageError, match="replayed image is of the class 'cat', not 1"):
            A.ReplayCompose.replay(first["replay"], image=real(), label=1)


@pytest.mark.filterwarnings("ignore:.*params depend on targets")
@pytest.mark.parametrize("kind", [SyntheticReplace, SyntheticMix])
def test_a_replay_repeats_the_image_or_says_that_it_is_gone(make_pool, tmp_path, kind):
    def shades(first: int) -> list[tuple[int, np.ndarray]]:
        return [(0, np.full((4, 4, 3), first + 10 * number, np.uint8)) for number in range(6)]

    pool = make_pool(tmp_path / "pool", ["cat"], shades(5))
    pipeline = A.ReplayCompose([kind(pool, p=1, class_to_idx={"cat": 0})])

    def drawn() -> tuple[dict, tuple[str, str]]:
        item = pipeline(image=real(), label=0)
        return item, tuple(item["replay"]["transforms"][0]["params"]["pool_image"])

    first, image = next(one for one in iter(drawn, None) if one[1] in pool.image_keys[4:])

    def again() -> float:
        return shade(A.ReplayCompose.replay(first["replay"], image=real(), label=0)["image"])

    review = ReviewFile(pool.root)
    for other in pool.image_keys[: pool.image_keys.index(image)]:
        review.add("anna", other, "reject")
    assert again() == shade(first["image"])
    review.add("anna", image, "reject")
    with pytest.raises(UsageError, match=rf"{image[0]}.*a reviewer rejects it"):
        again()
    review.path.unlink()
    assert again() == shade(first["image"])
    shutil.rmtree(pool.root)
    make_pool(pool.root, ["cat"], shades(7))
    with pytest.raises(UsageError, match="made anew"):
        again()


def test_settings_survive_dict_yaml_and_pickle_which_takes_no_opened_pool(pool, tmp_path):
    transform = SyntheticReplace(pool.root, "species", "skip", "skip", p=0.7)
    size = len(pickle.dumps(transform))
    transform(image=real(), species=0, force_apply=True)
    transform.set_random_seed(0)
    assert len(pickle.dumps(transform)) < size + 200
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
    name = "diffaug.integrations.albumentations_transforms.SyntheticReplace"
    assert A.to_dict(transform)["transform"]["__class_fullname__"] == name


def test_seeded_pipelines_agree(always):
    first, second = (A.Compose([always(p=0.6)], seed=5) for _ in range(2))
    draws = [replaced(first) for _ in range(40)]
    assert [replaced(second) for _ in range(40)] == draws
    assert len(set(draws)) > 3


class Draws(Dataset):
    """32 items: the shade of a sure replacement, and whether one of probability 0.5 took place."""

    def __init__(self, pool: str) -> None:
        self.sure = A.Compose([SyntheticReplace(pool=pool, p=1)], seed=1)
        self.perhaps = A.Compose([SyntheticReplace(pool=pool, p=0.5)], seed=1)

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[float, bool]:
        return replaced(self.sure), replaced(self.perhaps) != 255


def epochs(pool, context, *, count=2, persistent=False) -> list[list[list[float]]]:
    """Shades and replacements of each epoch."""
    workers = {"num_workers": 2, "multiprocessing_context": context, "persistent_workers": persistent}
    loader = DataLoader(Draws(str(pool.root)), 16, generator=torch.Generator().manual_seed(3), **workers)
    return [[torch.cat(column).tolist() for column in zip(*loader, strict=True)] for _ in range(count)]


@pytest.mark.e2e
def test_workers_and_epochs_draw_differently_and_repeatably_forked_or_spawned(pool):
    forked = epochs(pool, "fork")
    for column in (0, 1):
        by_worker = {tuple(epoch[column][start : start + 16]) for epoch in forked for start in (0, 16)}
        assert len(by_worker) == 4
    assert epochs(pool, "fork") == forked
    first, second = epochs(pool, "fork", persistent=True)
    assert first != second
    assert epochs(pool, "spawn", count=1) == forked[:1]


def test_missing_albumentations_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(MissingExtraError, match=r"diffaug\[albumentations\]"):
        runpy.run_path(albumentations_base.__file__)


def test_albumentations_x_gets_the_hook_that_it_wants(monkeypatch):
    with monkeypatch.context() as changed:
        changed.setattr(A.BasicTransform, "sample_parameters", lambda *given: None, raising=False)
        changed.setattr(A, "SampledParams", SimpleNamespace, raising=False)
        of_x = runpy.run_path(albumentations_base.__file__)["FromPool"]
        drawn = of_x.sample_parameters(
            SimpleNamespace(_draw=lambda data, generator: {**data, "generator": generator}),
            {},
            {"label": 3},
            None,
            SimpleNamespace(random_generator="a generator"),
        )
        assert drawn.params == {"label": 3, "generator": "a generator"}
    refused = {"get_params", "get_params_dependent_on_data", "__call__"}
    assert not refused & vars(of_x).keys()
    assert refused - {"get_params"} <= vars(albumentations_base.FromPool).keys()
