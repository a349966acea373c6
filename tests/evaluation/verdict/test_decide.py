"""The verdict follows from the evidence, and says what it rests on. How often it errs: see test_comparison.py."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from diffaug.errors import QualityGateError, UsageError
from diffaug.evaluation.statistics.comparison import Comparison, Control
from diffaug.evaluation.statistics.crossed import CrossedMean, Estimate
from diffaug.evaluation.statistics.multiplicity import holm, tail
from diffaug.evaluation.verdict.decide import Evidence, decide, require_gain
from diffaug.evaluation.verdict.result import EvaluationResult

IMAGES = 300


def difference(mean, standard_error=0.01, seed_share=0.2, noise_share=0.0):
    variance = standard_error**2
    return CrossedMean(
        mean,
        seed_variance=(seed_share + noise_share) * variance,
        image_variance=(1 - seed_share) * variance,
        noise_variance=noise_share * variance,
        seeds=5,
        degrees_of_freedom=50.0,
        seeds_degrees_of_freedom=4,
    )


def evidence_of(
    *differences, recall_gain=None, synthetic_images=412, controls=(), dose=None, real_arms=1, seeds=None, arm=None
):
    by_arm = {arm or f"synthetic arm {i}": d for i, d in enumerate(differences)}
    comparisons = tuple(
        Comparison(
            arm,
            "balanced softmax",
            d.interval(high_tail=tail(real_arms)),
            d.seeds_only_interval(),
            d.p_value,
            corrected,
            recall_gain or {},
            {},
            d.by_generator,
        )
        for (arm, d), corrected in zip(by_arm.items(), holm([d.p_value for d in differences]), strict=True)
    )
    seeds = seeds or max(d.seeds for d in differences)
    return Evidence(comparisons, by_arm, tuple(controls), real_arms, synthetic_images, IMAGES, seeds, dose)


def verdict_of(*differences, **options):
    return decide(evidence_of(*differences, **options))


def test_use_says_how_much_for_which_arm_and_for_whom():
    gains = {
        "8": Estimate(0.091, 0.03, 0.15),
        "1": Estimate(0.02, -0.01, 0.05),
        "3": Estimate(-0.03, -0.05, -0.01),
        "5": Estimate(0.1, 0.01, 0.2),
    }
    verdict = verdict_of(difference(0.021, 0.007), recall_gain=gains)
    assert verdict.decision == "use"
    assert verdict.text == (
        "Use it: adding 412 synthetic images ('synthetic arm 0') raised balanced accuracy by 2.1 points "
        "(95 % interval 0.7 to 3.5) over the best real-only training ('balanced softmax').\n"
        "Classes that gained most: 5 (+10.0), 8 (+9.1). Classes that lost: 3 (-3.0)."
    )
    assert (verdict.test_images_needed, verdict.seeds_needed) == (None, None)


def test_changes_within_their_intervals_name_no_class():
    gains = {"8": Estimate(0.05, -0.03, 0.15), "1": Estimate(-0.02, -0.04, 0.01)}
    assert "\nNo class surely gained or lost." in verdict_of(difference(0.02, 0.007), recall_gain=gains).text


def test_no_change_has_no_sign():
    text = verdict_of(difference(-0.0002, 0.00001)).text
    assert "changed balanced accuracy by 0.0 points (95 % interval 0.0 to 0.0)" in text


def test_only_the_largest_changes_are_named():
    gains = {str(i): Estimate(i / 100, 0.001, 0.2) for i in range(1, 6)}
    text = verdict_of(difference(0.05), recall_gain=gains).text
    assert "5 (+5.0), 4 (+4.0), 3 (+3.0), 2 more. Classes that lost: none." in text


def test_do_not_use_needs_every_synthetic_arm_below_one_point():
    refused = verdict_of(difference(-0.02, 0.005), difference(-0.01, 0.005))
    assert (refused.decision, refused.arm) == ("do not use", "synthetic arm 1")
    assert "Train with 'balanced softmax'." in refused.text

    open_question = verdict_of(difference(-0.02, 0.03), difference(-0.01, 0.005))
    assert (open_question.decision, open_question.arm) == ("not decidable", "synthetic arm 0")


def test_the_better_of_two_useful_arms_is_recommended():
    assert verdict_of(difference(0.04), difference(0.05)).arm == "synthetic arm 1"


def test_what_one_arm_alone_would_show_two_arms_do_not():
    convincing = difference(0.021, 0.01)
    assert verdict_of(convincing).decision == "use"
    assert verdict_of(convincing, difference(0.0)).decision == "not decidable"


@pytest.mark.parametrize("mean", [0.02, 0.009, 0.002, -0.01])
def test_the_number_of_test_images_asked_for_would_decide(mean):
    undecided = difference(mean, 0.015, seed_share=0.01)
    verdict = verdict_of(undecided)
    assert verdict.decision == "not decidable"
    assert f"about {verdict.test_images_needed:,} test images" in verdict.text
    for images, decided in [(verdict.test_images_needed, True), (0.8 * verdict.test_images_needed, False)]:
        variance = undecided.image_variance * IMAGES / images
        assert (verdict_of(replace(undecided, image_variance=variance)).decision != "not decidable") is decided


def test_the_number_of_seeds_asked_for_would_decide():
    undecided = difference(0.02, 0.015, seed_share=0.8, noise_share=0.1)
    verdict = verdict_of(undecided)
    assert verdict.test_images_needed is None
    assert f"takes about {verdict.seeds_needed} seeds (now 5)" in verdict.text
    share = undecided.seeds / verdict.seeds_needed
    more_seeds = replace(
        undecided,
        seed_variance=undecided.seed_variance * share,
        noise_variance=undecided.noise_variance * share,
        image_variance=undecided.image_variance - undecided.noise_variance * (1 - share),
    )
    assert verdict_of(more_seeds).decision == "use"


def test_where_neither_alone_decides_both_are_asked_for():
    verdict = verdict_of(difference(0.005, 0.05, seed_share=0.5))
    assert (verdict.test_images_needed, verdict.seeds_needed) == (None, None)
    assert "more test images and more seeds" in verdict.text


def test_numbers_asked_for_are_round_and_never_too_small():
    needed = verdict_of(difference(0.004, 0.03, seed_share=0.0)).test_images_needed
    exact = IMAGES * (0.03 * difference(0).quantile(tail()) / 0.006) ** 2
    assert exact <= needed <= 1.1 * exact
    assert needed % 10 ** (len(str(needed)) - 2) == 0


def test_an_empty_pool_is_nothing_to_use():
    verdict = verdict_of(difference(0.0), synthetic_images=0)
    assert verdict.decision == "do not use"
    assert "no synthetic image" in verdict.text


DOSE = {
    "base": "balanced softmax",
    "chosen": {"share": 0.3, "weight": 0.5, "max_ratio": 10.0},
    "folds": 3,
    "curve": [{"share": 0.3, "weight": 0.5, "max_ratio": 10.0, "mean": 0.8, "sd": 0.01}],
}
SET = DOSE | {"folds": 0, "real": [], "curve": []}


def test_the_dose_is_said_in_words():
    text = verdict_of(difference(0.05), dose=DOSE).text
    assert (
        "('synthetic arm 0', 30 % of each batch, loss weight 0.5, at most 10 for each real image of a class) raised"
        in text
    )
    for unlimited in (None, math.inf):
        text = verdict_of(difference(0.05), dose={**DOSE, "chosen": {**DOSE["chosen"], "max_ratio": unlimited}}).text
        assert "('synthetic arm 0', 30 % of each batch, loss weight 0.5) raised" in text
    fewer = {**DOSE, "chosen": {**DOSE["chosen"], "max_ratio": None, "without": ["cat", "dog"]}}
    assert "loss weight 0.5, none for cat, dog) raised" in verdict_of(difference(0.05), dose=fewer).text


@pytest.mark.parametrize(("mean", "change"), [(0.05, "raised"), (0.0, "changed"), (-0.05, "changed")])
def test_the_real_arm_that_was_built_on_is_named(mean, change):
    """It need not be the one that is compared with."""
    dose = {"base": "oversampling", "chosen": {"share": 0.3}, "curve": [{}]}
    text = verdict_of(difference(mean), dose=dose, arm="best real + synthetic").text
    assert f"('best real + synthetic', on 'oversampling', 30 % of each batch, loss weight 1) {change}" in text
    assert "on 'oversampling'" not in verdict_of(difference(mean), dose=dose, arm="real + synthetic").text


@pytest.mark.parametrize("mean", [0.05, 0.0, -0.05])
def test_a_dose_that_was_set_by_hand_is_said_to_be(mean):
    said = "30 % of each batch, loss weight 0.5, at most 10 for each real image of a class, set by hand)"
    assert said in verdict_of(difference(mean), dose=SET).text
    assert "set by hand" not in verdict_of(difference(mean), dose=DOSE).text


def test_a_dose_that_was_set_to_zero_adds_no_images():
    verdict = verdict_of(difference(0.05), dose=SET | {"chosen": {"share": 0.0, "weight": 1.0, "max_ratio": None}})
    assert verdict.decision == "do not use"
    assert "their share was set to zero" in verdict.text
    assert "adding" not in verdict.text and "412" not in verdict.text and "validation" not in verdict.text


@pytest.mark.parametrize("part", ["share", "weight", "max_ratio"])
def test_a_dose_of_zero_is_a_reason_not_to_use_it(part):
    verdict = verdict_of(difference(0.05), dose={**DOSE, "chosen": {**DOSE["chosen"], part: 0.0}})
    assert verdict.decision == "do not use"
    assert "on validation no dose" in verdict.text
    assert "Train with 'balanced softmax'." in verdict.text


def control(question, mean, arm="real + synthetic", baseline="replay"):
    return Control(question, arm, baseline, Estimate(mean, mean - 0.01, mean + 0.01))


def test_the_controls_part_the_gain_in_one_sentence():
    parts = [control("new content", 0.015), control("more exposure", 0.003), control("shifted prior", 0.002)]
    text = verdict_of(difference(0.05), controls=parts).text
    assert (
        "Of +2.0 points of 'real + synthetic' over 'real only' come "
        "+1.5 (95 % interval 0.5 to 2.5) from new content, +0.3 (95 % interval -0.7 to 1.3) from more exposure "
        "and +0.2 (95 % interval -0.8 to 1.2) from a shifted prior." in text
    )
    filters = control("filters", 0.004, baseline="real + unfiltered synthetic")
    assert "'real + unfiltered synthetic': +0.4" in verdict_of(difference(0.05), controls=[*parts, filters]).text


def test_a_control_alone_is_named_with_its_arms():
    text = verdict_of(difference(0.05), controls=[control("new content", 0.015)]).text
    assert "New content, 'real + synthetic' against 'replay': +1.5 (95 % interval 0.5 to 2.5)." in text


def single_seed():
    return replace(
        difference(0.012, 0.015, seed_share=0.0),
        seeds=1,
        seeds_degrees_of_freedom=0,
        resampled=np.random.default_rng(0).normal(0.012, 0.015, 2000),
    )


def test_seeds_that_all_answer_alike_are_not_said_to_be_one():
    text = verdict_of(single_seed(), seeds=5).text
    assert text.endswith("All seeds answered alike, so the interval is about other test images alone.")


def test_one_seed_is_said_to_be_one():
    verdict = verdict_of(single_seed())
    assert verdict.decision == "not decidable"
    assert "With one seed the interval is about other test images alone" in verdict.text
    assert verdict.seeds_needed is None
    assert verdict.test_images_needed > IMAGES


@pytest.mark.parametrize(("seeds", "is_said"), [(2, True), (3, False)])
def test_fewer_than_three_seeds_are_said_to_tell_hardly_anything(seeds, is_said):
    for mean in (0.05, 0.0, -0.05):
        text = verdict_of(replace(difference(mean), seeds=seeds)).text
        assert ("Fewer than 3 seeds hardly tell anything about other trainings." in text) is is_said


def test_each_generator_is_named():
    several = replace(difference(0.05), by_generator=(0.062, 0.038))
    assert "By generator: +6.2, +3.8 points." in verdict_of(several).text


def test_the_more_real_arms_the_harder_it_is_to_rule_a_gain_out():
    barely = difference(-0.0095, 0.0096)
    assert verdict_of(barely).decision == "do not use"
    assert verdict_of(barely, real_arms=4).decision == "not decidable"


def result_of(evidence):
    nothing = ((), {}, {}, {}, {}, {}, ())
    return EvaluationResult(*nothing, evidence.comparisons, (), None, decide(evidence))


def test_the_gate_is_the_lower_end_of_the_verdicts_interval():
    result = result_of(evidence_of(difference(0.0), difference(0.05)))
    low = result.comparisons[1].difference.low
    require_gain(result, low)
    require_gain(result, -1)
    with pytest.raises(QualityGateError) as failure:
        require_gain(result, low + 1e-6)
    assert failure.value.exit_code == 5
    assert "'synthetic arm 1' gained +5.0 (95 % interval 3.0 to 7.0) points" in str(failure.value)
    assert "below the +3.0 that were asked for" in str(failure.value)


def test_a_gain_that_is_not_sure_among_several_claims_closes_the_gate():
    result = result_of(evidence_of(difference(0.05)))
    unsure = replace(result, verdict=replace(result.verdict, decision="not decidable"))
    require_gain(unsure, -0.01)
    with pytest.raises(QualityGateError, match="the verdict is 'not decidable'"):
        require_gain(unsure, 0)


@pytest.mark.parametrize("impossible", [2, -1.5, math.nan])
def test_an_impossible_gate_is_refused(impossible):
    with pytest.raises(UsageError, match="one point"):
        require_gain(result_of(evidence_of(difference(0.05))), impossible)
