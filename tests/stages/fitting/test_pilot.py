import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffaug.augmenter import DiffusionAugmenter
from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.files import read_record
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.planning import length, planning
from diffaug.diffusion.planning.planning import PLAN, Plan
from diffaug.errors import Interrupted, UsageError
from diffaug.files.records import read_signed_record
from diffaug.stages.evaluating.pilot import pilot_pool
from diffaug.stages.fitting import judged, measured_lengths, running
from diffaug.stages.fitting.judged import in_turn_by_class, judged_images, possible_pilot
from diffaug.stages.fitting.pilot import pilot_study
from diffaug.stages.fitting.plan import plan_training
from diffaug.stages.generating.describe_power import longer_training
from diffaug.stages.job import Job
from diffaug.study import Study
from tests.conftest import SMALL, write_classes
from tests.stages.fitting.stopping import stop_at

SETTINGS = SMALL | {"diffusion.images_seen": 640, "diffusion.batch_size": 16, "advanced.checkpoint_seconds": 1000}
COUNTS = {"dark": 30, "middle": 20, "bright": 5}
pytestmark = pytest.mark.e2e


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    return prepared(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        return fit(prepared(root, patch), root / "study").study.path


def prepared(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """Images of three classes, one of them too small to part; pilots of 320 images, measured after 64, 90, 128, ..."""
    patch.setattr(length, "FIRST_VIEWS", 1)
    patch.setattr(length, "FIRST_IMAGES_SEEN", 64)
    patch.setattr(planning, "LEAST_IMAGES_SEEN", 64)
    patch.setattr(judged, "LEAST_JUDGED", 4)
    write_classes(root / "images" / "train", COUNTS)
    return write_classes(root / "images" / "test", dict.fromkeys(COUNTS, 2), size=9).parent


def fit(folder, study, *, finish: bool = False, **settings) -> DiffusionAugmenter:
    augmenter = DiffusionAugmenter(study=study, settings={**SETTINGS, **settings}, verbose=False)
    return augmenter.fit(folder, finish=finish)


def with_changes(job: Job, *, seed: int = 0, synthesis: dict[str, Any] | None = None) -> Job:
    section = job.config.synthesis.model_copy(update=synthesis or {})
    config = job.config.model_copy(update={"seed": seed, "synthesis": section})
    return replace(job, resolved=replace(job.resolved, config=config))


def plan_of(study: Path) -> Plan:
    return read_signed_record(study / "generator" / "plan.json", PLAN)


def weights(study: Path) -> list[bytes]:
    return [(study / part / "generator" / "model.safetensors").read_bytes() for part in (".", "pilot")]


def metrics_of(study: Path, name: str) -> dict[int, float]:
    events = [json.loads(line)["data"] for line in (study / "journal.jsonl").read_text().splitlines()]
    return {one["step"]: one["metrics"][name] for one in events if name in one.get("metrics", {})}


def test_the_pilot_leaves_whole_thirds_out_and_the_generator_does_not(fitted) -> None:
    study = Study(fitted)
    plan, catalog = plan_of(study.path), Catalog.load(study.catalog)
    chosen = judged_images(catalog, seed=0)
    assert (plan.pilot.trained, plan.pilot.judged) == (38, 17)
    left_out = set(catalog.rows("train")["path"][chosen])
    counts = {name: sum(name in path for path in left_out) for name in COUNTS}
    assert counts == {"dark": 10, "middle": 7, "bright": 0}
    seen = {part: set(Generator.load(study.path / part).rows()["id"]) for part in (".", "pilot")}
    assert seen["."] == set(catalog.rows("train")["path"])
    assert seen["pilot"] == seen["."] - left_out
    assert not list((study.path / "pilot" / "generator").glob("snapshots"))


def test_an_earlier_pilot_chooses_nothing_for_a_generator_without_one(tmp_path, folder) -> None:
    study = fit(folder, tmp_path / "study", **{"diffusion.images_seen": 320}).study
    assert study.has_pilot
    settings = {**SETTINGS, "diffusion.images_seen": 320, "advanced.pilot": False}
    augmenter = DiffusionAugmenter(study=study.path, settings=settings, verbose=False, overwrite=True).fit(folder)
    assert not study.has_pilot and plan_of(study.path).pilot is None
    assert pilot_pool(augmenter.job, augmenter.inspect()) is None


def test_the_measured_lengths_are_logged_and_the_choice_is_kept_with_the_plan(fitted) -> None:
    study, choice = fitted, plan_of(fitted).length
    errors = metrics_of(study, "pilot/held_out_error")
    assert errors == {one.images_seen: pytest.approx(one.error) for one in choice.measured}
    assert list(errors)[:3] == [64, 96, 128]
    assert metrics_of(study, "pilot/copies").keys() == errors.keys()
    assert metrics_of(study, "pilot/loss").keys() & metrics_of(study, "loss").keys()
    assert choice.reason in plan_of(study).reasons[-1]
    assert read_record(study / "generator").training["length"] == choice.reason


def test_the_generator_sees_each_image_as_often_as_the_pilot_chose(tmp_path, folder, monkeypatch) -> None:
    monkeypatch.setattr(measured_lengths, "is_enough", lambda found: len(found) == 4)
    monkeypatch.setattr(length, "choose_length", lambda found: 1)
    study = fit(folder, tmp_path / "study").study.path
    plan = plan_of(study)
    assert [one.images_seen for one in plan.length.measured] == [64, 96, 128, 176]
    assert plan.length.views == 96 / 38
    assert plan.images_seen == 16 * round(96 / 38 * 55 / 16)
    assert read_record(study / "generator").training["images seen"] == plan.images_seen
    assert read_record(study / "pilot" / "generator").training["images seen"] == 96


@pytest.mark.parametrize(
    "stops", [pytest.param((3,), marks=pytest.mark.slow), (5, 12, 18), pytest.param((25,), marks=pytest.mark.slow)]
)
def test_a_fit_that_is_stopped_anywhere_ends_in_the_same_bytes(tmp_path, folder, monkeypatch, stops) -> None:
    monkeypatch.setattr(length, "choose_length", lambda found: len(found) - 1)
    study = fit(folder, tmp_path / "whole").study.path
    assert plan_of(study).images_seen == 640  # since the pilot was best at its end
    assert plan_of(study).length.measured[-1].images_seen == 320
    whole = weights(study)
    stop_at(monkeypatch, *stops)
    for number in stops:
        with pytest.raises(Interrupted) as caught:
            fit(folder, tmp_path / "study")
        assert ("of pilot" in str(caught.value)) == (number <= 20)
    assert weights(fit(folder, tmp_path / "study").study.path) == whole


def interrupt(monkeypatch, folder, study, after: int) -> str:
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as caught:
        stop_at(patch, after)
        fit(folder, study)
    return caught.value.fix


def test_finish_keeps_what_was_learned_so_far(tmp_path, folder, monkeypatch) -> None:
    monkeypatch.setattr(length, "choose_length", lambda found: len(found) - 1)
    study = tmp_path / "a study"
    fix = interrupt(monkeypatch, folder, study, after=30)
    assert fix.endswith(f"or keep what was learned so far: diffaug fit {folder} --study '{study}' --finish")
    facts = read_record(fit(folder, study, finish=True).study.generator).training
    assert (facts["images seen"], facts["training ended"]) == (160, "with --finish")
    assert not (study / "generator" / "checkpoints").exists()
    fit(folder, study)  # finished


def test_finish_ends_the_pilot_and_trains_on_all_images(tmp_path, folder, monkeypatch) -> None:
    monkeypatch.setattr(length, "choose_length", lambda found: 0)
    monkeypatch.setattr(measured_lengths, "is_enough", lambda found: False)
    fix = interrupt(monkeypatch, folder, tmp_path / "study", after=7)
    assert "or end the pilot here and train on all images: diffaug fit" in fix
    study = fit(folder, tmp_path / "study", finish=True).study.path
    assert [one.images_seen for one in plan_of(study).length.measured] == [64, 96]  # 112 is too near
    assert read_record(study / "generator").training["images seen"] == 16 * round(64 / 38 * 55 / 16)
    assert "training ended" not in read_record(study / "generator").training


def test_there_must_be_something_to_finish(tmp_path, folder) -> None:
    with pytest.raises(UsageError, match="no unfinished training to finish"):
        fit(folder, tmp_path / "study", finish=True)
    assert not (tmp_path / "study" / "generator").exists()


@pytest.mark.parametrize(
    ("settings", "counts", "reason"),
    [
        ({"advanced.pilot": False}, COUNTS, "no pilot, as set"),
        ({"evaluation.synthetic_fraction": 0.3}, COUNTS, "are set, so there is nothing to choose"),
        ({"diffusion.images_seen": 64}, COUNTS, "no pilot: the training is too short"),
        ({}, {"a": 8, "b": 5, "c": 4}, "no pilot: only 2 images could be left out"),
    ],
)
def test_no_pilot_is_trained_where_it_can_change_nothing(tmp_path, folder, monkeypatch, settings, counts, reason):
    root = folder if counts == COUNTS else write_classes(tmp_path / "few", counts)
    augmenter = DiffusionAugmenter(study=tmp_path / "study", settings={**SETTINGS, **settings}, verbose=False)
    plan = plan_training(augmenter.attach(root).job, augmenter.inspect())
    assert plan.pilot is None
    assert reason in plan.reasons[-1]
    assert plan.images_seen == settings.get("diffusion.images_seen", 640)


def test_the_length_set_alone_is_a_limit(tmp_path, folder) -> None:
    augmenter = DiffusionAugmenter(study=tmp_path / "study", settings=SETTINGS, verbose=False).attach(folder)
    assert not isinstance(possible_pilot(augmenter.job, augmenter.inspect()), str)
    plan = plan_training(augmenter.job, augmenter.inspect())
    assert (plan.images_seen, plan.pilot.images_seen, plan.seconds) == (640, 320, None)


def test_the_pool_of_the_pilot_knows_nothing_of_the_judged_images(tmp_path, fitted) -> None:
    study = shutil.copytree(fitted, tmp_path / "study")
    augmenter = DiffusionAugmenter.open(study, verbose=False, settings={"synthesis.variation_fraction": 0.5})
    catalog = augmenter.inspect()
    with augmenter._session.working(), pytest.raises(UsageError):
        pilot_pool(augmenter.job, catalog)  # the amount follows the study's own pool
    own = augmenter.generate({"dark": 30, "middle": 26, "bright": 15})
    with augmenter._session.working():
        found = pilot_pool(augmenter.job, catalog)
    assert own.counts_by_name == {"dark": 0, "middle": 6, "bright": 10}
    assert found.pool.counts_by_name == {"dark": 0, "middle": 4, "bright": 10}
    assert (found.judged == judged_images(catalog, 0)).all()
    ids = set(catalog.rows("train")["path"][found.judged])
    named = set(found.pool.manifest["nearest"]) | set(found.pool.manifest["source"])
    assert len(named - {""}) > 3
    assert not named & ids
    before = (found.pool.root / "manifest.parquet").stat().st_mtime_ns
    with augmenter._session.working():
        pilot_pool(augmenter.job, catalog)
    assert (found.pool.root / "manifest.parquet").stat().st_mtime_ns == before
    with augmenter._session.working():
        again = pilot_pool(with_changes(augmenter.job, seed=1), catalog)  # an evaluation with another seed
    assert again is not None
    assert (again.judged == found.judged).all()


def test_advice_to_train_longer_needs_no_plan_which_a_pilot_lacks(fitted) -> None:
    augmenter = DiffusionAugmenter.open(fitted, verbose=False)
    own = augmenter.job
    pilots = replace(own, study=pilot_study(own.study))
    assert not (pilots.study.generator / "plan.json").exists()
    assert "--images-seen 2200 " in longer_training(own)  # 40 times each of 55 images
    assert "--images-seen 1520 " in longer_training(pilots)  # 40 times each of 38 images


def test_a_pilot_whose_samples_fail_the_filters_ends_no_evaluation(tmp_path, fitted, capsys) -> None:
    study = Path(shutil.copytree(fitted, tmp_path / "study"))
    augmenter = DiffusionAugmenter.open(study)
    catalog = augmenter.inspect()
    augmenter.generate({"dark": 32, "middle": 26, "bright": 15})
    strict = {"filters": ("out of distribution",), "false_rejection_rate": 0.9, "max_attempts": 1}
    capsys.readouterr()
    with augmenter._session.working():
        found = pilot_pool(with_changes(augmenter.job, synthesis=strict), catalog)
    assert found is not None
    assert any(one.accepted < one.wanted for one in found.pool.summaries.values())
    told = " ".join(capsys.readouterr().err.split())
    assert "pilot has not learned the images yet" in told
    assert f"--study {study} --images-seen" in told
    assert f"{study}/pilot --" not in told


def test_a_slow_machine_ends_in_time_with_a_learning_rate_of_zero(tmp_path, folder, monkeypatch) -> None:
    """Each step takes a second of a made clock, three times as long as planned."""
    clock = [0.0]
    monkeypatch.setattr(length, "choose_length", lambda found: len(found) - 1)
    monkeypatch.setattr(running.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr("diffaug.stages.fitting.routes.pixels.measure_images_per_second", lambda *_: 48.0)
    train = running.train

    def slow(*arguments, **options):
        for record in train(*arguments, **options):
            clock[0] += 1.0
            yield record

    monkeypatch.setattr(running, "train", slow)
    settings = {"diffusion.images_seen": None, "diffusion.minutes": 3.0, "diffusion.precision": "float32"}
    study = fit(folder, tmp_path / "study", **settings).study.path
    plan = plan_of(study)
    assert plan.seconds == 180
    assert plan.images_seen == pytest.approx(120 * 48, abs=16)
    seen = read_record(study / "generator").training["images seen"]
    assert clock[0] <= 180
    assert clock[0] >= 160
    assert seen < plan.images_seen
    rates = metrics_of(study, "learning_rate")
    assert rates[max(rates)] < 0.02 * max(rates.values())


def test_measured_images_are_balanced_whatever_their_number() -> None:
    labels = np.repeat([0, 1, 2], [50, 9, 2])
    order = in_turn_by_class(labels, seed=0)
    assert sorted(order.tolist()) == list(range(61))
    assert np.bincount(labels[order[:6]]).tolist() == [2, 2, 2]
    assert np.bincount(labels[order[:20]]).tolist() == [9, 9, 2]
