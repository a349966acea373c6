"""The experiment is paired, resumes after a kill, and refuses test sets that can't answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import diffaug.evaluation.experiment as experiment
from diffaug.errors import DamagedError, DataError
from diffaug.evaluation.experiment import run_experiment
from diffaug.evaluation.trials import Trial, read_trial, write_trial
from diffaug.settings import ARM_NAMES, EvaluationSettings

SETTINGS = EvaluationSettings(seeds=3, updates=3, batch_size=8)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def trainings(monkeypatch):
    """Arguments of every training that was really done."""
    done = []
    fit = experiment.fit_classifier

    def recording_fit(images, **arguments):
        done.append({"images": len(images), **arguments})
        return fit(images, **arguments)

    monkeypatch.setattr(experiment, "fit_classifier", recording_fit)
    return done


@pytest.fixture
def run(make_images, tmp_path):
    def run(settings=SETTINGS, *, synthetic=(0, 2, 4), test=(3, 3, 2), train=(8, 4, 2), seed=0, directory=tmp_path):
        return run_experiment(
            make_images(train),
            make_images(test, seed=1),
            make_images(synthetic, seed=2),
            settings,
            seed=seed,
            device="cpu",
            directory=directory,
        )

    return run


def outcomes(trials):
    return [replace(trial, seconds=0.0) for trial in trials]


def test_every_arm_meets_every_seed_in_seed_major_order_with_equal_updates(run, trainings):
    trials = list(run())
    assert [(t.seed, t.arm) for t in trials] == [(s, arm) for s in range(3) for arm in ARM_NAMES]
    assert {t["recipe"].updates for t in trainings} == {3}
    seeds = [t["seed"] for t in trainings]
    assert [len(set(seeds[i : i + 5])) for i in (0, 5, 10)] == [1, 1, 1]
    assert len(set(seeds)) == 3
    assert {t["purpose"] for t in trainings} == {"evaluation"}
    assert [t["images"] for t in trainings[:5]] == [14, 14, 14, 20, 20]


def test_a_trial_holds_what_its_predictions_are_worth(run):
    labels = np.repeat([0, 1, 2], [3, 3, 2])
    trial = next(iter(run()))
    predicted = np.array(trial.predictions)
    assert trial.metrics["accuracy"] == pytest.approx((predicted == labels).mean())
    assert trial.recall == pytest.approx([(predicted[labels == c] == c).mean() for c in range(3)])
    assert np.sum(trial.confusion) == 8
    assert trial.seconds > 0


def test_a_killed_run_continues_where_it_stopped_with_the_same_outcome(run, trainings, tmp_path):
    interrupted = run()
    for _ in range(4):
        next(interrupted)
    interrupted.close()
    assert len(trainings) == 4

    resumed = outcomes(run())
    assert len(trainings) == 15
    assert resumed == outcomes(run(directory=tmp_path / "other"))


def test_only_trials_whose_inputs_changed_are_trained_again(run, trainings):
    list(run())
    for settings, synthetic, seed, again in [
        (SETTINGS, (0, 2, 4), 0, 0),
        (SETTINGS, (0, 2, 5), 0, 6),
        (SETTINGS.model_copy(update={"synthetic_weight": 0.9}), (0, 2, 5), 0, 6),
        (SETTINGS.model_copy(update={"seeds": 4, "synthetic_weight": 0.9}), (0, 2, 5), 0, 5),
        (SETTINGS.model_copy(update={"updates": 4}), (0, 2, 5), 0, 15),
        (SETTINGS.model_copy(update={"updates": 4}), (0, 2, 5), 1, 15),
    ]:
        trainings.clear()
        list(run(settings, synthetic=synthetic, seed=seed))
        assert len(trainings) == again


def test_without_synthetic_images_the_synthetic_arms_equal_their_real_counterparts(run):
    trials = {trial.arm: trial for trial in outcomes(run(synthetic=(0, 0, 0)))}
    for name in ("real only", "balanced softmax"):
        partner = "real + synthetic" if name == "real only" else "balanced softmax + synthetic"
        assert trials[partner].predictions == trials[name].predictions


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_images_is_an_error_before_any_training(run, trainings, split):
    with pytest.raises(DataError, match="class 1"):
        list(run(**{split: (3, 0, 2)}))
    assert trainings == []


def test_sets_of_different_classes_are_an_error(run):
    with pytest.raises(DataError, match="different classes"):
        list(run(test=(2, 2)))


def test_updates_follow_the_data_when_not_set(run, trainings):
    next(iter(run(SETTINGS.model_copy(update={"updates": None, "batch_size": 2}))))
    assert trainings[0]["recipe"].updates == experiment.default_updates(14)


def test_a_trial_survives_the_disk_and_damage_is_reported(tmp_path):
    trial = Trial.of(
        "real + synthetic",
        2,
        predicted=np.array([0, 1, 1]),
        labels=np.array([0, 1, 0]),
        num_classes=2,
        seconds=1.5,
    )
    write_trial(tmp_path, trial, "inputs")
    assert read_trial(tmp_path, "real + synthetic", 2, "inputs") == trial
    assert read_trial(tmp_path, "real + synthetic", 2, "other inputs") is None
    assert read_trial(tmp_path, "real + synthetic", 1, "inputs") is None

    (file,) = (tmp_path / "trials").iterdir()
    file.write_text(file.read_text()[:40])
    with pytest.raises(DamagedError, match="not valid JSON"):
        read_trial(tmp_path, "real + synthetic", 2, "inputs")
