"""The decision follows from the intervals. How often it errs: see test_comparison.py."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.evaluation.experiment.choice import Mix
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.verdict.decide import decide
from tests.evaluation.verdict.evidence import IMAGES, choice, choice_of_none, difference, evidence_of, one_seed

USED = Mix(0.3)


def decision_of(*differences, **options):
    return decide(evidence_of(*differences, **options))


MEANS, ERRORS = st.floats(-0.1, 0.1), st.floats(0.001, 0.05)
DIFFERENCES = st.builds(difference, MEANS, ERRORS) | st.builds(one_seed, MEANS, ERRORS)


@given(st.lists(DIFFERENCES, min_size=1, max_size=5), st.integers(1, 5))
def test_use_is_decided_exactly_if_a_printed_lower_end_is_above_zero(differences, num_baselines):
    """And a lower end is above zero exactly if Holm's corrected p-value is below 5 % in favor of the candidate."""
    evidence = evidence_of(*differences, num_baselines=num_baselines, choice=choice(USED))
    lows = [c.difference.low for c in evidence.comparisons]
    decision = decide(evidence)
    assert (decision.outcome == "use") == (max(lows) > 0)
    assert decision.outcome != "use" or decision.comparison.difference.low > 0
    for comparison in evidence.comparisons:
        is_better = comparison.p_value_holm < 0.05 and comparison.difference.mean > 0
        assert (comparison.difference.low > 0) == is_better


@pytest.mark.parametrize(
    ("differences", "outcome", "arm"),
    [
        ([(-0.02, 0.005), (-0.01, 0.005)], "do not use", "candidate 1"),  # all are below one point
        ([(-0.02, 0.03), (-0.01, 0.005)], "not decidable", "candidate 0"),
        ([(0.04,), (0.05,)], "use", "candidate 1"),
        ([(0.021, 0.01)], "use", "candidate 0"),  # convincing alone, but not beside a second candidate
        ([(0.021, 0.01), (0.0,)], "not decidable", "candidate 0"),
    ],
)
def test_the_outcome_and_the_candidate_that_it_is_about(differences, outcome, arm):
    decision = decision_of(*(difference(*figures) for figures in differences))
    assert (decision.outcome, decision.comparison.arm) == (outcome, arm)


@pytest.mark.parametrize("mean", [0.02, 0.009, 0.002, -0.01])
def test_the_number_of_test_images_needed_would_decide(mean):
    undecided = difference(mean, 0.015, seed_share=0.01)
    needed = decision_of(undecided).test_images_needed
    without_seed_variance = decision_of(difference(mean, 0.03, seed_share=0.0)).test_images_needed
    to_decide = max(mean / undecided.quantile(0.025), (0.01 - mean) / undecided.quantile(0.025))
    exact = IMAGES * (0.03 / to_decide) ** 2
    assert exact <= without_seed_variance <= 1.1 * exact
    for images, decided in [(needed, True), (0.8 * needed, False)]:
        variance = undecided.image_variance * IMAGES / images
        assert (decision_of(replace(undecided, image_variance=variance)).outcome != "not decidable") is decided
    assert needed % 10 ** (len(str(needed)) - 2) == 0


def test_the_number_of_seeds_needed_would_decide():
    undecided = difference(0.02, 0.015, seed_share=0.8, noise_share=0.1)
    decision = decision_of(undecided)
    assert decision.test_images_needed is None
    share = undecided.seeds / decision.seeds_needed
    seeds, noise = undecided.seed_variance * share, undecided.noise_variance * share
    images = undecided.image_variance - undecided.noise_variance * (1 - share)
    more_seeds = replace(undecided, seed_variance=seeds, noise_variance=noise, image_variance=images)
    assert decision_of(more_seeds).outcome == "use"


@pytest.mark.parametrize(
    ("seed_share", "images", "seeds"),
    [(0.43, 17_000, None), (0.44, None, None), (0.57, None, None), (0.575, None, 190)],  # 260,000 images; 270 seeds
)
def test_numbers_that_nobody_can_collect_or_train_are_not_given(seed_share, images, seeds):
    decision = decision_of(difference(0.02, 0.015, seed_share=seed_share))
    assert (decision.test_images_needed, decision.seeds_needed) == (images, seeds)


def test_of_what_can_not_decide_alone_or_where_nothing_is_open_no_number_is_given():
    for decision in (decision_of(difference(0.005, 0.05, seed_share=0.5)), decision_of(difference(0.05))):
        assert (decision.test_images_needed, decision.seeds_needed) == (None, None)
    one_seeds = decision_of(one_seed(0.012, 0.015))  # where only test images would help
    assert (one_seeds.outcome, one_seeds.seeds_needed) == ("not decidable", None)
    assert one_seeds.test_images_needed > IMAGES


@pytest.mark.parametrize("mix", [Mix(0.0), Mix(0.3, 0.0), Mix(0.3, max_per_real=0.0)])
@pytest.mark.parametrize(("judged", "reason"), [(0, "none used"), (45, "no better mix")])
def test_a_mix_of_zero_or_an_empty_pool_is_not_to_be_used(mix, judged, reason):
    for images, expected in ((412, reason), (0, "no synthetic images")):
        decision = decision_of(difference(0.05), choice=choice(mix, judged), synthetic_images=images)
        assert (decision.outcome, decision.reason) == ("do not use", expected)


@pytest.mark.parametrize(
    ("gain", "standard_error", "judged", "outcome"),
    [
        (-0.03, 0.01, 1000, "do not use"),
        (-0.03, 0.03, 1000, "not decidable"),  # up to +2.9 points
        (0.0, 0.0, 301, "do not use"),  # by the rule of three less than one in 100 is unseen
        (0.0, 0.0, 300, "not decidable"),
        (-0.1, 0.04, 23, "not decidable"),
    ],
)
def test_few_judged_images_rule_nothing_out(gain, standard_error, judged, outcome):
    decision = decision_of(difference(0.0), choice=choice_of_none(gain, standard_error, judged))
    assert (decision.outcome, decision.reason) == (
        outcome,
        "no better mix" if outcome == "do not use" else "few judged images",
    )


def test_a_mix_that_leaves_out_every_class_that_has_images_uses_none():
    decision = decision_of(difference(0.05), choice=choice(USED, 0), used_images=0)
    assert (decision.outcome, decision.reason) == ("do not use", "none used")


@pytest.mark.parametrize(
    ("highs", "num_classes", "learned"),
    [
        ((0.14, 0.12), 10, False),  # the limit is 0.1 + 5 % of 0.9
        ((0.14, 0.15), 10, True),
        ((0.52,), 2, False),  # 0.5 + 5 % of 0.5
        ((0.53,), 2, True),
        ((0.058,), 100, False),
        ((0.2,), 100, True),
    ],
)
@pytest.mark.parametrize("mix", [USED, Mix(0.0)])
def test_where_no_arm_learned_the_task_nothing_is_decided(highs, num_classes, learned, mix):
    accuracies = {f"arm {i}": Estimate(high - 0.02, high - 0.04, high) for i, high in enumerate(highs)}
    facts = {"accuracies": accuracies, "num_classes": num_classes, "choice": choice(mix)}
    for mean in (0.05, -0.05):
        decision = decision_of(difference(mean), **facts)
        assert ((decision.outcome, decision.reason) == ("not decidable", "nothing learned")) is not learned
    assert decision_of(difference(0.05), **facts, synthetic_images=0).reason == "no synthetic images"


def test_the_more_baselines_the_harder_it_is_to_rule_a_gain_out():
    barely = difference(-0.0095, 0.0096)
    assert decision_of(barely).outcome == "do not use"
    assert decision_of(barely, num_baselines=4).outcome == "not decidable"
