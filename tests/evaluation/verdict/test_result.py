import json
import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from diffaug.configuration.arms import ARM_ROLES
from diffaug.errors import DamagedError, QualityGateError, UsageError
from diffaug.evaluation.experiment.choice import Choice, Mix
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.statistics.metrics import METRICS, PREDICTION_METRICS
from diffaug.evaluation.verdict.arm_summary import Spread
from diffaug.evaluation.verdict.decide import decide
from diffaug.evaluation.verdict.result import EvaluationResult, TrainingSummary
from diffaug.evaluation.verdict.summarize import summarize
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
MIX = Mix(0.3, 0.5)
FACTS = {
    "roles": ROLES,
    "train_counts": {"a": 300, "b": 30, "c": 3},
    "synthetic_counts": {"a": 0, "b": 5, "c": 7},
    "test_labels": LABELS,
    "classes": CLASSES,
    "choice": Choice("balanced softmax", MIX, num_folds=3, judged_images=45),
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
    limited = Choice("oversampling", Mix(0.3, 1.0, 5.0, ("a",)))
    unknown = {"train_counts": {}, "synthetic_counts": {}, "choice": None, "training": None}
    one_seed = [t for t in trials if t.seed == 0]
    for chosen, facts in (
        (trials, {}),
        (trials, {"num_generators": 2, "choice": limited, "fewer_images": fewer(trials)}),
        (one_seed, unknown),
    ):
        result = summarize(chosen, **{**FACTS, **facts})
        result.save(tmp_path / "result.json")
        assert EvaluationResult.load(str(tmp_path / "result.json")) == result
        assert json.loads((tmp_path / "result.json").read_text()) == result.to_dict()


def test_the_file_has_the_names_that_scripts_read(result):
    content = result.to_dict()
    assert content["schema_version"] == 1 and " ".join(content) == (
        "schema_version classes train_counts synthetic_counts used_counts test_counts groups training encoder arms "
        "lead best_real comparisons controls choice class_advice more_images next_steps verdict"
    )
    arm, comparison = content["arms"][0], content["comparisons"][0]
    assert " ".join(arm) == "name role seeds metrics recall group_recall confusion accuracy same_as"
    assert set(arm["metrics"]["accuracy"]) == {"mean", "sd"}
    assert set(comparison["difference"]) == {"mean", "low", "high"}
    assert set(comparison["group_gain"]) == {"many", "medium", "few"}
    assert content["choice"]["mix"] == {
        "fraction": 0.3,
        "loss_weight": 0.5,
        "max_per_real": None,
        "excluded_classes": [],
        "excluded_origins": [],
    }
    assert " ".join(content["class_advice"][0]) == "name advice gain used"
    assert " ".join(content["next_steps"][0]) == "kind arm is_measured effect classes class_effects"
    names = "decision headline details arm baseline test_images_needed seeds_needed"
    assert " ".join(content["verdict"]) == names


def test_a_damaged_or_foreign_result_is_refused(result, tmp_path):
    path, content = tmp_path / "result.json", result.to_dict()
    verdict = {**content["verdict"], "decision": "perhaps"}
    without_arms = {name: value for name, value in content.items() if name != "arms"}
    foreign = [{**content, "schema_version": 2}, {**content, "verdict": verdict}, without_arms, [], "text"]
    for text in (None, "", json.dumps(content)[:-9], *map(json.dumps, foreign)):
        if text is not None:
            path.write_text(text)
        with pytest.raises(DamagedError) as failure:
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
    result = summarize(trials, **{**FACTS, "choice": Choice("balanced softmax", Mix(0.0))})
    assert (result.controls, result.class_advice, result.verdict.decision) == ((), (), "do not use")
    result = summarize([t for t in trials if t.seed == 0], **{**FACTS, "train_counts": {}, "choice": None})
    assert (result.comparisons[0].seeds_only, result.arms[0].metrics["accuracy"].sd) == (None, None)
    assert result.table()["balanced_accuracy_sd"].isna().all()
    assert (result.groups, result.arms[0].group_recall, result.comparisons[0].group_gain) == ({}, {}, {})


def test_the_first_sentence_is_about_the_best_arm_without_synthetic_images(result):
    best, plain = result.arm("balanced softmax"), result.arm("real only")
    lead = result.lead.difference
    assert (result.lead.arm, result.lead.baseline) == (best.name, plain.name)
    assert lead.mean == pytest.approx(best.mean() - plain.mean())
    shown, lower = (f"{100 * arm.mean():.1f} %" for arm in (best, plain))
    for part in (f"'{best.name}', {shown} balanced", f"{lower}, {100 * lead.mean:.1f} points lower"):
        assert part in result.best_real
    assert best.accuracy.low < best.mean() < best.accuracy.high


def test_an_arm_of_the_same_answers_names_the_baseline_that_it_repeats(trials):
    copied = [replace(t, arm="real + synthetic") for t in trials if t.arm == "oversampling"]
    result = summarize([t for t in trials if t.arm != "real + synthetic"] + copied, **FACTS)
    same = {arm.name: arm.same_as for arm in result.arms if arm.same_as}
    assert same == {"real + synthetic": "oversampling"}
    assert result.has_synthetic  # whose training may be another one all the same


@pytest.mark.parametrize(
    ("mix", "used", "advice"),
    [
        (MIX, {"a": 0, "b": 5, "c": 7}, "none used, use, open"),
        (replace(MIX, max_per_real=0.1), {"a": 0, "b": 3, "c": 0}, "none used, use, none used"),
        (replace(MIX, excluded_classes=("b",)), {"a": 0, "b": 0, "c": 7}, "none used, none used, open"),
    ],
)
def test_advice_is_given_for_classes_whose_synthetic_images_were_used(trials, mix, used, advice):
    result = summarize(trials, **{**FACTS, "choice": Choice("balanced softmax", mix)})
    assert result.used_counts == used and result.synthetic_counts == FACTS["synthetic_counts"]
    assert ", ".join(one.advice for one in result.class_advice) == advice
    assert [one.gain for one in result.class_advice] == list(result.compared.recall_gain.values())
    assert f"{sum(used.values())} synthetic image" in result.verdict.headline
    assert ("of 12" in result.verdict.headline) is (sum(used.values()) < 12)


def test_a_class_that_loses_is_to_be_left_out(trials):
    worse = [replace(t, predictions=tuple(np.where(LABELS == 2, 0, t.predictions).tolist())) for t in trials]
    mixed = [w if t.arm == "best real + synthetic" else t for t, w in zip(trials, worse, strict=True)]
    facts = {**FACTS, "roles": {**ROLES, "real + synthetic": "ablation"}}
    assert [one.advice for one in summarize(mixed, **facts).class_advice] == ["none used", "use", "leave out"]


def fewer(trials, share=0.3):
    """Trainings of the best baseline in which further answers are wrong."""
    wrong = np.random.default_rng(1).random(len(LABELS)) < share
    return [
        replace(t, predictions=tuple(np.where(wrong, (LABELS + 1) % 3, t.predictions).tolist()))
        for t in trials
        if t.arm == "balanced softmax" and t.seed < 3
    ]


def test_more_real_images_are_advised_as_far_as_fewer_were_measured_to_be_worse(trials, result):
    kinds = {
        (): [("lowest recall", False)],
        ("unlabeled images", "encoder"): [("encoder", False), ("unlabeled images", False), ("lowest recall", False)],
    }
    for missing, expected in kinds.items():
        steps = summarize(trials, **FACTS, missing=missing).next_steps
        assert [(step.kind, step.is_measured) for step in steps] == expected
    helped = summarize(trials, **FACTS, missing=("encoder",), fewer_images=fewer(trials))
    step, _ = helped.next_steps
    assert (step.kind, step.is_measured) == ("real images", True)
    assert step.effect == helped.more_images.difference and step.effect.low > 0
    assert step.arm == "balanced softmax" and set(step.class_effects) <= {"a", "b", "c"}
    same = summarize(trials, **FACTS, missing=("encoder",), fewer_images=fewer(trials, 0.0))
    assert [step.kind for step in same.next_steps] == ["encoder", "real images"]
    unknown = [replace(t, arm="fine-tuned") for t in fewer(trials)]
    assert summarize(trials, **FACTS, fewer_images=unknown).next_steps == result.next_steps  # an arm that was not run


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
