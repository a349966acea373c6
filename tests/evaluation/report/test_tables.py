import math
from dataclasses import replace

import numpy as np
import pytest

from diffaug.evaluation.report import tables
from diffaug.evaluation.report.format import MINUS, UNKNOWN, count, decimal, p_value, percent, plain, points
from diffaug.evaluation.statistics.crossed import Estimate
from tests.evaluation.report.contents import BASE, BEST, arm, bare_result, result

BEFORE = ((6.0, 4.0, 0.0), (0.0, 10.0, 0.0), (0.0, 0.0, 5.0))
AFTER = ((9.0, 1.0, 0.0), (3.0, 5.0, 2.0), (0.0, 0.0, 5.0))


def with_confusions(before=BEFORE, after=AFTER):
    classes = tuple(f"c{i}" for i in range(len(before)))
    confusions = {BASE: before, BEST: after}
    arms = [replace(one, confusion=confusions.get(one.name, after)) for one in result().arms]
    return result(classes, arms=tuple(arms))


def test_classes_are_sorted_by_training_images_and_hold_the_gain_that_the_verdict_is_about():
    of_abc = result(("a", "b", "c"))
    gains = of_abc.comparisons[1].recall_gain
    counts = {"c": (4, 12, 26), "b": (20, 10, 10), "a": (30, 0, 0)}
    assert tables.class_gains(of_abc) == [
        tables.Gain(name, (train, train), *synthetic, 15, 0.7, 0.734, gains[name])
        for name, (train, *synthetic) in counts.items()
    ]


def test_a_group_has_the_range_of_its_training_images():
    groups = {"a": "few", "b": "few", "c": "many"}
    few, many = tables.group_gains(result(("a", "b", "c"), groups=groups))
    assert (few.name, few.train, few.used, few.available, few.before) == ("few (2)", (20, 30), 10, 10, 0.7)
    assert (many.name, many.train) == ("many (1)", (4, 4))
    assert tables.group_gains(bare_result()) == []


def test_an_arm_has_one_standard_deviation_to_both_sides_within_0_and_1():
    row, alone = tables.arm_rows(result(arms=(arm("any", "candidate", 0.98, 0.05), arm("any", "candidate", 0.5, None))))
    assert vars(row.range) == pytest.approx({"mean": 0.98, "low": 0.93, "high": 1.0})
    assert alone.range == Estimate(0.5, 0.5, 0.5)


def test_without_synthetic_images_no_arm_is_drawn_as_if_it_had_some():
    def drawn(**changes):
        rows = tables.arm_rows(result(used_counts={"cat": 0}, **changes))
        return {row.label: row.role for row in rows if row.role != "ablation"}

    baselines = {"real only": "baseline", BASE: "baseline"}
    assert drawn() == baselines | {"real + synthetic": "baseline", BEST: "baseline"}
    same = {"real + synthetic": "real only", BEST: BASE}
    assert drawn(arms=tuple(replace(one, same_as=same.get(one.name, "")) for one in result().arms)) == baselines
    assert {row.role for row in tables.arm_rows(result())} == {"baseline", "ablation", "candidate"}


def test_confusions_are_shares_with_the_baseline_first():
    matrices = tables.confusion_matrices(with_confusions())
    assert list(matrices) == [BASE, BEST]
    for shares, counts in zip(matrices.values(), (BEFORE, AFTER), strict=True):
        np.testing.assert_allclose(shares, np.array(counts) / np.sum(counts, axis=1, keepdims=True))


def test_mistakes_are_those_most_frequent_with_either_arm_and_many_classes_have_no_matrices():
    mistakes = tables.common_mistakes(with_confusions())
    found = [(one.true, one.predicted, one.before, one.after) for one in mistakes]
    assert found == [("c0", "c1", 0.4, 0.1), ("c1", "c0", 0.0, 0.3), ("c1", "c2", 0.0, 0.2)]
    counts = np.random.default_rng(0).integers(1, 50, (21, 21)).tolist()
    assert tables.confusion_matrices(with_confusions(counts, counts)) == {}
    assert len(tables.common_mistakes(with_confusions(counts, counts))) == 8


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (percent(0.0712), "7.1"),
        (percent(-0.0712, 0), f"{MINUS}7"),
        (percent(None), UNKNOWN),
        (points(0.0341), "+3.4"),
        (points(-0.0341), f"{MINUS}3.4"),
        (points(-0.0001), "0.0"),
        (points(0.0001), "0.0"),
        (points(None), UNKNOWN),
        (decimal(math.inf), UNKNOWN),
        (p_value(0.00004), "< 0.001"),
        (p_value(0.0123), "0.012"),
        (count(1900), "1,900"),
        (plain({"fit": "3 min", "sizes": [1, 2]}), "fit 3 min, sizes 1, 2"),
    ],
)
def test_numbers_are_written_short_with_a_true_minus(written, expected):
    assert written == expected
