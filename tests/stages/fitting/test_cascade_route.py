from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffaug.augmenter import DiffusionAugmenter
from diffaug.configuration.settings import Config
from diffaug.data.images import LabeledImages
from diffaug.diffusion.cascade import planning as cascade_planning
from diffaug.diffusion.cascade import reducing
from diffaug.diffusion.cascade.files import UpscalerRecord, read_upscaler_record
from diffaug.diffusion.cascade.generator import CascadeGenerator
from diffaug.diffusion.generator.files import read_record
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.planning import length, planning
from diffaug.diffusion.planning.length import PilotPlan
from diffaug.diffusion.planning.planning import PLAN
from diffaug.diffusion.process.normalization import Decoded
from diffaug.errors import Interrupted, UsageError
from diffaug.files.records import read_signed_record
from diffaug.stages.fitting import judged, running
from diffaug.stages.fitting.routes import cascading, view_levels
from diffaug.stages.fitting.routes.cascade import CascadeRoute
from diffaug.stages.fitting.routes.view_levels import choose_view_level, nearest_level, trusted_level
from tests.conftest import SMALL, write_classes
from tests.stages.fitting.stopping import stop_at

SETTINGS = SMALL | {
    "diffusion.route": "cascade",
    "diffusion.images_seen": 160,
    "advanced.checkpoint_seconds": 1000,
    "evaluation.synthetic_fraction": 0.3,  # with the length set, there is nothing for a pilot to choose
}
COUNTS = {"dark": 8, "bright": 8}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Gray images of 12 x 12 px, made by a base of 6 x 6 px."""
    monkeypatch.setattr(reducing, "BASE_SIDE", 6)
    monkeypatch.setattr(cascade_planning, "WIDTH", 16)
    write_classes(tmp_path / "images" / "train", COUNTS, size=12)
    return write_classes(tmp_path / "images" / "test", dict.fromkeys(COUNTS, 2), size=12).parent


def fit(folder: Path, study: Path, *, finish: bool = False, **settings: object) -> DiffusionAugmenter:
    augmenter = DiffusionAugmenter(study=study, settings={**SETTINGS, **settings}, verbose=False)
    return augmenter.fit(folder, finish=finish)


def weights(study: Path) -> list[bytes]:
    return [(study / "generator" / part / "model.safetensors").read_bytes() for part in ("base", "upscaler")]


@pytest.mark.e2e
def test_a_cascade_is_fitted_generates_and_says_what_it_is(tmp_path, folder, warned) -> None:
    augmenter = fit(folder, tmp_path / "study")
    generator = Generator.load(augmenter.study.generator)
    assert isinstance(generator, CascadeGenerator)
    assert (generator.image_size, generator.base.image_size, generator.channels) == ((12, 12), (6, 6), 1)
    record = read_record(augmenter.study.generator)
    assert record.kind == "cascade"
    assert record.training["images seen"] == 160
    assert record.training["crops seen by the upscaler"] == 160
    assert record.training["enlargement"].startswith("plain bicubic interpolation, since the upscaler was trained too")
    assert read_upscaler_record(augmenter.study.generator / "upscaler").level == "plain"
    assert [text for text in warned if "trained for 10 steps only, and 500 are" in text]
    assert read_signed_record(augmenter.study.generator / "plan.json", PLAN).network.image_size == (6, 6)
    assert not list(augmenter.study.generator.glob("**/checkpoints"))
    assert not (augmenter.study.generator / "progress").exists()
    assert set(generator.rows()["part"]) <= {"trained", "held out"}
    pool = augmenter.generate(sampling_strategy={"dark": 12})
    assert {path.suffix for path in (augmenter.study.pool).rglob("*.png")} == {".png"}
    assert len(pool) >= 1


@pytest.mark.e2e
def test_a_fit_that_is_stopped_in_either_network_ends_in_the_same_bytes(tmp_path, folder, monkeypatch) -> None:
    whole = weights(fit(folder, tmp_path / "whole").study.path)
    stops = (4, 13)  # the base takes 10 steps
    stop_at(monkeypatch, *stops)
    for number in stops:
        with pytest.raises(Interrupted) as caught:
            fit(folder, tmp_path / "study")
        part = "upscaler" if number > 10 else "base"
        assert f"of {part};" in str(caught.value)
        assert f"end the training of {part} here and go on" in caught.value.fix
    assert weights(fit(folder, tmp_path / "study").study.path) == whole


@pytest.mark.e2e
def test_finish_keeps_an_upscaler_that_has_begun(tmp_path, folder, monkeypatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 14)
        fit(folder, tmp_path / "study")
    record = read_record(fit(folder, tmp_path / "study", finish=True).study.generator)
    assert record.training["crops seen by the upscaler"] == 4 * 16
    assert record.training["training of the upscaler ended"] == "with --finish"
    assert "training ended" not in record.training  # the base was trained to its end


@pytest.mark.e2e
def test_the_pilot_chooses_length_and_level_without_the_judged_images(tmp_path, folder, monkeypatch) -> None:
    for module, name, value in (
        (length, "FIRST_VIEWS", 1),
        (length, "FIRST_IMAGES_SEEN", 32),
        (planning, "LEAST_IMAGES_SEEN", 32),
        (judged, "LEAST_JUDGED", 4),
        (view_levels, "LEAST_IMAGES", 4),
        (view_levels, "LEVELS", (0.0, 0.3)),
        (view_levels, "nearest_level", lambda real, made: 0.3),
        (length, "choose_length", lambda found: 0),
    ):
        monkeypatch.setattr(module, name, value)
    study = fit(folder, tmp_path / "study", **{"evaluation.synthetic_fraction": None}).study
    parts = {part: Generator.load(study.path / part) for part in (".", "pilot")}
    judged_ids = set(parts["."].rows()["id"]) - set(parts["pilot"].rows()["id"])
    assert len(judged_ids) == 6
    assert [read_upscaler_record(one.folder / "upscaler").level for one in parts.values()] == [0.3, 0.3]
    how = {name: read_record(one.folder).training["enlargement"] for name, one in parts.items()}
    upscaler = "the upscaler at noise level 0.3 of its view"
    assert how == {
        ".": f"{upscaler}, as the pilot chose on images that it has not seen",
        "pilot": f"{upscaler}, with which enlarged samples look most like images held out",
    }
    plan = read_signed_record(study.generator / "plan.json", PLAN)
    assert plan.length.measured[0].images_seen == 32
    assert plan.images_seen == 48  # 32 / 10 views of 16 images, in whole batches


def test_the_upscaler_is_timed_by_its_own_steps(monkeypatch) -> None:
    def speed(data, plan, group) -> float:
        return 50.0 if plan.network.architecture == "local" else 400.0

    monkeypatch.setattr("diffaug.stages.fitting.routes.cascade.measure_images_per_second", speed)
    images = LabeledImages(np.zeros((4, 80, 80, 1), np.uint8), np.arange(4) % 2, ("a", "b"), tuple("abcd"))
    route, job = CascadeRoute(), SimpleNamespace(config=Config(), device="cpu")
    plan = replace(route.plan(job, images), images_seen=6400, batch_size=64)
    plan = replace(plan, images_per_second=route.images_per_second(job, images, plan))
    plan = replace(plan, seconds_besides=route.seconds_besides(job, images, plan))
    assert plan.expected_seconds == 6400 / 400 + 6400 / 50
    piloted = replace(plan, pilot=PilotPlan(3200, 2, 2))
    assert route.seconds_besides(job, images, piloted) == (6400 + 3200) / 50


@pytest.mark.e2e
def test_small_images_are_refused_with_advice_that_works(tmp_path, folder, monkeypatch) -> None:
    monkeypatch.setattr(reducing, "BASE_SIDE", 12)
    with pytest.raises(UsageError, match="no larger than those that its base makes") as caught:
        fit(folder, tmp_path / "study")
    assert "--route pixels" in caught.value.fix
    fit(folder, tmp_path / "study", **{"diffusion.route": "pixels"})


@pytest.mark.e2e
def test_unlabeled_images_train_both_networks(tmp_path, folder) -> None:
    rng = np.random.default_rng(3)
    (folder / "unlabeled").mkdir()
    for number in range(6):
        pixels = rng.integers(0, 90, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "unlabeled" / f"{number}.png")
    study = fit(folder, tmp_path / "study").study
    rows = pd.read_parquet(study.generator / "rows.parquet")
    assert (rows["label"] == "").sum() == 6


def slow_machine(monkeypatch: pytest.MonkeyPatch, *, base: float, upscaler: float) -> list[float]:
    """A made clock: what a step of each network takes, in seconds, where one of the base was measured as 1 s."""
    clock, train = [0.0], running.train

    def slow(state, data, plan, *arguments, **options):
        for record in train(state, data, plan, *arguments, **options):
            clock[0] += upscaler if plan.network.architecture == "local" else base
            yield record

    monkeypatch.setattr(running.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(running, "train", slow)
    monkeypatch.setattr("diffaug.stages.fitting.routes.cascade.measure_images_per_second", lambda *_: 16.0)
    return clock


TIMED = {"diffusion.images_seen": None, "diffusion.minutes": 1.0, "diffusion.precision": "float32"}


@pytest.mark.e2e
def test_the_time_of_the_upscaler_is_reserved_before_the_base_begins(tmp_path, folder, monkeypatch) -> None:
    clock = slow_machine(monkeypatch, base=2.0, upscaler=1.0)
    training = read_record(fit(folder, tmp_path / "study", **TIMED).study.generator).training
    assert 10 * 16 <= training["images seen"] <= 15 * 16  # half of the minute, in steps of two seconds
    assert 25 * 16 <= training["crops seen by the upscaler"] <= 35 * 16
    assert clock[0] <= 60


@pytest.mark.e2e
def test_an_upscaler_whose_base_took_its_time_is_not_used_unless_it_is_seen_to_help(
    tmp_path, folder, monkeypatch, warned
) -> None:
    slow_machine(monkeypatch, base=70.0, upscaler=1.0)
    study = fit(folder, tmp_path / "study", **TIMED).study
    assert read_upscaler_record(study.generator / "upscaler").level == "plain"
    assert "plain bicubic interpolation" in (study.generator / "README.md").read_text()
    assert any("give it more --minutes" in text for text in warned)
    monkeypatch.setattr(cascading, "choose_view_level", lambda *_: 0.02)
    other = fit(folder, tmp_path / "other", **TIMED).study
    assert read_upscaler_record(other.generator / "upscaler").level == 0.02


@pytest.mark.e2e
def test_the_advice_for_a_short_training_works(tmp_path, folder, monkeypatch, warned) -> None:
    for module in (cascading, view_levels):
        monkeypatch.setattr(module, "LEAST_STEPS", 12)
    fit(folder, tmp_path / "study")
    advice = next(text for text in warned if "--images-seen" in text)
    images = int(advice.partition("--images-seen ")[2].split()[0])
    warned.clear()
    study = fit(folder, tmp_path / "other", **{"diffusion.images_seen": images}).study
    assert read_upscaler_record(study.generator / "upscaler").level == 0.0
    assert not [text for text in warned if "upscaler" in text]


@pytest.mark.parametrize(
    ("pilot", "held_out", "steps", "expected"),
    [
        ((0.05, 600), None, 900, 0.05),
        ((0.05, 600), "plain", 900, 0.05),
        ((0.05, 600), "plain", 590, "plain"),  # the pilot's upscaler was trained for longer, so it says little
        ((0.05, 600), None, 590, "plain"),
        (("plain", 600), 0.02, 900, 0.02),
        (("plain", 600), None, 900, "plain"),
        (None, None, 900, 0.0),
        (None, None, 499, "plain"),
        (None, 0.1, 499, 0.1),
        (None, "plain", 900, "plain"),
    ],
)
def test_detail_is_drawn_where_it_was_seen_to_help(pilot, held_out, steps, expected) -> None:
    record = pilot and UpscalerRecord((6, 6), (1.0,), *pilot)
    assert trusted_level(record, steps, lambda: held_out)[0] == expected


@dataclass(frozen=True)
class Copies:
    """An upscaler that returns what it is given, with what its level adds."""

    level: float | str = 0.0

    def enlarge(self, small, task) -> Decoded:
        return Decoded(small + np.uint8(0 if self.level == "plain" else 90), np.ones(len(small), np.bool_))


def test_the_level_is_chosen_on_images_of_every_class(monkeypatch) -> None:
    drawn: dict[int, int] = {}

    def draw(drawing) -> Decoded:
        drawn[drawing.class_index] = count = len(drawing.indices)
        return Decoded(np.zeros((count, 2, 2, 1), np.uint8), np.ones(count, np.bool_))

    labels = np.repeat(np.arange(4), (60, 60, 60, 5)).astype(np.int64)
    names = tuple("abcd")
    held = LabeledImages(np.zeros((185, 2, 2, 1), np.uint8), labels, names, tuple(map(str, range(185))))
    generator = SimpleNamespace(classes=names, base=SimpleNamespace(draw=draw), upscaler=Copies())
    monkeypatch.setattr(view_levels, "_features", lambda job, real, pixels: pixels.reshape(len(pixels), -1))
    assert choose_view_level(SimpleNamespace(config=Config()), generator, held) == "plain"  # as the images held out
    assert drawn == {0: 12, 1: 12, 2: 11, 3: 5}


def test_the_nearest_level_is_the_first_of_those_that_can_not_be_told_from_the_best() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(64, 8))
    near, far = rng.normal(size=(2, 64, 8))
    assert nearest_level(real, {0.0: far + 3, 0.1: near, 0.2: far + 3}) == 0.1
    assert nearest_level(real, {0.0: far, 0.1: near, 0.4: near + 2}) == 0.0
    assert nearest_level(real, {0.2: near + 1, 0.4: near}) == 0.4
    assert nearest_level(real, {"plain": far, 0.0: near}) == "plain"
    assert nearest_level(real, {"plain": far + 3, 0.0: near}) == 0.0
