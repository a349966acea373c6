from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.evaluation.report.charts import Axis, class_chart, dose_chart, dose_sentence, group_chart


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_an_axis_holds_its_values_in_order_between_round_numbers(values):
    axis = Axis.around(values)
    places = [axis.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert places[0] >= 0 and places[-1] <= 100
    ticks = axis.ticks
    assert ticks[0]["x"] == 0 and ticks[-1]["x"] == 100
    assert 2 <= len(ticks) <= 8
    for tick in ticks:
        assert tick["value"] / axis.step == pytest.approx(round(tick["value"] / axis.step), abs=1e-6)


def result():
    """Two classes; the gain of b is +0.2 +- 0.1, that of a is not known."""
    recall = {name: {"mean": 0.5, "low": 0.4, "high": 0.6} for name in ("a", "b")}
    arms = [
        {"name": name, "recall": recall, "group_recall": {"few": {"mean": mean, "sd": 0.0}}}
        for name, mean in (("plain", 0.5), ("more", 0.7))
    ]
    few = {"few": {"mean": 0.2, "low": 0.1, "high": 0.3}}
    claim = {"arm": "more", "baseline": "plain", "recall_gain": {"b": few["few"]}, "group_gain": few}
    return {
        "classes": ["a", "b"],
        "train_counts": {"a": 9, "b": 3},
        "synthetic_counts": {"b": 6},
        "test_counts": {"a": 5, "b": 5},
        "groups": {"a": "few", "b": "few"},
        "arms": arms,
        "comparisons": [{**claim, "arm": "other"}, claim],
        "verdict": {"arm": "more", "baseline": "plain"},
    }


def test_the_gain_of_the_claim_is_drawn_to_scale_from_zero():
    chart = class_chart(result())
    rare, common = chart["rows"]
    assert (rare["name"], common["name"]) == ("b", "a")
    assert common["gain"] is common["x"] is None and not common["certain"]
    assert chart["axis"].low <= 0 and chart["zero"] == chart["axis"].at(0)
    assert rare["x"]["mean"] - rare["x"]["low"] == pytest.approx(rare["x"]["high"] - rare["x"]["mean"], abs=0.02)
    assert rare["x"]["low"] > chart["zero"] and rare["certain"]
    assert (rare["before"], rare["after"], rare["synthetic"], common["synthetic"]) == (0.5, 0.5, 6, 0)


def test_a_group_tells_the_range_of_its_train_images():
    (row,) = group_chart(result())["rows"]
    assert (row["classes"], row["least"], row["most"], row["before"], row["after"]) == (2, 3, 9, 0.5, 0.7)
    assert group_chart(result() | {"comparisons": []})["rows"] == []


def dose(**changes):
    curve = [
        {"share": share, "weight": weight, "max_ratio": ratio, "mean": mean, "sd": 0.02}
        for share, weight, ratio, mean in ((0.5, 1.0, None, 0.8), (0.0, 1.0, None, 0.7), (0.25, 0.5, 4.0, 0.6))
    ]
    chosen = {"share": 0.5, "weight": 1.0, "max_ratio": math.inf}
    real = [{"arm": "plain", "balanced_accuracy": {"mean": 0.7, "sd": 0.01}}]
    return {"dose": {"base": "plain", "chosen": chosen, "folds": 3, "real": real, "curve": curve} | changes}


def test_the_dose_curve_is_drawn_to_scale_the_better_the_higher():
    chart = dose_chart(dose())
    other, main = chart["lines"]
    assert (main["main"], main["weight"], main["ratio"]) == (True, 1.0, "no limit")
    assert (other["main"], other["weight"], other["ratio"]) == (False, 0.5, "4")
    assert [point["x"] for point in main["points"]] == [0, 100] and other["points"][0]["x"] == 50
    assert [point["chosen"] for point in main["points"]] == [False, True]
    assert chart["shares"] == [(0.0, 0), (0.25, 50), (0.5, 100)]
    assert chart["base"] == main["points"][0]["mean"] > main["points"][1]["mean"]
    point = main["points"][1]
    assert point["low"] - point["mean"] == pytest.approx(point["mean"] - point["high"], abs=0.02)
    assert 0 <= point["high"] < point["mean"] < point["low"] <= 100


def test_what_was_tried_beside_the_curve_is_drawn_too_but_for_doses_without_some_classes():
    finer = [
        {"share": 0.5, "weight": w, "max_ratio": 3.0, "without": n, "mean": 0.9, "sd": 0.0}
        for w, n in ((1.0, []), (1.0, ["a"]))
    ]
    chart = dose_chart(dose(finer=finer, chosen=finer[0]))
    (main,) = [line for line in chart["lines"] if line["main"]]
    assert (main["ratio"], len(main["points"]), main["points"][0]["chosen"]) == ("3", 1, True)
    assert len(chart["lines"]) == 3


def test_no_share_is_drawn_beyond_all():
    chart = dose_chart(dose(curve=[{"share": 0.5, "weight": 1.0, "max_ratio": None, "mean": 0.98, "sd": 0.05}]))
    assert chart["axis"].high == pytest.approx(1.0) and chart["lines"][0]["points"][0]["high"] == 0


def test_a_curve_of_the_zero_dose_alone():
    only = [{"share": 0.0, "weight": 1.0, "max_ratio": None, "mean": 0.7, "sd": None}]
    chart = dose_chart(dose(curve=only, chosen=only[0], real=[]))
    assert chart["lines"][0]["points"][0]["x"] == 0 and chart["base"] is None


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (
            {"share": 0.25, "weight": 0.5, "max_ratio": 4.0},
            "25 % of each batch synthetic, added to “plain” at a loss weight of 0.5, at most 4",
        ),
        (
            {"share": 0.5, "without": ["b", "c"]},
            "50 % of each batch synthetic, added to “plain” at a loss weight of 1; none for b, c, recognised less "
            "often with them on validation images",
        ),
        ({"share": 0.5}, "50 % of each batch synthetic, added to “plain” at a loss weight of 1"),
        ({"share": 0.0, "weight": 1.0, "max_ratio": None}, "no synthetic images"),
    ],
)
def test_the_dose_in_words(chosen, words):
    said = dose_sentence(dose(chosen=chosen) | {"synthetic_counts": {"a": 3}})
    assert said.startswith(f"Dose, chosen on validation images: {words}")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_dose_that_was_set_by_hand_was_not_measured(share):
    given = dose(chosen={"share": share}, folds=0, real=[], curve=[]) | {"synthetic_counts": {"a": 3}}
    words = "50 % of each batch synthetic" if share else "no synthetic images, since their share was set to zero."
    assert dose_sentence(given).startswith(f"Dose, set by hand: {words}")
    assert (dose_chart(given)["lines"], dose_chart(given)["base"]) == ([], None)


def test_of_an_empty_pool_there_is_no_dose_to_choose():
    given = dose(chosen={"share": 0.0}, folds=0, real=[], curve=[]) | {"synthetic_counts": {"a": 0}}
    assert dose_sentence(given) == "Dose: no synthetic images, since there are none."


def test_no_dose():
    assert dose_chart({"dose": None}) is None and dose_sentence({"dose": None, "synthetic_counts": {}}) == ""
