"""The verdict follows from the intervals, and rarely says "use" where nothing was gained."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from diffaug.evaluation.comparison import Comparison, compare, paired_differences
from diffaug.evaluation.statistics import Estimate, PairedDifference, holm
from diffaug.evaluation.verdict import decide

IMAGES = 300


def difference(mean, standard_error=0.01, seed_share=0.2, noise_share=0.0):
    variance = standard_error**2
    return PairedDifference(
        mean,
        seed_variance=(seed_share + noise_share) * variance,
        image_variance=(1 - seed_share) * variance,
        noise_variance=noise_share * variance,
        seeds=5,
        degrees_of_freedom=50.0,
    )


def verdict_of(*differences, recall_gain=None, synthetic_images=412):
    by_arm = {f"synthetic arm {i}": d for i, d in enumerate(differences)}
    comparisons = [
        Comparison(
            arm, "balanced softmax", d.interval(), d.seeds_only_interval(), d.p_value, corrected, recall_gain or {}
        )
        for (arm, d), corrected in zip(by_arm.items(), holm([d.p_value for d in differences]), strict=True)
    ]
    return decide(comparisons, by_arm, synthetic_images=synthetic_images, test_images=IMAGES)


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
        "(95 % interval 0.7 to 3.5) over the best real-only training ('balanced softmax'). "
        "Gained most: class 5 (+10.0), class 8 (+9.1). Lost: class 3 (-3.0)."
    )
    assert (verdict.test_images_needed, verdict.seeds_needed) == (None, None)


def test_only_the_largest_changes_are_named():
    gains = {str(i): Estimate(i / 100, 0.001, 0.2) for i in range(1, 6)}
    text = verdict_of(difference(0.05), recall_gain=gains).text
    assert "class 5 (+5.0), class 4 (+4.0), class 3 (+3.0), 2 more. Lost: none." in text


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
    exact = IMAGES * (0.03 * difference(0).quantile() / 0.006) ** 2
    assert exact <= needed <= 1.1 * exact
    assert needed % 10 ** (len(str(needed)) - 2) == 0


def test_an_empty_pool_is_nothing_to_use():
    verdict = verdict_of(difference(0.0), synthetic_images=0)
    assert verdict.decision == "do not use"
    assert "no synthetic image" in verdict.text


@pytest.mark.parametrize(("effect", "least", "most"), [(0.0, 0, 20), (1.5, 300, 400)])
def test_use_is_rare_without_and_common_with_a_real_gain(simulated_arms, effect, least, most):
    """400 experiments of three real and two synthetic arms; at most 5 % may say "use" where there is no gain."""
    world = simulated_arms(5)
    real, synthetic = ["a", "b", "c"], ["d", "e"]
    classes = tuple(map(str, range(world.num_classes)))
    uses = 0
    for _ in range(400):
        arms, _ = world.draw([0, 0, 0, 0, effect])
        correct = dict(zip(real + synthetic, arms, strict=True))
        baseline = max(real, key=lambda arm: world.balanced(correct[arm].mean(axis=0)))
        differences = paired_differences(correct, synthetic, baseline, world.labels, world.num_classes)
        comparisons = compare(correct, differences, baseline, world.labels, classes)
        verdict = decide(comparisons, differences, synthetic_images=10, test_images=len(world.labels))
        uses += verdict.decision == "use"
        assert math.isfinite(comparisons[0].p_value)
    assert least <= uses <= most
