"""The summary: paired seeds only, the best real arm as baseline, and a lossless JSON form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from diffaug.errors import UsageError
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.statistics.metrics import METRICS, PREDICTION_METRICS
from diffaug.evaluation.verdict.result import EvaluationResult, summarize
from diffaug.files import storage

SHARES = {
    "real only": 0.5,
    "oversampling": 0.6,
    "balanced softmax": 0.7,
    "replay": 0.62,
    "prior": 0.55,
    "real + synthetic": 0.8,
    "best real + synthetic": 0.95,
    "synthetic only": 0.3,
}
ROLES = dict.fromkeys(SHARES, "real") | {
    "real + synthetic": "claim",
    "best real + synthetic": "claim",
    "synthetic only": "diagnosis",
}
CLASSES = ("a", "b", "c")
LABELS = np.repeat([0, 1, 2], [60, 45, 30])
DOSE = {
    "base": "balanced softmax",
    "chosen": {"share": 0.3, "weight": 0.5, "max_ratio": math.inf},
    "folds": 3,
    "real": [],
    "curve": [],
}
FACTS = {
    "roles": ROLES,
    "train_counts": {"a": 300, "b": 30, "c": 3},
    "synthetic_counts": {"a": 0, "b": 5, "c": 7},
    "test_labels": LABELS,
    "classes": CLASSES,
    "dose": DOSE,
    "training": {"classifier": "small-cnn", "updates": 900, "batch_size": 64, "generators": 1},
}


def trial_of(arm, seed, with_probabilities=True):
    random = np.random.default_rng([seed, *arm.encode()])
    guess = np.where(random.random(len(LABELS)) < SHARES[arm], LABELS, (LABELS + 1) % 3)
    probabilities = np.full((len(LABELS), 3), 0.2) + 0.4 * np.eye(3)[guess]
    answers = {"probabilities": probabilities} if with_probabilities else {"predicted": guess}
    return Trial.of(arm, seed, **answers, labels=LABELS, num_classes=3, seconds=1.0)


@pytest.fixture(scope="module")
def trials():
    return [trial_of(arm, seed) for seed in range(4) for arm in SHARES]


@pytest.fixture(scope="module")
def result(trials):
    return summarize(trials, **FACTS)


def test_figures_are_means_over_seeds(result, trials):
    runs = [t for t in trials if t.arm == "oversampling"]
    (arm,) = (a for a in result.arms if a.name == "oversampling")
    assert tuple(arm.metrics) == METRICS
    for metric, values in {
        "balanced_accuracy": [balanced_accuracy_score(LABELS, t.predictions) for t in runs],
        "macro_f1": [f1_score(LABELS, t.predictions, average="macro") for t in runs],
    }.items():
        assert arm.metrics[metric] == pytest.approx({"mean": np.mean(values), "sd": np.std(values, ddof=1)})
    assert (arm.seeds, arm.role) == (4, "real")
    assert arm.recall["c"].mean == pytest.approx(np.mean([t.recall[2] for t in runs]))
    assert arm.recall["c"].low < arm.recall["c"].mean < arm.recall["c"].high
    few = [t.recall[2] for t in runs]
    assert arm.group_recall["few"] == pytest.approx({"mean": np.mean(few), "sd": np.std(few, ddof=1)})
    expected = np.mean([confusion_matrix(LABELS, t.predictions) for t in runs], axis=0)
    np.testing.assert_allclose(arm.confusion, expected)


def test_counts_and_facts_are_passed_on(result):
    assert result.test_counts == {"a": 60, "b": 45, "c": 30}
    assert result.groups == {"a": "many", "b": "medium", "c": "few"}
    for name in ("train_counts", "synthetic_counts", "training", "dose"):
        assert getattr(result, name) == FACTS[name]


def test_claims_are_compared_with_the_best_real_arm_and_nothing_else_is(result):
    compared = [(c.arm, c.baseline) for c in result.comparisons]
    assert compared == [(arm, "balanced softmax") for arm in ("real + synthetic", "best real + synthetic")]
    assert (result.verdict.decision, result.verdict.arm) == ("use", "best real + synthetic")
    assert "adding 12 synthetic images" in result.verdict.text
    assert "30 % of each batch" in result.verdict.text
    assert "points of 'real + synthetic' over 'real only' come" in result.verdict.text
    assert [c.question for c in result.controls] == ["new content", "more exposure", "shifted prior"]


def test_at_a_dose_of_zero_no_training_is_compared_with_itself(trials):
    nothing = {**DOSE, "chosen": {"share": 0.0, "weight": 1.0, "max_ratio": None}, "folds": 0}
    result = summarize(trials, **{**FACTS, "dose": nothing})
    assert result.controls == ()
    assert result.verdict.decision == "do not use"
    assert "adding 12 synthetic images" not in result.verdict.text and "new content" not in result.verdict.text


def test_json_round_trip_is_lossless(trials, tmp_path):
    limited = {**DOSE, "chosen": {**DOSE["chosen"], "max_ratio": 5.0}}
    several = {**FACTS["training"], "generators": 2}
    one_seed = [t for t in trials if t.seed == 0]
    for chosen, training in ((trials, FACTS["training"]), (trials, several), (one_seed, FACTS["training"])):
        result = summarize(chosen, **{**FACTS, "dose": limited, "training": training})
        storage.write_json(tmp_path / "summary.json", result.to_dict())
        content = storage.read_json(tmp_path / "summary.json")
        assert content == result.to_dict()
        assert EvaluationResult.from_dict(content) == result


def test_the_dictionary_has_the_shape_that_reports_and_trackers_read(result):
    content = result.to_dict()
    assert list(content) == [
        *("schema_version", "classes", "train_counts", "synthetic_counts", "test_counts", "groups", "training"),
        *("arms", "comparisons", "controls", "dose", "verdict"),
    ]
    assert content["schema_version"] == 2
    comparison = content["comparisons"][0]
    assert set(comparison["difference"]) == {"mean", "low", "high"}
    assert set(comparison["group_gain"]) == {"many", "medium", "few"}
    assert set(content["arms"][0]) == {"name", "role", "seeds", "metrics", "recall", "group_recall", "confusion"}


def test_an_evaluation_of_an_older_version_is_to_be_repeated(result):
    old = {name: value for name, value in result.to_dict().items() if name != "schema_version"}
    for content in (old, {**old, "schema_version": 3}):
        with pytest.raises(UsageError, match="evaluate again"):
            EvaluationResult.from_dict(content)


def test_table_has_one_row_an_arm_and_the_best_first(result):
    table = result.table()
    assert list(table["arm"]) == sorted(SHARES, key=lambda arm: -SHARES[arm])
    assert table["balanced_accuracy"].is_monotonic_decreasing
    assert list(table["difference"].notna()) == list(table["role"] == "claim")
    assert table["difference"][0] == pytest.approx(table["balanced_accuracy"][0] - table["balanced_accuracy"][2])
    assert set(METRICS) < set(table.columns)


def test_seeds_that_some_arm_lacks_do_not_count(trials):
    partial = [t for t in trials if (t.arm, t.seed) != ("real + synthetic", 3)]
    assert summarize(partial, **FACTS) == summarize([t for t in trials if t.seed < 3], **FACTS)


def test_generators_are_told_by_the_number_of_the_seed(trials):
    """Seeds 0, 1 and 3 of two generators: the first was trained with generator 0, the others with generator 1."""
    facts = {**FACTS, "training": {**FACTS["training"], "generators": 2}}
    chosen = [t for t in trials if t.seed != 2]
    result = summarize(chosen, **facts)
    accuracy = {(t.arm, t.seed): t.metrics["balanced_accuracy"] for t in chosen}
    claim = result.comparisons[1]
    gains = [accuracy[claim.arm, seed] - accuracy[claim.baseline, seed] for seed in (0, 1, 3)]
    assert claim.by_generator == pytest.approx((gains[0], (gains[1] + gains[2]) / 2))


def test_one_seed_gives_a_verdict_with_what_it_cannot_know_left_out(trials):
    result = summarize([t for t in trials if t.seed == 0], **FACTS)
    assert result.comparisons[0].seeds_only is None
    assert result.arms[0].metrics["accuracy"]["sd"] is None
    assert result.table()["balanced_accuracy_sd"].isna().all()
    assert "With one seed" in result.verdict.text


def test_a_figure_that_some_training_lacks_is_left_out_and_not_averaged(trials):
    mixed = [trial_of(t.arm, t.seed, t.seed > 0) if t.arm == "prior" else t for t in trials]
    arms = {arm.name: arm for arm in summarize(mixed, **FACTS).arms}
    assert tuple(arms["prior"].metrics) == PREDICTION_METRICS
    assert tuple(arms["replay"].metrics) == METRICS


def test_without_counts_there_are_no_groups_and_no_number_of_images(trials):
    unknown = {"train_counts": {}, "synthetic_counts": {}, "dose": None, "training": None}
    result = summarize(trials, **{**FACTS, **unknown})
    assert (result.groups, result.arms[0].group_recall, result.comparisons[0].group_gain) == ({}, {}, {})
    assert "adding synthetic images ('best real + synthetic') raised" in result.verdict.text


def test_too_little_to_compare_is_an_error(trials):
    with pytest.raises(UsageError, match="no seed is finished for every arm"):
        summarize([t for t in trials if (t.arm == "real only") == (t.seed == 0)], **FACTS)
    for role in ("real", "claim"):
        with pytest.raises(UsageError, match="nothing to compare"):
            summarize([t for t in trials if ROLES[t.arm] != role], **FACTS)
