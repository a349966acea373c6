"""When a study begins, what it remembers, and what a command that fails or only looks leaves behind."""

import errno
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import TensorDataset

import diffaug
from diffaug.errors import DataError, UsageError
from diffaug.files import locks
from diffaug.synthesis.pool.pool import Pool

pytestmark = pytest.mark.e2e
COUNTS = {"dark": 20, "middle": 12, "bright": 6}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies lie in `runs/`, named after the data folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def new(small: dict[str, object]) -> Any:
    def make(**arguments: Any) -> diffaug.DiffusionAugmenter:
        settings = {**small, **arguments.pop("settings", {})}
        return diffaug.DiffusionAugmenter(settings=settings, verbose=False, **arguments)

    return make


def left() -> set[str]:
    """What lies in the study's folder, without locks."""
    folder = Path("runs/data")
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")} if folder.exists() else set()


def test_looking_binds_a_name_to_no_data(new, tmp_path, make_classes) -> None:
    wrong, right = tmp_path / "wrong" / "data", tmp_path / "right" / "data"
    make_classes(wrong, {"dark": 20, "bright": 9})
    make_classes(right, COUNTS)
    new().attach(wrong).plan()
    assert set(new().attach(wrong).inspect().classes) == {"bright", "dark"}
    assert all(name.startswith("catalog") for name in left())
    with pytest.raises(UsageError, match="not a study"):
        diffaug.DiffusionAugmenter.open("runs/data")
    assert not hasattr(new().attach(right), "classes_")  # the catalog there is of other images
    assert new(settings={"data.image_size": 12}).attach(right).inspect().image_size == (12, 12)
    fitted = new().fit(right)
    assert fitted.classes_ == ("bright", "dark", "middle")
    assert fitted.generator_.image_size == (8, 8)
    assert fitted.study.record.data == right
    with pytest.raises(UsageError, match="belongs to other data"):
        new().attach(wrong)


def test_images_with_the_same_names_and_times_are_not_taken_for_those_looked_at_before(new, tmp_path) -> None:
    for where, value in (("one", 10), ("other", 200)):
        for label, offset in (("a", 0), ("b", 5)):
            for number in range(6):
                file = tmp_path / where / "data" / label / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((8, 8), value + offset + number, np.uint8)).save(file)
        assert new().attach(tmp_path / where / "data").inspect().images("train").pixels.max() // 100 == value // 100


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "cuda"}, "cuda"),
        ({"synthesis.sampling_strategy": {"drak": 40}}, "did you mean 'dark'"),
        ({"synthesis.sampling_strategy": {7: 40}}, "no class 7"),
        ({"synthesis.sampling_strategy": ["dark", 1]}, "names class 'dark' twice"),
        ({"evaluation.classifier": "resnet-81"}, "resnet-81"),
        ({"diffusion.batch_size": 16, "diffusion.compile": True}, "can't compile"),
    ],
)
def test_a_refused_setting_begins_no_study_and_does_not_stay(
    new, tmp_path, make_classes, monkeypatch, settings, words
) -> None:
    def broken(*_: Any, **__: Any) -> float:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("diffaug.stages.fitting.routes.pixels.measure_images_per_second", broken)
    with pytest.raises(UsageError, match=words):
        new(settings=settings).fit(make_classes(tmp_path / "data", COUNTS))
    assert all(name.startswith("catalog") for name in left())
    other = make_classes(tmp_path / "other" / "data", COUNTS)
    assert new().attach(other).config.synthesis.sampling_strategy == "auto"


def test_a_first_command_that_fails_leaves_nothing(new, tmp_path, make_classes) -> None:
    with pytest.raises(DataError):
        new().fit(make_classes(tmp_path / "data", {"only": 9}))
    assert left() == set()


def test_settings_are_saved_once_a_stage_accepts_them_with_classes_by_name(new, tmp_path, make_classes) -> None:
    images = make_classes(tmp_path / "data", COUNTS)
    accepted = {"device": "cpu", "synthesis.sampling_strategy": {0: 9, "middle": 12}}
    new(settings=accepted).fit(images)
    config = Path("runs/data/config.yaml")
    saved = yaml.safe_load(config.read_text())
    assert saved["synthesis"]["sampling_strategy"] == {"bright": 9, "middle": 12}
    assert "device" not in saved
    before = config.read_bytes()
    reopened = partial(diffaug.DiffusionAugmenter.open, "runs/data", verbose=False)
    for refused in ({"synthesis.solver": "heun", "synthesis.sampling_strategy": {"cow": 40}}, {"seed": 9}):
        with pytest.raises(UsageError):
            reopened(settings=refused).generate()
    new(settings={"evaluation.num_seeds": 9}).attach(images).inspect()
    new(settings={"evaluation.num_seeds": 9}).attach(images).plan()
    assert config.read_bytes() == before
    assert reopened().generate().counts_by_name == {"bright": 4, "dark": 0, "middle": 2}


def test_of_two_processes_the_first_to_keep_something_has_the_study(new, tmp_path, make_classes) -> None:
    one, other = (make_classes(tmp_path / name / "data", COUNTS) for name in ("one", "other"))
    first, second = new().attach(one), new().attach(other)
    first._fit()
    for use in (second.inspect, second.plan, second._fit):
        with pytest.raises(UsageError, match="belongs to other data"):
            use()
    assert new().fit(one).generator_.weights_sha256 == first.generator_.weights_sha256


def test_images_can_be_looked_at_where_nothing_can_be_written(new, tmp_path, make_classes, monkeypatch) -> None:
    images, lock = make_classes(tmp_path / "data", COUNTS), locks.exclusive_lock

    def read_only(path: Path, **options: Any) -> Any:
        if path.is_relative_to("runs"):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return lock(path, **options)

    monkeypatch.setattr(locks, "exclusive_lock", read_only)
    augmenter = new().attach(images)
    assert augmenter.inspect().counts_by_name("train") == {"bright": 5, "dark": 16, "middle": 10}
    assert augmenter.plan().images_seen == 512
    assert augmenter.study.path == Path("runs/data") and not Path("runs").exists()
    with pytest.raises(OSError, match="Read-only"):
        augmenter._fit()


def test_the_labels_of_a_dataset_keep_their_meaning_from_fit_to_training(new) -> None:
    """The classes are 0 owl, 1 a/b, 2 cat, which is neither their order by name nor that of their folders."""
    labels = torch.tensor([0] * 20 + [1] * 12 + [2] * 6)
    noise = torch.rand(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    dataset = TensorDataset(noise, labels)
    dataset.classes = ["owl", "a/b", "cat"]
    augmenter = new().fit(dataset)
    assert augmenter.classes_ == ("a/b", "cat", "owl")
    assert augmenter.class_counts_ == {"a/b": 10, "cat": 5, "owl": 16}
    assert [augmenter.generator_.class_of(label) for label in (0, 1, 2)] == dataset.classes
    pool = augmenter.generate({1: 13, 2: 9})
    assert pool.counts_by_name == {"a/b": 3, "cat": 4, "owl": 0}
    assert augmenter.generate(more={2: 1}).counts_by_name["cat"] == 5
    pool = Pool.open(augmenter.study.path)
    assert diffaug.AugmentedDataset(dataset, pool, include_blind=True).targets[len(labels) :] == [1] * 3 + [2] * 5
    replace = diffaug.SyntheticReplace(pool, p=1, include_blind=True)
    for label in (1, 2):
        own = pool.indices_of(pool.classes.index(dataset.classes[label]))
        image = replace(torch.zeros(1, 8, 8, dtype=torch.uint8), label)[0]
        assert image.numpy().tobytes() in {pool.read(index).tobytes() for index in own}
