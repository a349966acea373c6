"""The experiment is paired, resumes after a kill, and refuses test sets that can't answer."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffaug.classifiers.training import NetworkClassifier, classifier_of, recipe_of
from diffaug.configuration.settings import ARM_NAMES, EvaluationSettings
from diffaug.errors import DamagedError, DataError, Interrupted, UsageError
from diffaug.evaluation.experiment.arms import ARMS, Dose
from diffaug.evaluation.experiment.dose import DoseChoice
from diffaug.evaluation.experiment.experiment import Experiment, run_experiment
from diffaug.evaluation.experiment.portable import packed
from diffaug.evaluation.experiment.synthetic import SyntheticPool
from diffaug.evaluation.experiment.trials import Trial, read_trial, trial_file, write_trial

SETTINGS = EvaluationSettings(arms=ARM_NAMES, num_seeds=3, max_steps=2, batch_size=8)
QUICK = EvaluationSettings(arms=("real only", "real + synthetic"), num_seeds=3, max_steps=2, batch_size=8)
CHOICE = DoseChoice("oversampling", Dose(0.3))


class Recording:
    """Writes down each training and gives every image the class that its brightness says."""

    name = "recording"

    def __init__(self):
        self.done = []

    def fit_predict(self, training, pixels, *, recipe, seed, device):
        self.done.append({"training": training, "recipe": recipe, "seed": seed, "threads": torch.get_num_threads()})
        classes = np.clip(pixels.mean(axis=(1, 2, 3)) // 60, 0, 2).astype(int)
        return np.eye(3, dtype=np.float32)[classes]


@pytest.fixture
def pool(make_images):
    def pool(counts=(0, 2, 4), seed=2):
        images = make_images(counts, seed=seed, prefix="synthetic")
        return SyntheticPool(images, ("",) * len(images), ("",) * len(images))

    return pool


@pytest.fixture
def make(make_images, tmp_path, pool):
    def make(settings=SETTINGS, *, synthetic=(0, 2, 4), test=(3, 3, 2), train=(8, 4, 2), **options):
        real = make_images(train)
        given = {
            "pools": [pool(synthetic)],
            "unfiltered": [pool(synthetic, seed=3)],
            "seed": 0,
            "directory": tmp_path,
            "classifier": Recording(),
            **options,
        }
        return Experiment(
            real, make_images(test, seed=1), settings=settings, device="cpu", groups=np.arange(len(real)), **given
        )

    return make


def run(experiment, choice=CHOICE):
    with experiment:
        return list(run_experiment(experiment, choice))


def outcomes(trials):
    return [replace(trial, seconds=0.0) for trial in trials]


def test_every_arm_meets_every_seed_in_seed_major_order_with_equal_updates(make):
    experiment = make()
    trials = run(experiment)
    assert [(t.seed, t.arm) for t in trials] == [(s, arm) for s in range(3) for arm in ARM_NAMES]
    done = experiment.classifier.done
    assert {t["recipe"] for t in done} == {recipe_of(SETTINGS, 14)}
    seeds = [t["seed"] for t in done]
    assert [len(set(seeds[i : i + 10])) for i in (0, 10, 20)] == [1, 1, 1]
    assert len(set(seeds)) == 3
    expected = [6 if name == "synthetic only" else 20 if "synthetic" in name else 14 for name in ARM_NAMES]
    assert [len(t["training"].images) for t in done] == expected * 3
    assert {t["threads"] for t in done} == {1}


def test_a_trial_holds_what_its_predictions_are_worth(make):
    labels = np.repeat([0, 1, 2], [3, 3, 2])
    trial = run(make(QUICK))[0]
    predicted = np.array(trial.predictions)
    assert trial.metrics["accuracy"] == pytest.approx((predicted == labels).mean())
    assert trial.recall == pytest.approx([(predicted[labels == c] == c).mean() for c in range(3)])
    assert np.sum(trial.confusion) == 8
    assert trial.seconds > 0


def test_a_killed_run_continues_where_it_stopped_with_the_same_outcome(make, tmp_path):
    first = make()
    interrupted = run_experiment(first, CHOICE)
    for _ in range(4):
        next(interrupted)
    interrupted.close()
    assert len(first.classifier.done) == 4

    second = make()
    resumed = outcomes(run(second))
    assert len(second.classifier.done) == 26
    assert resumed == outcomes(run(make(directory=tmp_path / "other")))
    third = make()
    assert outcomes(run(third)) == resumed
    assert third.classifier.done == []


def test_a_stop_is_obeyed_between_two_trainings_and_keeps_what_is_finished(make, tmp_path):
    experiment = make(QUICK, stop_requested=lambda: len(experiment.classifier.done) == 2)
    with pytest.raises(Interrupted):
        run(experiment)
    assert len(list((tmp_path / "trials").iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, 0),
        ({"synthetic": (0, 2, 5)}, 3),
        ({"seed": 1}, 6),
        ({"settings": QUICK.model_copy(update={"seeds": 4})}, 2),
        ({"settings": QUICK.model_copy(update={"updates": 4})}, 6),
        ({"settings": QUICK.model_copy(update={"workers": 7, "drop_leaked": True})}, 0),
        ({"test": (3, 3, 3)}, 6),
        ({"dose": Dose(0.3, 0.9)}, 3),
        ({"dose": Dose(0.3, 1.0, 1.0)}, 3),
    ],
)
def test_only_trials_whose_inputs_changed_are_trained_again(make, change, again):
    run(make(QUICK))
    change = {"settings": QUICK, **change}
    choice = replace(CHOICE, dose=change.pop("dose", CHOICE.dose))
    experiment = make(**change)
    run(experiment, choice)
    assert len(experiment.classifier.done) == again


def test_another_classifier_is_another_training(make):
    run(make(QUICK))
    other = Recording()
    other.name = "other"
    run(make(QUICK, classifier=other))
    assert len(other.done) == 6


def test_arms_that_come_to_the_same_training_are_trained_once(make):
    experiment = make()
    trials = {(trial.seed, trial.arm): trial for trial in run(experiment, replace(CHOICE, dose=Dose(0.0)))}
    assert len(trials) == 30
    assert len(experiment.classifier.done) == 3 * len(
        {"real only", "strong augmentation", "oversampling", "balanced softmax", "synthetic only"}
    )
    for partner, arms in {
        "real only": ["replay", "prior", "real + synthetic", "real + unfiltered synthetic"],
        "oversampling": ["best real + synthetic"],
    }.items():
        for arm in arms:
            assert trials[0, arm].predictions == trials[0, partner].predictions


def test_repetitions_take_turns_at_the_generators(make, pool):
    pools = [pool((0, 2, 4), seed=5), pool((0, 1, 3), seed=6)]
    experiment = make(QUICK, pools=pools, unfiltered=())
    run(experiment)
    with_synthetic = [t["training"] for t in experiment.classifier.done if t["training"].is_synthetic.any()]
    assert [training.is_synthetic.sum() for training in with_synthetic] == [6, 4, 6]


def test_networks_are_trained_the_same_in_one_process_and_in_two(make, tmp_path):
    one = make(QUICK.model_copy(update={"workers": 1}), classifier=None)
    two = make(QUICK.model_copy(update={"workers": 2}), classifier=None, directory=tmp_path / "two")
    assert outcomes(run(one)) == outcomes(run(two))
    assert [item.name for item in (tmp_path / "two").iterdir()] == ["trials"]


def test_a_network_given_in_python_is_the_one_of_the_settings(make, tmp_path):
    given = make(QUICK, classifier=classifier_of(QUICK))
    settings = make(QUICK.model_copy(update={"workers": 1}), classifier=None, directory=tmp_path / "other")
    assert outcomes(run(given)) == outcomes(run(settings))


MODULE = """
from torch import nn

def linear(channels, num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size[0] * image_size[1], num_classes))
"""


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A network in a module of the current folder, as in an interactive session."""
    (tmp_path / "networks_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    yield importlib.import_module("networks_of_mine").linear
    del sys.modules["networks_of_mine"]


@pytest.mark.parametrize(("workers", "elsewhere"), [(2, True), (1, False), (None, False)])
def test_several_processes_import_a_network_where_they_are_asked_for(
    make, monkeypatch, tmp_path, network, workers, elsewhere
):
    classifier = NetworkClassifier.of_factory(network)
    here = outcomes(run(make(QUICK.model_copy(update={"workers": 1}), classifier=classifier)))
    settings = QUICK.model_copy(update={"workers": workers})
    with make(settings, classifier=classifier, directory=tmp_path / "other") as experiment:
        assert outcomes(list(run_experiment(experiment, CHOICE))) == here
        assert ("_crew" in vars(experiment)) == elsewhere


def test_a_network_that_other_processes_cannot_import_is_an_error_with_the_remedy(make, tmp_path, network):
    (tmp_path / "networks_of_mine.py").unlink()
    with pytest.raises(UsageError, match="can't be imported by other processes: No module named") as error:
        run(make(QUICK.model_copy(update={"workers": 2}), classifier=NetworkClassifier.of_factory(network)))
    assert "evaluation.workers=1" in error.value.fix


def network_of_the_program(channels, num_classes, image_size): ...


network_of_the_program.__module__ = "__main__"


class Unpicklable:
    def __call__(self, channels, num_classes, image_size): ...

    def __reduce__(self):
        raise RuntimeError("never")


@pytest.mark.parametrize("factory", [lambda *_: None, network_of_the_program, Unpicklable()])
def test_what_other_processes_cannot_import_stays_here(monkeypatch, factory):
    monkeypatch.setattr(sys.modules["__main__"], "network_of_the_program", network_of_the_program, raising=False)
    assert packed(NetworkClassifier.of_factory(factory)) is None


def test_an_object_that_trains_stays_here_and_may_remember():
    assert packed(Recording()) is None


def by_brightness(training, pixels, seed):
    return np.clip(pixels.mean(axis=(1, 2, 3)) // 60, 0, 2).astype(np.int32)


def test_the_users_own_training_is_given_every_arm(make):
    seen = []

    def train_fn(training, pixels, seed):
        seen.append((len(training.images), pixels.dtype, len(pixels), seed))
        return np.eye(3)[by_brightness(training, pixels, seed)]

    trials = run(make(QUICK, classifier=None, train_fn=train_fn))
    assert [count for count, *_ in seen] == [14, 20] * 3
    assert {(dtype, count) for _, dtype, count, _ in seen} == {(np.dtype(np.uint8), 8)}
    assert len({seed for *_, seed in seen}) == 3
    labelled = run(make(QUICK, classifier=None, train_fn=by_brightness))
    assert [trial.predictions for trial in trials] == [trial.predictions for trial in labelled]
    assert ("auroc" in trials[0].metrics, "auroc" in labelled[0].metrics) == (True, False)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (np.zeros(7, int), r"int64 of shape \(7,\)"),
        (np.zeros(8), r"float64 of shape \(8,\)"),
        (np.full(8, 3), "class 3, and classes are 0 to 2"),
        (np.full(8, -1), "class -1"),
        (np.full((8, 3), 0.5), "sum to 1"),
        (np.full((8, 3), np.nan), "not finite"),
        (np.tile([2.0, -1.0, 0.0], (8, 1)), "negative"),
        (np.full((8, 4), 0.25), r"shape \(8, 4\)"),
        (None, "object of shape"),
    ],
)
def test_a_wrong_answer_of_the_users_training_is_explained(make, answer, problem, tmp_path):
    with pytest.raises(UsageError, match=problem) as error:
        run(make(QUICK, classifier=None, train_fn=lambda *_: answer))
    assert "shape (8,), or probabilities" in error.value.fix
    assert not (tmp_path / "trials").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_images_is_an_error_before_any_training(make, split):
    with pytest.raises(DataError, match="class 1"):
        make(**{split: (3, 0, 2)})


def test_sets_that_do_not_fit_are_an_error(make):
    with pytest.raises(DataError, match="different classes"):
        make(test=(2, 2))
    with pytest.raises(UsageError, match="before the filters"):
        make(unfiltered=())
    with pytest.raises(UsageError, match="a classifier and a train_fn were given"):
        make(train_fn=by_brightness)


def test_updates_follow_the_data_when_not_set(make):
    assert make(SETTINGS.model_copy(update={"updates": None})).recipe.updates == 400


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

    file = trial_file(tmp_path, "real + synthetic", 2)
    file.write_text(file.read_text()[:40])
    with pytest.raises(DamagedError, match="not valid JSON"):
        read_trial(tmp_path, "real + synthetic", 2, "inputs")


def test_every_arm_has_its_own_file(tmp_path):
    assert len({trial_file(tmp_path, name, 0) for name in ARMS}) == len(ARMS)
