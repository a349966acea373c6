"""The evaluation as a stage of a study: who trains, on which pools, and what it refuses."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch import nn

import diffaug
from diffaug.errors import DataError, UsageError
from diffaug.evaluation.experiment.arms import Dose
from diffaug.evaluation.experiment.dose import DoseChoice, Measured
from diffaug.files import storage
from diffaug.stages.evaluating import evaluate

ARMS = ["real only", "balanced softmax", "best real + synthetic"]


@pytest.fixture
def augmenter(tmp_path, images, small):
    settings = {**small, "evaluation.arms": ARMS}
    found = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False).fit(images)
    found.generate()
    return found


def again(augmenter, **settings):
    return diffaug.DiffusionAugmenter.open(augmenter.study.path, settings=settings, overwrite=True, verbose=False)


def test_the_dose_is_chosen_on_training_images_and_told(augmenter) -> None:
    result = augmenter.evaluate()
    assert result.dose["base"] in ("real only", "balanced softmax")
    assert [row["share"] for row in result.dose["curve"]] == [0.0, 0.15, 0.3, 0.5]
    assert result.training["classifier"] == "small-cnn"


def test_a_function_of_ones_own_is_called_for_every_arm_and_seed(augmenter) -> None:
    calls = []

    def brightness(training, pixels, seed):
        calls.append((len(training.images), int(training.is_synthetic.sum()), seed))
        means = [training.images.pixels[training.images.labels == k].mean() for k in range(3)]
        return np.abs(pixels.mean(axis=(1, 2, 3))[:, None] - means).argmin(axis=1)

    result = augmenter.evaluate(train_fn=brightness, synthetic_fraction=0.3)
    assert {arm.metrics["balanced_accuracy"]["mean"] for arm in result.arms} == {1.0}
    trials = [call for call in calls if call[0] - call[1] == 31]  # those for the dose have fewer real images
    assert len({seed for _, _, seed in trials}) == 3
    assert {synthetic for _, synthetic, _ in trials} == {0, 17}
    assert "brightness" in result.training["classifier"]


def test_a_network_of_ones_own_is_trained(augmenter) -> None:
    def linear(channels, num_classes, image_size):
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size[0] * image_size[1], num_classes))

    assert "linear" in augmenter.evaluate(classifier=linear).training["classifier"]


def test_logistic_regression_on_features_needs_one_network_only(augmenter) -> None:
    result = again(augmenter, **{"evaluation.classifier": "features", "evaluation.synthetic_fraction": 0.3}).evaluate()
    assert result.training["classifier"].startswith("features of classifier")
    assert all(arm.metrics["balanced_accuracy"]["sd"] == 0 for arm in result.arms)  # seeds play no part


def test_a_thorough_evaluation_trains_a_second_generator_and_the_controls(augmenter) -> None:
    settings = {
        "evaluation.thorough": True,
        "evaluation.arms": None,
        "evaluation.num_seeds": 4,
        "evaluation.synthetic_fraction": 0.3,
    }
    thorough = again(augmenter, **settings)
    result = thorough.evaluate()
    assert {arm.name for arm in result.arms} >= {"replay", "prior", "real + unfiltered synthetic", "synthetic only"}
    assert {control.question for control in result.controls} == {
        *("new content", "more exposure", "shifted prior", "filters")
    }
    assert result.training["generators"] == 2
    folders = (thorough.study.path, thorough.study.path / "replicates" / "1")
    first, second = (storage.read_json(path / "generator" / "config.json")["training"] for path in folders)
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["images seen"] == second["images seen"]
    seen = [set(pd.read_parquet(path / "generator" / "rows.parquet")["id"]) for path in folders]
    assert seen[0] == seen[1]  # the second held out the same test images
    assert thorough.report().is_file()


def test_a_test_image_that_the_generator_saw_is_refused_or_left_out(images, small, tmp_path) -> None:
    for name in ("dark", "middle", "bright"):
        for number, file in enumerate(sorted((images / name).iterdir())):
            target = images / ("test" if number < 2 else "train") / name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, target)
        (images / name).rmdir()
    seen = np.asarray(Image.open(images / "train" / "dark" / "005.png"))
    Image.fromarray(np.clip(seen.astype(int) + 1, 0, 255).astype(np.uint8)).save(images / "test" / "dark" / "000.png")
    settings = {**small, "evaluation.arms": ARMS, "data.near_duplicates": False}
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False)
    with pytest.raises(DataError, match="1 of 6 test images"):
        augmenter.run(images)
    assert not augmenter.study.generator.exists()  # it was refused before training
    augmenter.fit(images).generate()
    with pytest.raises(DataError, match=r"1 of 6 test images were seen.*test/dark/000.png = train/dark/005.png"):
        augmenter.evaluate()
    result = augmenter.evaluate(drop_leaked=True)
    assert result.test_counts == {"bright": 2, "dark": 1, "middle": 2}
    assert list(storage.read_json(tmp_path / "study" / "evaluation" / "leaked.json")) == ["test/dark/000.png"]


def test_an_interrupted_evaluation_goes_on_and_says_how(augmenter) -> None:
    trained = []

    def train(training, pixels, seed):
        trained.append(seed)
        if len(trained) == 8:
            raise KeyboardInterrupt
        return np.zeros(len(pixels), np.int64)

    with pytest.raises(KeyboardInterrupt):
        augmenter.evaluate(train_fn=train)
    before = len(trained)
    augmenter.evaluate(train_fn=train)
    once = len(trained)
    augmenter.evaluate(train_fn=train)
    assert len(trained) == once > before
    paths = list((augmenter.study.path / "evaluation" / "trials").glob("*.json"))
    assert len(paths) == 9


def test_at_a_dose_of_zero_no_run_claims_the_pool(augmenter) -> None:
    augmenter.evaluate(synthetic_fraction=0.0)
    events = [json.loads(line) for line in augmenter.study.journal.read_text().splitlines()]
    trials = [event for event in events if event["kind"] == "dataset" and event["key"].startswith("trial/")]
    assert {event["data"]["name"] for event in trials} == {"train", "test"}


def test_all_runs_name_the_training_images_alike(augmenter) -> None:
    augmenter.evaluate(num_seeds=1, arms=("real only", "real + synthetic"))
    events = [json.loads(line) for line in augmenter.study.journal.read_text().splitlines()]
    used = [event for event in events if event["kind"] == "dataset" and event["data"]["name"] == "train"]
    assert {event["key"].split("/")[0] for event in used} == {"fit", "trial"}
    assert len({event["data"]["digest"] for event in used}) == 1


@pytest.mark.parametrize("taken", [True, False])
def test_classes_left_without_synthetic_images_are_told_and_recorded(augmenter, monkeypatch, capsys, taken) -> None:
    dose, fewer = Dose(0.3), Dose(0.3, without=("bright",))
    choice = DoseChoice("real only", fewer if taken else dose, finer=(Measured("real only", fewer, 0.75, 0.1),))
    monkeypatch.setattr(evaluate, "choose_dose", lambda experiment, progress: choice)
    loud = diffaug.DiffusionAugmenter.open(augmenter.study.path)
    loud.evaluate()
    end = "which is taken" if taken else "which is no better"
    told = " ".join(capsys.readouterr().err.split())
    assert f"without synthetic images of {fewer.without[0]}: 0.750, {end}" in told
    events = [json.loads(line) for line in augmenter.study.journal.read_text().splitlines()]
    params = [event["data"]["params"] for event in events if event["kind"] == "params" and "best real" in event["key"]]
    left_out = {one["synthetic_without"] for one in params if "synthetic_without" in one}
    assert left_out == ({fewer.without[0]} if taken else set())


def test_the_training_records_its_speed(augmenter) -> None:
    events = [json.loads(line) for line in augmenter.study.journal.read_text().splitlines()]
    speeds = [e["data"]["metrics"]["images_per_second"] for e in events if "loss" in e["data"].get("metrics", {})]
    assert speeds and all(0 < speed < 1e6 for speed in speeds)


def test_another_function_is_another_evaluation(augmenter) -> None:
    def always(answer, training, pixels, seed):
        return np.full(len(pixels), answer, np.int64)

    first = augmenter.evaluate(train_fn=partial(always, 0))
    with pytest.raises(UsageError, match="trained"):
        augmenter.evaluate(train_fn=partial(always, 1))
    second = again(augmenter).evaluate(train_fn=partial(always, 1))
    recall = [result.arms[0].recall["bright"].mean for result in (first, second)]
    assert recall == [1.0, 0.0]


def test_a_wrong_name_leaves_the_finished_evaluation_alone(augmenter) -> None:
    finished = augmenter.evaluate()
    with pytest.raises(UsageError, match="resnet-32"):
        again(augmenter).evaluate(classifier="resnet32")
    same = diffaug.DiffusionAugmenter.open(augmenter.study.path, settings={"evaluation.classifier": "small-cnn"})
    assert same.evaluate().to_dict() == finished.to_dict()


def test_further_pools_hold_as_many_images_as_the_first_also_after_it_was_extended(augmenter) -> None:
    augmenter.generate(more={"dark": 3})
    augmenter.evaluate(num_generators=2, synthetic_fraction=0.3)
    pools = [diffaug.Pool.open(path) for path in (augmenter.study.path, augmenter.study.path / "replicates" / "1")]
    counts = [pool.images().counts_by_name for pool in pools]
    assert counts[0]["dark"] == 3
    assert counts[0] == counts[1]


def test_a_second_generator_for_a_finished_evaluation_needs_overwrite(augmenter) -> None:
    augmenter.evaluate(synthetic_fraction=0.3)
    with pytest.raises(UsageError, match="generators None -> 2"):
        augmenter.evaluate(num_generators=2)
    assert storage.committed_facts(augmenter.study.evaluation) is not None
    assert not (augmenter.study.path / "replicates").exists()


def test_every_training_is_recorded_once_whatever_was_interrupted(augmenter) -> None:
    def trial_runs():
        events = pd.read_json(augmenter.study.journal, lines=True)
        return events.loc[(events["kind"] == "start") & events["key"].str.startswith("trial/"), "key"].tolist()

    augmenter.evaluate()
    before = trial_runs()
    calls = []

    def train(training, pixels, seed):
        calls.append(seed)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return np.full(len(pixels), seed % 3, np.int64)

    overwriting = again(augmenter)
    with pytest.raises(KeyboardInterrupt):
        overwriting.evaluate(train_fn=train)
    overwriting.evaluate(train_fn=train)
    after = trial_runs()
    assert len(set(after)) == len(after) == len(before) + 9
    assert after[: len(before)] == before


def test_trainings_of_an_evaluation_that_was_replaced_are_said_to_be_superseded(augmenter) -> None:
    augmenter.evaluate(synthetic_fraction=0.3)
    events = pd.read_json(augmenter.study.journal, lines=True)
    assert "superseded" not in set(events["kind"])
    older = set(events.loc[events["key"].str.startswith("trial/"), "key"])
    again(augmenter).evaluate(synthetic_fraction=0.15, arms=("real only", "real + synthetic"))
    events = pd.read_json(augmenter.study.journal, lines=True)
    assert set(events.loc[events["kind"] == "superseded", "key"]) == older
    assert len(set(events.loc[events["key"].str.startswith("trial/"), "key"])) == len(older) + 3 * 2
    gains = augmenter.job.current().journal.results("study")
    assert {name for name, value in gains.items() if np.isnan(value)} == {
        f"gain/best real and synthetic/{end}" for end in ("mean", "low", "high")
    }
    assert np.isfinite(gains["gain/real and synthetic/mean"])


def test_runs_say_what_they_were_trained_on(augmenter) -> None:
    augmenter.evaluate(synthetic_fraction=0.3)
    events = [json.loads(line) for line in augmenter.study.journal.read_text().splitlines()]
    used = {
        arm: {event["data"]["name"] for event in events if event["kind"] == "dataset" and f"/{arm}/" in event["key"]}
        for arm in ARMS
    }
    assert used == {
        "real only": {"train", "test"},
        "balanced softmax": {"train", "test"},
        "best real + synthetic": {"train", "test", "pool"},
    }
    params = {arm: {} for arm in ARMS}
    for event in events:
        if event["kind"] == "params" and event["key"].startswith("trial/"):
            params[event["key"].split("/")[1]] |= event["data"]["params"]
    assert params["best real + synthetic"]["synthetic_share"] == "0.3"
    tables = [event["data"] for event in events if event["kind"] == "table" and event["key"].startswith("trial/")]
    assert len(tables) == 3 * len(ARMS) and {table["name"] for table in tables} == {"per_class.json"}
    assert tables[0]["columns"] == ["class", "test images", "recall", "most taken for"]
    assert not params["real only"].keys() & {"synthetic_share", "base"}
    assert [event["data"]["registered_name"] for event in events if event["kind"] == "model"] == ["diffaug-study"]
