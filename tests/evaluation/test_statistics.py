"""Paired differences: against scikit-learn, scipy and a written-out analysis of variance, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from diffaug.evaluation.statistics import holm, paired_difference, paired_recall_differences

LABELS = np.repeat([0, 1, 2], [12, 7, 4])


def answers(seed=0, labels=LABELS, seeds=4):
    random = np.random.default_rng(seed)
    return tuple(random.random((seeds, len(labels))) < share for share in (0.8, 0.6))


def balanced(correct, labels=LABELS):
    """Balanced accuracy of each seed, by scikit-learn."""
    return np.array([balanced_accuracy_score(labels, np.where(row, labels, labels + 1)) for row in correct])


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_mean_and_seeds_only_interval_are_the_paired_t_test_of_balanced_accuracies():
    first, second = answers()
    per_seed = balanced(first) - balanced(second)
    expected = stats.ttest_1samp(per_seed, 0).confidence_interval(0.95)
    interval = paired_difference(first, second, LABELS, 3).seeds_only_interval()
    assert_allclose([interval.mean, interval.low, interval.high], [per_seed.mean(), expected.low, expected.high])


def test_variance_components_are_those_of_a_two_way_analysis():
    first, second = answers()
    difference = first.astype(float) - second.astype(float)
    seeds, count = difference.shape
    blocks = [difference[:, c == LABELS] for c in range(3)]
    squares = [((block.mean(0) - block.mean()) ** 2).sum() for block in blocks]
    pooled = sum(squares) / (count - 3)
    images, noise = 0.0, 0.0
    for block, sum_of_squares in zip(blocks, squares, strict=True):
        n = block.shape[1]
        images += ((sum_of_squares + pooled) / n + 1 / count) / n / 9
        residual = block - block.mean(0) - block.mean(1, keepdims=True) + block.mean()
        noise += (residual**2).sum() / ((seeds - 1) * (n - 1)) / (seeds * n) / 9
    result = paired_difference(first, second, LABELS, 3)
    assert_allclose([result.image_variance, result.noise_variance], [images, noise])
    total = result.seed_variance + images - noise
    assert_allclose(result.variance, max(total, result.seed_variance, images))


def test_with_many_images_a_seedless_difference_is_the_stratified_t_test():
    labels = np.repeat([0, 1], [4000, 2000])
    first, second = (np.repeat(row[:1], 3, axis=0) for row in answers(labels=labels))
    difference = first[0].astype(float) - second[0]
    standard_error = np.sqrt(sum(difference[labels == c].var(ddof=1) / (labels == c).sum() for c in (0, 1))) / 2
    interval = paired_difference(first, second, labels, 2).interval()
    assert_allclose((interval.high - interval.low) / 2, 1.96 * standard_error, rtol=0.01)


def test_p_value_is_where_the_interval_touches_zero():
    result = paired_difference(*answers(3), LABELS, 3)
    touching = result.interval(1 - result.p_value)
    assert min(abs(touching.low), abs(touching.high)) == pytest.approx(0, abs=1e-12)


def test_recall_differences_average_to_the_balanced_one():
    first, second = answers()
    gains = paired_recall_differences(first, second, LABELS, 3)
    recall = [first[:, c == LABELS].mean() - second[:, c == LABELS].mean() for c in range(3)]
    assert_allclose([gain.mean for gain in gains], recall)
    assert np.mean(recall) == pytest.approx(paired_difference(first, second, LABELS, 3).mean)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(2, 5))
def test_swapping_the_arms_mirrors_the_interval_and_nothing_is_ever_certain(seed, counts, seeds):
    labels = np.repeat(np.arange(len(counts)), counts)
    first, second = answers(seed, labels, seeds)
    one, other = (paired_difference(a, b, labels, len(counts)) for a, b in [(first, second), (second, first)])
    assert one.interval().low == pytest.approx(-other.interval().high)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.interval().high > one.interval().low
    assert one.variance >= max(one.seed_variance, one.image_variance) > 0
    assert 1 <= one.degrees_of_freedom < np.inf


def test_identical_arms_differ_by_nothing_within_one_image():
    first, _ = answers()
    result = paired_difference(first, first, LABELS, 3)
    interval = result.interval()
    assert (result.mean, result.p_value) == (0, 1)
    assert 1 / len(LABELS) < interval.high < 4 / len(LABELS)
    assert result.seeds_only_interval().high == 0


def test_a_class_of_one_test_image_borrows_its_variance():
    labels = np.array([0] * 20 + [1])
    first, second = answers(labels=labels)
    common, single = paired_recall_differences(first, second, labels, 2)
    assert single.image_variance == pytest.approx(20 * common.image_variance, rel=0.1)


def test_classes_of_one_test_image_each_are_treated_as_one_sample():
    labels = np.arange(9)
    first, second = answers(labels=labels)
    image_mean = (first.astype(float) - second).mean(axis=0)
    result = paired_difference(first, second, labels, 9)
    assert result.image_variance == pytest.approx((image_mean.var(ddof=1) + 1 / 9) / 9)


@pytest.mark.parametrize(
    ("effect", "counts", "seeds"),
    [(0.0, (60, 40, 20, 15, 10, 5), 5), (0.4, (60, 40, 20, 15, 10, 5), 3), (0.4, (30,) * 4, 5)],
)
def test_intervals_cover_the_truth_as_often_as_they_say(simulated_arms, effect, counts, seeds):
    """Of 1000 experiments 950 are expected, give or take 14; the full interval may err to the safe side."""
    world = simulated_arms(11, counts, seeds)
    truth = world.true_accuracy(effect) - world.true_accuracy(0)
    covered = np.zeros(2)
    for _ in range(1000):
        (first, second), (chance, other_chance) = world.draw([effect, 0])
        result = paired_difference(first, second, world.labels, world.num_classes)
        on_this_test_set = world.balanced(chance) - world.balanced(other_chance)
        for i, (interval, value) in enumerate(
            [(result.interval(), truth), (result.seeds_only_interval(), on_this_test_set)]
        ):
            covered[i] += interval.low <= value <= interval.high
    assert 936 <= covered[0] <= 992
    assert 930 <= covered[1] <= 970


def test_holm_on_the_textbook_example():
    assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferronis_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, corrected in zip(p_values, adjusted, strict=True):
        assert p <= corrected <= min(1, len(p_values) * p)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
