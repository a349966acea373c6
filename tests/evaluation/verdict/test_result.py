import json
import math
from contextlib import nullcontext

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from diffaug.configuration.arms import ARM_ROLES
from diffaug.errors import DamagedError, QualityGateError, UsageError
from diffaug.evaluation.experiment.mix import MeasuredMix, MixChoice, SyntheticMix
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.statistics.metrics import METRICS, PREDICTION_METRICS
from diffaug.evaluation.verdict.decide import decide
from diffaug.evaluation.verdict.result import EvaluationResult, Spread, TrainingSummary, summarize
from diffaug.evaluation.verdict.wording import in_words
from tests.evaluation.report import contents
from tests.evaluation.verdict.evidence import difference, evidence_of

SHARES = {
    **{"real only": 0.5, "oversampling": 0.6, "balanced softmax": 0.7, "replay": 0.62, "prior": 0.55},
    **{"real + synthetic": 0.8, "best real + synthetic": 0.95, "synthetic only": 0.3},
}
ROLES = {arm: ARM_ROLES[arm] for arm in SHARES}
CLASSES = ("a", "b", "c")
LABELS = np.repeat([0, 1, 2], [60, 45, 30])
MIX = SyntheticMix(0.3, 0.5)
FACTS = {
    "roles": ROLES,
    "train_counts": {"a": 300, "b": 30, "c": 3},
    "synthetic_counts": {"a": 0, "b": 5, "c": 7},
    "test_labels": LABELS,
    "classes": CLASSES,
    "mix": MixChoice("balanced softmax", MIX, curve=(MeasuredMix("balanced softmax", MIX, 0.8, 0.01),), num_folds=3),
    "training": TrainingSummary("small-cnn", 900, 64, 1, "cpu", "torch 2"),
}


def trial_of(arm, seed, with_probabilities=True):
    random = np.random.default_rng([seed, *arm.encode()])
    guess = np.where(random.random(len(LABELS)) < SHARES[arm], LABELS, (LABELS + 1) % 3)
    probabilities = np.full((len(LABELS), 3), 0.2) + 0.4 * np.eye(3)[guess]
    given = probabilities if with_probabilities else None
    return Trial.of(arm, seed, predicted=guess, probabilities=given, labels=LABELS, num_classes=3, seconds=1.0)


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
    scores = [balanced_accuracy_score(LABELS, t.predictions) for t in runs]
    expected = {"mean": np.mean(scores), "sd": np.std(scores, ddof=1)}
    assert vars(arm.metrics["balanced_accuracy"]) == pytest.approx(expected)
    assert (arm.seeds, arm.role) == (4, "baseline")
    assert result.test_counts == {"a": 60, "b": 45, "c": 30}
    assert result.groups == {"a": "many", "b": "medium", "c": "few"}
    assert arm.recall["c"].mean == pytest.approx(np.mean([t.recall[2] for t in runs]))
    assert arm.recall["c"].low < arm.recall["c"].mean < arm.recall["c"].high
    assert arm.group_recall["few"] == Spread.of([t.recall[2] for t in runs])
    expected = np.mean([confusion_matrix(LABELS, t.predictions) for t in runs], axis=0)
    np.testing.assert_allclose(arm.confusion, expected)


def test_candidates_are_compared_with_the_best_baseline_and_nothing_else_is(result):
    compared = [(c.arm, c.baseline) for c in result.comparisons]
    assert compared == [(arm, "balanced softmax") for arm in ("real + synthetic", "best real + synthetic")]
    assert (result.verdict.decision, result.verdict.arm) == ("use", "best real + synthetic")
    assert result.compared == result.comparisons[1]
    assert [c.question for c in result.controls] == ["new content", "more exposure", "shifted prior"]


def test_a_saved_result_is_loaded_as_it_was(trials, tmp_path):
    limited = MixChoice("oversampling", SyntheticMix(0.3, 1.0, 5.0, ("a",)))
    unknown = {"train_counts": {}, "synthetic_counts": {}, "mix": None, "training": None}
    one_seed = [t for t in trials if t.seed == 0]
    for chosen, facts in ((trials, {}), (trials, {"num_generators": 2, "mix": limited}), (one_seed, unknown)):
        result = summarize(chosen, **{**FACTS, **facts})
        result.save(tmp_path / "result.json")
        assert EvaluationResult.load(tmp_path / "result.json") == result
        assert json.loads((tmp_path / "result.json").read_text()) == result.to_dict()


def test_the_file_has_the_names_that_scripts_read(result):
    content = result.to_dict()
    assert content["schema_version"] == 1 and " ".join(content) == (
        "schema_version classes train_counts synthetic_counts test_counts groups training arms comparisons controls "
        "mix verdict"
    )
    arm, comparison = content["arms"][0], content["comparisons"][0]
    assert " ".join(arm) == "name role seeds metrics recall group_recall confusion"
    assert set(arm["metrics"]["accuracy"]) == {"mean", "sd"}
    assert set(comparison["difference"]) == {"mean", "low", "high"}
    assert set(comparison["group_gain"]) == {"many", "medium", "few"}
    assert content["mix"]["mix"] == {"fraction": 0.3, "loss_weight": 0.5, "max_per_real": None, "excluded_classes": []}
    names = "decision headline details arm baseline test_images_needed seeds_needed"
    assert " ".join(content["verdict"]) == names


def test_a_damaged_or_foreign_result_is_refused_with_the_remedy(result, tmp_path):
    path, content = tmp_path / "result.json", result.to_dict()
    verdict = {**content["verdict"], "decision": "perhaps"}
    without_arms = {name: value for name, value in content.items() if name != "arms"}
    foreign = [{**content, "schema_version": 2}, {**content, "verdict": verdict}, without_arms, [], "text"]
    for text in (None, "", json.dumps(content)[:-9], *map(json.dumps, foreign)):
        if text is not None:
            path.write_text(text)
        with pytest.raises(DamagedError, match="evaluate again") as failure:
            EvaluationResult.load(path)
        assert failure.value.where == str(path)


def test_table_has_one_row_per_arm_and_the_best_first(result):
    table = result.table()
    assert list(table["arm"]) == sorted(SHARES, key=lambda arm: -SHARES[arm])
    assert table["balanced_accuracy"].is_monotonic_decreasing
    assert list(table["difference"].notna()) == list(table["role"] == "candidate")
    assert table["difference"][0] == pytest.approx(table["balanced_accuracy"][0] - table["balanced_accuracy"][2])
    assert set(METRICS) < set(table.columns)


def test_seeds_that_some_arm_lacks_do_not_count(trials):
    partial = [t for t in trials if (t.arm, t.seed) != ("real + synthetic", 3)]
    assert summarize(partial, **FACTS) == summarize([t for t in trials if t.seed < 3], **FACTS)


def test_the_number_of_the_seed_says_which_generator_it_belongs_to(trials):
    chosen = [t for t in trials if t.seed != 2]  # 0 is of generator 0; 1 and 3 are of generator 1
    result = summarize(chosen, **FACTS, num_generators=2)
    accuracy = {(t.arm, t.seed): t.metrics["balanced_accuracy"] for t in chosen}
    compared = result.comparisons[1]
    gains = [accuracy[compared.arm, seed] - accuracy[compared.baseline, seed] for seed in (0, 1, 3)]
    assert compared.by_generator == pytest.approx((gains[0], (gains[1] + gains[2]) / 2))


def test_what_is_not_known_or_would_compare_a_training_with_itself_is_left_out(trials):
    result = summarize(trials, **{**FACTS, "mix": MixChoice("balanced softmax", SyntheticMix(0.0))})
    assert (result.controls, result.verdict.decision) == ((), "do not use")
    result = summarize([t for t in trials if t.seed == 0], **{**FACTS, "train_counts": {}})
    assert (result.comparisons[0].seeds_only, result.arms[0].metrics["accuracy"].sd) == (None, None)
    assert result.table()["balanced_accuracy_sd"].isna().all()
    assert (result.groups, result.arms[0].group_recall, result.comparisons[0].group_gain) == ({}, {}, {})


def test_a_figure_that_some_training_lacks_is_left_out_and_not_averaged(trials):
    mixed = [trial_of(t.arm, t.seed, t.seed > 0) if t.arm == "prior" else t for t in trials]
    arms = {arm.name: arm for arm in summarize(mixed, **FACTS).arms}
    assert tuple(arms["prior"].metrics) == PREDICTION_METRICS
    assert tuple(arms["replay"].metrics) == METRICS


def test_too_little_to_compare_is_an_error(trials):
    with pytest.raises(UsageError, match="no seed is finished for every arm"):
        summarize([t for t in trials if (t.arm == "real only") == (t.seed == 0)], **FACTS)
    for role in ("baseline", "candidate"):
        with pytest.raises(UsageError, match="nothing to compare"):
            summarize([t for t in trials if ROLES[t.arm] != role], **FACTS)


def gated(*differences):
    evidence = evidence_of(*differences)
    return contents.result(comparisons=evidence.comparisons, verdict=in_words(decide(evidence), evidence))


def test_the_gate_is_the_lower_end_of_the_verdicts_interval_and_a_fraction():
    result = gated(difference(0.0), difference(0.05))
    low = result.comparisons[1].difference.low
    result.require_gain(low)
    result.require_gain(-1)
    for impossible in (2, -1.5, math.nan):
        with pytest.raises(UsageError, match="fraction"):
            result.require_gain(impossible)
    with pytest.raises(QualityGateError) as failure:
        result.require_gain(low + 1e-6)
    assert failure.value.exit_code == 5
    assert all(part in str(failure.value) for part in ("'candidate 1'", "+5.0", f"{100 * low:.1f}"))


@pytest.mark.parametrize("mean", [0.015, 0.018, 0.021, 0.024, 0.03])
def test_a_gain_above_zero_passes_exactly_if_the_verdict_is_use(mean):
    result = gated(difference(mean), difference(0.0))
    with nullcontext() if result.verdict.decision == "use" else pytest.raises(QualityGateError):
        result.require_gain(0.0)
