import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import diffaug
from diffaug.classifiers.networks import small_cnn
from diffaug.errors import DamagedError, DataError, UsageError
from diffaug.evaluation.experiment.arms import ARMS as ARM
from diffaug.evaluation.experiment.choice import MeasuredMix, Mix
from diffaug.evaluation.experiment.choosing.mixes import ChosenMix
from diffaug.files import storage
from diffaug.stages.evaluating import evaluate, experiment
from diffaug.stages.evaluating.pilot import PilotPool, planned_settings
from diffaug.stages.evaluating.progress import say_real
from diffaug.synthesis.decisions import ReviewFile
from diffaug.tracking.journal import Journal

pytestmark = pytest.mark.e2e
ARMS = ["real only", "balanced softmax", "best real + synthetic"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_classes, small):
    root = tmp_path_factory.mktemp("trained")
    images = make_classes(root / "images", {"dark": 20, "middle": 12, "bright": 6})
    settings = {**small, "evaluation.arms": ARMS, "evaluation.workers": 1}
    diffaug.DiffusionAugmenter(study=root / "study", settings=settings, verbose=False).fit(images).generate()
    return root / "study"


@pytest.fixture(autouse=True)
def trusted_classes(monkeypatch):
    """The generator of these tests has learned nothing, so that no class would get synthetic images."""
    monkeypatch.setattr(experiment, "blind_classes", lambda pool: ())


@pytest.fixture
def augmenter(trained, tmp_path):
    return diffaug.DiffusionAugmenter.open(shutil.copytree(trained, tmp_path / "study"), verbose=False)


def again(augmenter):
    return diffaug.DiffusionAugmenter.open(augmenter.study.path, overwrite=True, verbose=False)


class Training:
    """A training of one's own that counts itself: nearest mean brightness; `stop_at` raises Ctrl-C in that call."""

    def __init__(self, stop_at=None, noise=0.0):
        self.calls, self.stop_at, self.noise = [], stop_at, noise

    def __call__(self, training, pixels, seed):
        real = int((~training.is_synthetic).sum())
        self.calls.append(SimpleNamespace(real=real, synthetic=int(training.is_synthetic.sum()), seed=seed))
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        by_class = [training.images.pixels[training.images.labels == k] for k in range(3)]
        means = [pixels_of_class.mean() if len(pixels_of_class) else -1e9 for pixels_of_class in by_class]
        brightness = pixels.mean(axis=(1, 2, 3)) + self.noise * np.random.default_rng(seed).normal(size=len(pixels))
        return np.abs(brightness[:, None] - means).argmin(axis=1)

    def new_calls(self):
        calls, self.calls = self.calls, []
        return calls


def events_of(augmenter):
    return [json.loads(line) for line in augmenter.study.journal.read_text().splitlines()]


def trial_runs(augmenter):
    return [e["key"] for e in events_of(augmenter) if e["kind"] == "start" and e["key"].startswith("trial/")]


def test_real_arms_are_chosen_on_training_images_and_every_training_is_logged_with_its_data(augmenter) -> None:
    result = augmenter.evaluate()
    assert {one.arm for one in result.choice.real} == {"real only", "balanced softmax"}
    assert result.choice.base == result.choice.real[0].arm
    assert result.training.classifier == "small-cnn"
    used = [e for e in events_of(augmenter) if e["kind"] == "dataset" and e["data"]["name"] == "train"]
    assert {event["key"].split("/")[0] for event in used} == {"fit", "trial"}
    assert len({event["data"]["digest"] for event in used}) == 1
    assert {event["data"]["rows"] for event in used} == {sum(result.train_counts.values())}
    losses = [event for event in events_of(augmenter) if "train_loss" in event["data"].get("metrics", {})]
    assert {event["key"].split("/")[1] for event in losses} == {arm.name for arm in result.arms}


def test_the_mix_is_chosen_on_images_that_the_pilot_has_not_seen(augmenter, make_pool, tmp_path, monkeypatch) -> None:
    catalog = augmenter.inspect()
    judged = np.arange(len(catalog.labels("train"))) % 3 == 0
    made = [(label, np.full((*catalog.image_size, 1), 80 * label + 20, np.uint8)) for label in (1, 1, 2, 2)]
    pilot = PilotPool(make_pool(tmp_path / "pilot", catalog.classes, made), judged)
    monkeypatch.setattr(experiment, "pilot_pool", lambda job, catalog: pilot)
    monkeypatch.setattr(experiment, "blind_classes", lambda pool: ())  # a generator of seconds has learned nothing
    training = Training()
    result = augmenter.evaluate(classifier=None, train_fn=training)
    chosen = [call for call in training.new_calls() if call.real == (~judged).sum()]
    assert {call.synthetic for call in chosen} == {0, 4}
    assert result.choice.judged_images == judged.sum()
    assert {one.mix.fraction for one in result.choice.mixtures} == {0.0, 0.15, 0.3, 0.5}


def test_without_a_pool_the_real_arms_alone_are_compared(augmenter, capsys) -> None:
    shutil.rmtree(augmenter.study.pool)
    training = Training()
    shown = diffaug.DiffusionAugmenter.open(augmenter.study.path)
    result = shown.evaluate(train_fn=training)
    assert {call.synthetic for call in training.new_calls()} == {0}
    assert (result.verdict.decision, set(result.synthetic_counts.values())) == ("do not use", {0})
    told = " ".join(capsys.readouterr().err.split())
    assert "only real images were compared. There are no synthetic images yet. To get some: diffaug generate" in told
    again = shown.evaluate(train_fn=training)
    assert (again, training.new_calls()) == (result, [])
    shown.generate()
    both = shown.evaluate(train_fn=training, synthetic_fraction=0.3)
    assert {(call.real, call.synthetic > 0) for call in training.new_calls()} == {(31, True)}  # the rest is kept
    assert both.arm("real only") == result.arm("real only")


@pytest.mark.parametrize("asked", [False, True])
def test_an_empty_pool_is_no_reason_to_generate_again(augmenter, capsys, asked) -> None:
    counts = augmenter.inspect().counts_by_name("train")
    shown = diffaug.DiffusionAugmenter.open(augmenter.study.path, overwrite=True)
    more = {"filters": ("out of distribution",), "false_rejection_rate": 0.95} if asked else {}
    assert len(shown.generate(counts | ({"bright": 40} if asked else {}), max_attempts=1, **more)) == 0
    capsys.readouterr()
    result = shown.evaluate(train_fn=Training())
    assert result.verdict.headline == "Nothing to use: there are no synthetic images."
    told = " ".join(capsys.readouterr().err.split())
    assert "The pool holds no image" in told
    assert ("train longer: diffaug fit" in told, "none was asked for" in told) == (asked, not asked)
    assert "to get some" not in told.lower()
    assert shown.evaluate(train_fn=Training()) == result
    why = json.loads(shown.report().with_suffix(".json").read_text())["why_no_images"]
    assert ("out of distribution" in why, "none was asked for" in why) == (asked, not asked)
    assert why in told


def test_a_changed_review_trains_anew_without_the_rejected_images(augmenter, capsys) -> None:
    shown, training = diffaug.DiffusionAugmenter.open(augmenter.study.path), Training()
    pool = diffaug.Pool.open(augmenter.study.path)
    review, keys = ReviewFile(pool.root), list(zip(pool.files, pool.manifest["sha256"], strict=True))

    def evaluated() -> set[int]:
        result = shown.evaluate(train_fn=training, synthetic_fraction=0.3)
        assert sum(result.synthetic_counts.values()) == len(diffaug.Pool.open(pool.root))
        return {call.synthetic for call in training.new_calls()}

    assert evaluated() == {0, len(pool)}
    review.add("anna", keys[0], "accept")
    assert evaluated() == set()
    for key in keys[:3]:
        review.add("anna", key, "reject")
    with pytest.raises(UsageError, match="its review changed since"):
        shown.report()
    capsys.readouterr()
    assert evaluated() == {len(pool) - 3}  # the real arms are kept
    told = " ".join(capsys.readouterr().err.split())
    assert f"review: 3 of {len(pool)} synthetic images reviewed (anna), 3 rejected and left out" in told
    assert "3 rejected and left out" in shown.report().read_text()
    review.path.unlink()
    assert evaluated() == {len(pool)}
    for key in keys:
        review.add("anna", key, "reject")
    capsys.readouterr()
    evaluated()
    assert "Reviewers reject all images of the pool" in " ".join(capsys.readouterr().err.split())


def test_images_are_evaluated_before_there_is_a_study(images, small, tmp_path, capsys) -> None:
    settings = {**small, "evaluation.arms": ARMS, "evaluation.workers": 1}
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=settings).attach(images)
    result = augmenter.evaluate(train_fn=Training(), num_seeds=1)
    assert sum(result.synthetic_counts.values()) == 0
    assert augmenter.study.has_begun and not augmenter.study.generator.exists()
    output = " ".join(capsys.readouterr().err.split())
    assert f"To get some: diffaug run {images} --study {tmp_path / 'study'}" in output
    with pytest.raises(UsageError) as refused:
        augmenter.generate()
    assert refused.value.fix == f"diffaug fit {images} --study {tmp_path / 'study'}"


def test_a_first_answer_is_short_and_says_so(augmenter, capsys) -> None:
    shown = diffaug.DiffusionAugmenter.open(augmenter.study.path)
    result = shown.evaluate(quick=True, arms=None, num_seeds=None, max_steps=None, train_fn=Training())
    assert [(arm.name, arm.seeds) for arm in result.arms] == [(name, 2) for name in ARMS]
    assert result.choice.is_quick and result.training.max_steps <= 200
    output = " ".join(capsys.readouterr().err.split())
    assert f"the full one: diffaug evaluate {augmenter.study.path}" in output
    assert "evaluation: about 6 trainings" in output
    assert f"--config {augmenter.study.config_file} --quick" in augmenter.study.report.read_text()
    later = diffaug.DiffusionAugmenter.open(augmenter.study.path, verbose=False).config.evaluation
    assert (later.quick, later.num_seeds, later.max_steps) == (False, 3, 8)


def test_a_first_answer_is_of_one_call_and_does_not_replace_the_full_one(augmenter, capsys) -> None:
    path, training = augmenter.study.path, Training()

    def evaluated(*, quick: bool, **options):
        shown = diffaug.DiffusionAugmenter.open(path, settings={"evaluation.quick": True} if quick else {}, **options)
        capsys.readouterr()
        return shown.evaluate(train_fn=training), " ".join(capsys.readouterr().err.split())

    first, _ = evaluated(quick=True)
    assert first.choice.is_quick and {arm.seeds for arm in first.arms} == {2}
    assert "quick" not in augmenter.study.config_file.read_text()
    full, told = evaluated(quick=False)
    assert not full.choice.is_quick and [(arm.name, arm.seeds) for arm in full.arms] == [(name, 3) for name in ARMS]
    assert "the full answer replaces the first one" in told
    training.new_calls()
    kept, told = evaluated(quick=True)
    assert (kept, training.new_calls()) == (full, [])
    assert "the full answer, kept" in told and "--overwrite" in told
    with pytest.raises(UsageError, match="classifier 'small-cnn' -> 'resnet-32'"):
        diffaug.DiffusionAugmenter.open(path, verbose=False).evaluate(classifier="resnet-32", quick=True)
    assert diffaug.EvaluationResult.load(augmenter.study.evaluation / "result.json") == full
    again, _ = evaluated(quick=True, overwrite=True)
    assert again.choice.is_quick


def test_the_best_real_arm_is_told_before_any_synthetic_image_is_trained_on(augmenter, monkeypatch, capsys) -> None:
    training = Training()
    told = []
    monkeypatch.setattr(evaluate, "say_real", lambda *given: told.append(len(training.calls)) or say_real(*given))
    diffaug.DiffusionAugmenter.open(augmenter.study.path).evaluate(train_fn=training, synthetic_fraction=0.3)
    assert told == [6]
    assert all(call.synthetic == 0 for call in training.calls[:6])
    assert "best without synthetic images: 'real only' (as found), 100.0 %" in " ".join(capsys.readouterr().err.split())


def test_a_network_of_ones_own_is_trained(augmenter) -> None:
    result = augmenter.evaluate(classifier=small_cnn, synthetic_fraction=0.3, num_seeds=1)
    assert result.training.classifier.startswith("small_cnn ")  # and a hash of its source


def test_more_seeds_and_arms_train_only_what_is_missing(augmenter) -> None:
    training = Training()
    augmenter.evaluate(train_fn=training, num_seeds=2)
    assert training.new_calls()
    assert len(trial_runs(augmenter)) == 2 * len(ARMS)

    result = augmenter.evaluate(train_fn=training, num_seeds=3)
    added = training.new_calls()
    assert {call.real for call in added} == {31} and len({call.seed for call in added}) == 1
    assert 2 <= len(added) <= len(ARMS)  # an arm that is the same training as another is not trained again
    assert {arm.seeds for arm in result.arms} == {3}

    augmenter.evaluate(train_fn=training, num_seeds=3, arms=[*ARMS, "synthetic only"])
    assert [(call.real, call.synthetic) for call in training.new_calls()] == [(0, 17)] * 3
    assert len(trial_runs(augmenter)) == 3 * (len(ARMS) + 1)

    fewer = augmenter.evaluate(train_fn=training, num_seeds=2, arms=ARMS)
    assert training.new_calls() == [] and {arm.seeds for arm in fewer.arms} == {2}


def test_other_settings_keep_the_trainings_that_do_not_depend_on_them(augmenter) -> None:
    training = Training()
    augmenter.evaluate(train_fn=training, synthetic_fraction=0.3)
    assert training.new_calls()
    with pytest.raises(UsageError, match=r"synthetic_fraction 0.3 -> 0.5"):
        augmenter.evaluate(train_fn=training, synthetic_fraction=0.5)
    with pytest.raises(UsageError, match="trained"):
        augmenter.evaluate(train_fn=lambda *_: None, synthetic_fraction=0.3)
    again(augmenter).evaluate(train_fn=training, synthetic_fraction=0.5)
    assert {call.synthetic for call in training.calls if call.real == 31} == {17}
    assert all(call.synthetic for call in training.calls)


def test_of_a_damaged_evaluation_only_what_was_changed_is_trained_again(augmenter) -> None:
    training = Training()
    augmenter.evaluate(train_fn=training, synthetic_fraction=0.3, num_seeds=2)
    file = next((augmenter.study.evaluation / "trials").glob("real-only.0.json"))
    file.write_text(file.read_text().replace('"seconds": ', '"seconds": 1'))
    with pytest.raises(DamagedError):
        augmenter.evaluate(train_fn=training, synthetic_fraction=0.3, num_seeds=3)
    training.new_calls()
    again(augmenter).evaluate(train_fn=training, synthetic_fraction=0.3, num_seeds=3)
    assert 1 + 2 <= len(training.calls) <= 1 + len(ARMS)  # the changed one, and those with a third seed


def test_a_second_generator_trains_its_part_and_the_controls_of_a_thorough_evaluation(augmenter) -> None:
    augmenter.generate(more={"dark": 3})
    planned = planned_settings(augmenter.job)
    assert planned.keys() <= type(augmenter.config.diffusion).model_fields.keys()
    settings = {"arms": None, "num_seeds": 4, "synthetic_fraction": 0.3}
    result = augmenter.evaluate(thorough=True, train_fn=Training(noise=60), **settings)
    assert {arm.name for arm in result.arms} >= {"replay", "prior", "real + unfiltered synthetic", "synthetic only"}
    questions = {"new content", "more exposure", "shifted prior", "filters"}
    assert {control.question for control in result.controls} == questions
    assert result.training.num_generators == len(result.compared.by_generator) == 2
    folders = (augmenter.study.path, augmenter.study.path / "replicates" / "1")
    first, second = (storage.read_json(path / "generator" / "config.json")["training"] for path in folders)
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["images seen"] == second["images seen"]
    seen = [set(pd.read_parquet(path / "generator" / "rows.parquet")["id"]) for path in folders]
    assert seen[0] == seen[1]  # the second held out the same test images
    counts = [diffaug.Pool.open(path).images().counts_by_name for path in folders]
    assert counts[0] == counts[1] and counts[0]["dark"] == 3
    assert augmenter.report().is_file()


def test_a_test_image_that_the_generator_saw_is_refused_or_left_out(images, small, tmp_path) -> None:
    for name in ("dark", "middle", "bright"):
        for number, file in enumerate(sorted((images / name).iterdir())):
            target = images / ("test" if number < 2 else "train") / name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, target)
        (images / name).rmdir()
    seen = np.asarray(Image.open(images / "train" / "dark" / "005.png"))
    Image.fromarray(np.clip(seen.astype(int) + 1, 0, 255).astype(np.uint8)).save(images / "test" / "dark" / "000.png")
    settings = {**small, "evaluation.arms": ARMS, "evaluation.workers": 1, "data.near_duplicates": True}
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False)
    with pytest.raises(DataError, match="1 of 6 test images"):
        augmenter.run(images)
    assert not augmenter.study.generator.exists()  # refused before training
    augmenter.fit(images).generate()
    with pytest.raises(DataError, match=r"1 of 6 test images show .*test/dark/000.png = train/dark/005.png"):
        augmenter.evaluate()
    result = augmenter.evaluate(drop_leaked=True, train_fn=Training())
    assert result.test_counts == {"bright": 2, "dark": 1, "middle": 2}
    assert list(storage.read_json(tmp_path / "study" / "evaluation" / "leaked.json")) == ["test/dark/000.png"]


def test_an_interrupted_evaluation_continues_and_records_every_training_once(augmenter) -> None:
    training = Training(stop_at=10)
    with pytest.raises(KeyboardInterrupt):
        augmenter.evaluate(train_fn=training)
    augmenter.evaluate(train_fn=training)
    count = len(training.calls)
    augmenter.evaluate(train_fn=training)
    assert len(training.calls) == count > 10
    assert len(trial_runs(augmenter)) == len(set(trial_runs(augmenter))) == 9
    assert len(list((augmenter.study.evaluation / "trials").glob("*.json"))) == 9


@pytest.mark.parametrize("used", [True, False])
def test_excluded_classes_are_reported_and_recorded(augmenter, monkeypatch, capsys, used) -> None:
    mix, fewer = Mix(0.3), Mix(0.3, excluded_classes=("bright",))
    refinements = (MeasuredMix("real only", fewer, 0.75, 0.1, "as found"),)
    chosen = ChosenMix(ARM["real only"], fewer if used else mix, "", refinements=refinements, judged_images=9)
    monkeypatch.setattr(evaluate, "choose_mix", lambda trainings, real, grid: chosen)
    diffaug.DiffusionAugmenter.open(augmenter.study.path).evaluate(train_fn=Training())
    output = " ".join(capsys.readouterr().err.split())
    assert f"without synthetic images of bright: 75.0 %, {'used' if used else 'no better'}" in output
    params = [e["data"]["params"] for e in events_of(augmenter) if e["kind"] == "params" and "best real" in e["key"]]
    assert {one["excluded_classes"] for one in params if "excluded_classes" in one} == ({"bright"} if used else set())


def test_a_wrong_name_leaves_the_finished_evaluation_alone(augmenter) -> None:
    finished = augmenter.evaluate(synthetic_fraction=0.3, num_seeds=1)
    with pytest.raises(UsageError, match="resnet-32"):
        again(augmenter).evaluate(classifier="resnet32")
    same = diffaug.DiffusionAugmenter.open(augmenter.study.path, settings={"evaluation.classifier": "small-cnn"})
    assert same.evaluate() == finished


def test_trainings_of_a_replaced_evaluation_are_marked_as_superseded(augmenter) -> None:
    training = Training()
    augmenter.evaluate(train_fn=training, synthetic_fraction=0.3)
    before = {name for name in Journal(augmenter.study.journal).results("study") if name.startswith("balanced")}
    assert "superseded" not in {event["kind"] for event in events_of(augmenter)}
    older = set(trial_runs(augmenter))
    other = again(augmenter)
    other.evaluate(train_fn=training, synthetic_fraction=0.15, arms=("real only", "real + synthetic"))
    superseded = {event["key"] for event in events_of(augmenter) if event["kind"] == "superseded"}
    assert superseded == {key for key in older if not key.startswith("trial/real only/")}
    assert len(set(trial_runs(augmenter)) - older) == 3
    figures = Journal(augmenter.study.journal).results("study")
    kept = {f"balanced_accuracy/{arm}" for arm in ("real only", "real and synthetic")}
    assert {name for name, value in figures.items() if np.isnan(value)} == before - kept
    assert {name for name in figures if name.startswith("gain/")} == {"gain/points", "gain/low", "gain/high"}


@pytest.mark.parametrize("fraction", [0.3, 0.0])
def test_a_function_of_ones_own_trains_every_arm_and_runs_record_on_what(augmenter, fraction) -> None:
    training = Training()
    result = augmenter.evaluate(train_fn=training, synthetic_fraction=fraction)
    trials = [call for call in training.calls if call.real == 31]  # trainings for the choice have fewer real images
    assert len({call.seed for call in trials}) == 3
    assert {call.synthetic for call in trials} == ({0, 17} if fraction else {0})
    assert {arm.mean() for arm in result.arms} == {1.0}
    assert "Training" in result.training.classifier
    events = [event for event in events_of(augmenter) if event["key"].startswith("trial/")]
    datasets = [(event["key"], event["data"]["name"]) for event in events if event["kind"] == "dataset"]
    used = {arm: {name for key, name in datasets if f"/{arm}/" in key} for arm in ARMS}
    mixed = {"train", "test", "pool"} if fraction else {"train", "test"}
    assert used == {"real only": {"train", "test"}, "balanced softmax": {"train", "test"}, ARMS[2]: mixed}
    params = {event["key"].split("/")[1]: event["data"]["params"] for event in events if event["kind"] == "params"}
    assert params["best real + synthetic"]["synthetic_fraction"] == str(fraction)
    assert not params["real only"].keys() & {"synthetic_fraction", "base"}
    tables = [event["data"]["name"] for event in events if event["kind"] == "table"]
    assert tables == ["per_class.json"] * 3 * len(ARMS)
