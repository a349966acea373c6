"""The summary: paired seeds only, the best real arm as baseline, and a lossless JSON form."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from diffaug import storage
from diffaug.errors import UsageError
from diffaug.evaluation.summary import EvaluationResult, summarize
from diffaug.evaluation.trials import Trial
from diffaug.settings import ARM_NAMES

SHARES = dict(zip(ARM_NAMES, [0.5, 0.6, 0.7, 0.8, 0.95], strict=True))


@pytest.fixture
def sets(make_images):
    return {
        "train": make_images([9, 4, 2]),
        "test": make_images([40, 30, 20], seed=1),
        "synthetic": make_images([0, 5, 7], seed=2),
    }


@pytest.fixture
def trials(sets):
    labels = sets["test"].labels
    random = np.random.default_rng(0)

    def predict(share):
        return np.where(random.random(len(labels)) < share, labels, (labels + 1) % 3)

    return [
        Trial.of(arm, seed, predicted=predict(share), labels=labels, num_classes=3, seconds=1.0)
        for seed in range(4)
        for arm, share in SHARES.items()
    ]


@pytest.fixture
def result(trials, sets):
    return summarize(trials, **sets)


def test_figures_are_means_over_seeds(result, trials, sets):
    labels = sets["test"].labels
    runs = [t for t in trials if t.arm == "oversampling"]
    (arm,) = (a for a in result.arms if a.name == "oversampling")
    for metric, values in {
        "balanced_accuracy": [balanced_accuracy_score(labels, t.predictions) for t in runs],
        "macro_f1": [f1_score(labels, t.predictions, average="macro") for t in runs],
    }.items():
        assert arm.metrics[metric] == pytest.approx({"mean": np.mean(values), "sd": np.std(values, ddof=1)})
    assert (arm.seeds, arm.uses_synthetic) == (4, False)
    assert arm.recall["class 2"] == pytest.approx(np.mean([t.recall[2] for t in runs]))


def test_counts_are_by_class_name(result):
    assert result.train_counts == {"class 0": 9, "class 1": 4, "class 2": 2}
    assert result.synthetic_counts == {"class 0": 0, "class 1": 5, "class 2": 7}
    assert result.test_counts == {"class 0": 40, "class 1": 30, "class 2": 20}


def test_synthetic_arms_are_compared_with_the_best_real_arm(result):
    assert [(c.arm, c.baseline) for c in result.comparisons] == [(a, "balanced softmax") for a in ARM_NAMES[3:]]
    means = {arm.name: arm.metrics["balanced_accuracy"]["mean"] for arm in result.arms}
    for comparison in result.comparisons:
        assert comparison.difference.mean == pytest.approx(means[comparison.arm] - means["balanced softmax"])
        assert comparison.p_value <= comparison.p_value_holm
        assert np.mean([g.mean for g in comparison.recall_gain.values()]) == pytest.approx(comparison.difference.mean)
    assert (result.verdict.decision, result.verdict.arm) == ("use", "balanced softmax + synthetic")
    assert "adding 12 synthetic images" in result.verdict.text


def test_json_round_trip_is_lossless(result, tmp_path):
    storage.write_json(tmp_path / "summary.json", result.to_dict())
    assert EvaluationResult.from_dict(storage.read_json(tmp_path / "summary.json")) == result


def test_table_has_one_row_an_arm_and_the_best_first(result):
    table = result.table()
    assert list(table["arm"]) == list(reversed(ARM_NAMES))
    assert table["balanced_accuracy"].is_monotonic_decreasing
    assert list(table["difference"].notna()) == list(table["uses_synthetic"])
    assert table["difference"][0] == pytest.approx(table["balanced_accuracy"][0] - table["balanced_accuracy"][2])


def test_seeds_that_some_arm_lacks_do_not_count(trials, sets):
    partial = [t for t in trials if (t.arm, t.seed) != ("real + synthetic", 3)]
    assert summarize(partial, **sets) == summarize([t for t in trials if t.seed < 3], **sets)


def test_too_little_to_compare_is_an_error(trials, sets):
    with pytest.raises(UsageError, match="only 1 seeds"):
        summarize([t for t in trials if t.seed == 0], **sets)
    for synthetic in (True, False):
        with pytest.raises(UsageError, match="nothing to compare"):
            summarize([t for t in trials if ("synthetic" in t.arm) == synthetic], **sets)
