import sys
from dataclasses import replace
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from torch import nn

from diffaug.classifiers.fit import NetworkClassifier
from diffaug.classifiers.library import classifier_by_name, recipe_from_settings
from diffaug.configuration.arms import ARM_NAMES as EVERY_NAME
from diffaug.configuration.arms import Resources
from diffaug.configuration.evaluation import EvaluationSettings
from diffaug.errors import DataError, Interrupted, UsageError
from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.choice import Choice, Mix
from diffaug.evaluation.experiment.experiment import Experiment
from diffaug.evaluation.experiment.trainings import run_experiment

ARM_NAMES = tuple(name for name in EVERY_NAME if not Resources(unlabeled=False).missing_for(name))
SETTINGS = EvaluationSettings(arms=ARM_NAMES, num_seeds=3, max_steps=2)
QUICK = EvaluationSettings(arms=("real only", "real + synthetic"), num_seeds=3, max_steps=2)
BASE, MIX = ARMS["oversampling"], Mix(0.3)


def by_brightness(training, pixels, seed):
    return np.clip(pixels.mean(axis=(1, 2, 3)) // 60, 0, 2).astype(np.int32)


class Recording:
    def __init__(self, name="recording"):
        self.name, self.done = name, []

    def fit_predict(self, training, pixels, *, recipe, seed, device):
        self.done.append({"training": training, "recipe": recipe, "seed": seed, "threads": torch.get_num_threads()})
        return np.eye(3, dtype=np.float32)[by_brightness(training, pixels, seed)]


@pytest.fixture
def pool(make_images):
    def pool(counts=(0, 2, 4), seed=2, channels=1):
        return make_images(counts, seed=seed, prefix="synthetic", channels=channels)

    return pool


@pytest.fixture
def make(make_images, tmp_path, pool):
    def make(settings=SETTINGS, *, synthetic=(0, 2, 4), test=(3, 3, 2), train=(8, 4, 2), **options):
        real = make_images(train)
        pools = {"pools": [pool(synthetic)], "unfiltered": [pool(synthetic, seed=3)]}
        given = {"seed": 0, "directory": tmp_path, "classifier": Recording(), "groups": np.arange(len(real))} | pools
        return Experiment(real, make_images(test, seed=1), settings=settings, device="cpu", **given | options)

    return make


def run(experiment, mix=MIX):
    return list(run_experiment(experiment, Choice(BASE.name, mix)))


def outcomes(trials):
    return [replace(trial, seconds=0.0) for trial in trials]


def test_every_arm_meets_every_seed_in_seed_major_order_with_equal_updates(make):
    experiment = make()
    trials = run(experiment)
    assert [(t.seed, t.arm) for t in trials] == [(s, arm) for s in range(3) for arm in ARM_NAMES]
    done = experiment.classifier.done
    assert {t["recipe"] for t in done} == {recipe_from_settings(SETTINGS, 14)}
    seeds = [t["seed"] for t in done]
    assert [len(set(seeds[i : i + 10])) for i in (0, 10, 20)] == [1, 1, 1]
    assert len(set(seeds)) == 3
    expected = [6 if name == "synthetic only" else 20 if "synthetic" in name else 14 for name in ARM_NAMES]
    assert [len(t["training"].images) for t in done] == expected * 3
    assert {t["threads"] for t in done} == {1}


def test_a_killed_run_continues_where_it_stopped_with_the_same_outcome(make, tmp_path, monkeypatch):
    first, started, start = make(), [], Experiment.run
    monkeypatch.setattr(Experiment, "run", lambda *given: started.append(start(*given)) or started[-1])
    interrupted = run_experiment(first, Choice(BASE.name, MIX))
    for _ in range(4):
        next(interrupted)
    interrupted.close()
    assert started[0].gi_frame is None  # closed, so that no worker process is left
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
        ({"settings": QUICK.model_copy(update={"num_seeds": 4})}, 2),
        ({"settings": QUICK.model_copy(update={"max_steps": 4})}, 6),
        ({"settings": QUICK.model_copy(update={"drop_leaked": True})}, 0),
        ({"test": (3, 3, 3)}, 6),
        ({"classifier": Recording("other")}, 6),
        ({"mix": Mix(0.3, 0.9)}, 3),
        ({"mix": Mix(0.3, 1.0, 1.0)}, 3),
    ],
)
def test_only_trials_whose_inputs_changed_are_trained_again(make, change, again):
    run(make(QUICK))
    options = {"settings": QUICK, "mix": MIX, **change}
    mix = options.pop("mix")
    experiment = make(**options)
    run(experiment, mix)
    assert len(experiment.classifier.done) == again


def test_arms_that_come_to_the_same_training_are_trained_once(make):
    experiment = make()
    trials = {(trial.seed, trial.arm): trial for trial in run(experiment, Mix(0.0))}
    assert len(trials) == 30
    own = {"real only", "tuned augmentation", "oversampling", "balanced softmax", "synthetic only"}
    assert len(experiment.classifier.done) == 3 * len(own)
    for arm in set(ARM_NAMES) - own:
        partner = "oversampling" if arm == "best real + synthetic" else "real only"
        assert trials[0, arm].predictions == trials[0, partner].predictions


def test_repetitions_take_turns_at_the_generators(make, pool):
    pools = [pool((0, 2, 4), seed=5), pool((0, 1, 3), seed=6)]
    experiment = make(QUICK, pools=pools, unfiltered=())
    run(experiment)
    with_synthetic = [t["training"] for t in experiment.classifier.done if t["training"].is_synthetic.any()]
    assert [training.is_synthetic.sum() for training in with_synthetic] == [6, 4, 6]


def with_workers(workers):
    return QUICK.model_copy(update={"workers": workers})


def linear(scale, channels, num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size[0] * image_size[1], num_classes))


@pytest.mark.e2e
@pytest.mark.parametrize("own", ["network", "lambda", "function of __main__"])
def test_trainings_are_the_same_in_one_process_and_in_two(make, tmp_path, monkeypatch, own):
    classifiers = {
        "network": classifier_by_name(QUICK),
        "lambda": NetworkClassifier.of_factory(lambda *given: linear(1, *given)),
        "function of __main__": NetworkClassifier(partial(linear, 1), "linear"),
    }
    if own == "function of __main__":
        monkeypatch.setattr(linear, "__module__", "__main__")
        monkeypatch.setattr(sys.modules["__main__"], "linear", linear, raising=False)
    one = make(with_workers(1), classifier=None if own == "network" else classifiers[own])
    two = make(with_workers(2), classifier=classifiers[own], directory=tmp_path / "two")
    assert outcomes(run(one)) == outcomes(run(two))
    assert [item.name for item in (tmp_path / "two").iterdir()] == ["trials"]


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_predictions(make, tmp_path):
    from dask.distributed import Client, LocalCluster

    here = outcomes(run(make(with_workers(1), classifier=None)))
    with (
        LocalCluster(processes=True, n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
        joblib.parallel_config("dask"),
    ):
        assert outcomes(run(make(QUICK, classifier=None, directory=tmp_path / "dask"))) == here


@pytest.mark.parametrize("own", ["classifier", "train_fn"])
def test_workers_that_a_training_of_ones_own_cannot_use_are_an_error(make, own):
    """It stays in this process, where what it remembers is seen; with the default of workers it is not an error."""
    options = {"classifier": Recording()} if own == "classifier" else {"classifier": None, "train_fn": by_brightness}
    for workers in (None, 1):
        assert len(run(make(with_workers(workers), **options))) == 6
    with pytest.raises(UsageError, match="runs in this process, not in 2 workers") as error:
        make(with_workers(2), **options)
    assert "evaluation.workers=1" in error.value.fix


def test_the_users_own_training_is_given_every_arm(make):
    seen = []

    def train_fn(training, pixels, seed):
        seen.append((len(training.images), pixels.dtype, len(pixels), seed))
        return np.eye(3)[by_brightness(training, pixels, seed)]

    trials = run(make(QUICK, classifier=None, train_fn=train_fn))
    assert [count for count, *_ in seen] == [14, 20] * 3
    assert {(dtype, count) for _, dtype, count, _ in seen} == {(np.dtype(np.uint8), 8)}
    assert len({seed for *_, seed in seen}) == 3
    labeled = run(make(QUICK, classifier=None, train_fn=by_brightness))
    assert [trial.predictions for trial in trials] == [trial.predictions for trial in labeled]
    assert ("auroc" in trials[0].metrics, "auroc" in labeled[0].metrics) == (True, False)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (np.zeros(7, int), r"int64 of shape \(7,\)"),
        (np.zeros(8), r"float64 of shape \(8,\)"),
        (np.full(8, 3), "class 3, but classes are 0 to 2"),
        (np.full(8, -1), "class -1"),
        (np.full((8, 3), 0.5), "do not sum to 1"),
        (np.full((8, 3), np.nan), "not finite"),
        (np.tile([2.0, -1.0, 0.0], (8, 1)), "negative"),
        (np.full((8, 4), 0.25), r"shape \(8, 4\)"),
        (None, "object of shape"),
        ([[0.5, 0.5], [1.0]] * 4, "no array"),
        (torch.eye(3, requires_grad=True), "no array"),
    ],
)
@pytest.mark.parametrize("own", ["classifier recording", "train_fn"])
def test_a_wrong_answer_of_the_users_training_is_explained(make, answer, problem, own, tmp_path):
    classifier = Recording()
    classifier.fit_predict = lambda *_, **__: answer
    is_function = own == "train_fn"
    options = {"classifier": None, "train_fn": lambda *_: answer} if is_function else {"classifier": classifier}
    with pytest.raises(UsageError, match=problem) as error:
        run(make(QUICK, **options))
    assert error.value.where.startswith(own)
    assert "shape (8,), or probabilities" in error.value.fix
    assert not (tmp_path / "trials").exists()


def test_sets_that_do_not_fit_are_an_error_before_any_training(make, pool):
    with pytest.raises(DataError, match="no training image of: class 1"):
        make(train=(3, 0, 2))
    with pytest.raises(DataError, match="no test image of: class 1"):
        make(test=(3, 0, 2))
    with pytest.raises(DataError, match="different classes"):
        make(test=(2, 2))
    with pytest.raises(DataError, match=r"different shapes .*\(8, 8, 1\) and \(8, 8, 3\)"):
        make(pools=[pool(channels=3)])
    with pytest.raises(UsageError, match="images before the filters"):
        make(unfiltered=())
    with pytest.raises(UsageError, match="both classifier and train_fn"):
        make(train_fn=by_brightness)
