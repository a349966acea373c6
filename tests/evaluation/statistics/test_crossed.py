import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from diffaug.evaluation.statistics.crossed import ClassMeans, holm, holm_tails, recall_intervals, tail

LABELS = np.repeat([0, 1, 2], [12, 7, 4])


def answers(seed=0, labels=LABELS, seeds=4):
    random = np.random.default_rng(seed)
    return tuple(random.random((seeds, len(labels))) < share for share in (0.8, 0.6))


def one_generator(correct):
    return np.zeros(len(correct), np.int64)


def paired_difference(first, second, labels=LABELS, generators=None):
    generators = one_generator(first) if generators is None else generators
    return ClassMeans.of(first.astype(np.int8) - second, labels, generators).balanced()


def covers(interval, truth):
    return interval.low <= truth <= interval.high


def balanced(correct, labels=LABELS):
    """Balanced accuracy of each seed, by scikit-learn."""
    return np.array([balanced_accuracy_score(labels, np.where(row, labels, labels + 1)) for row in correct])


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_mean_and_seeds_only_interval_are_the_paired_t_test_of_balanced_accuracies():
    first, second = answers()
    per_seed = balanced(first) - balanced(second)
    expected = stats.ttest_1samp(per_seed, 0).confidence_interval(0.95)
    interval = paired_difference(first, second).seeds_only_interval()
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
    result = paired_difference(first, second)
    assert_allclose([result.image_variance, result.noise_variance], [images, noise])
    total = result.seed_variance + images - noise
    assert_allclose(result.variance, max(total, result.seed_variance, images))


def test_with_many_images_a_seedless_difference_is_the_stratified_t_test():
    labels = np.repeat([0, 1], [4000, 2000])
    first, second = (np.repeat(row[:1], 3, axis=0) for row in answers(labels=labels))
    difference = first[0].astype(float) - second[0]
    standard_error = np.sqrt(sum(difference[labels == c].var(ddof=1) / (labels == c).sum() for c in (0, 1))) / 2
    interval = paired_difference(first, second, labels).interval()
    assert_allclose((interval.high - interval.low) / 2, 1.96 * standard_error, rtol=0.01)


@pytest.mark.parametrize(("seed", "seeds", "tolerance"), [(3, 4, 1e-12), (8, 1, 0.01)])
def test_p_value_is_where_the_interval_touches_zero(seed, seeds, tolerance):
    result = paired_difference(*answers(seed, seeds=seeds))
    touching = result.interval(result.p_value / 2, result.p_value / 2)
    assert min(abs(touching.low), abs(touching.high)) == pytest.approx(0, abs=tolerance)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(2, 5))
def test_swapping_the_arms_mirrors_the_interval_and_nothing_is_ever_certain(seed, counts, seeds):
    labels = np.repeat(np.arange(len(counts)), counts)
    first, second = answers(seed, labels, seeds)
    one, other = (paired_difference(a, b, labels) for a, b in [(first, second), (second, first)])
    assert one.interval().low == pytest.approx(-other.interval().high)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.interval().high > one.interval().low
    assert one.variance >= max(one.seed_variance, one.image_variance) > 0
    assert 1 <= one.degrees_of_freedom < np.inf


@given(st.integers(0, 1000), st.integers(1, 3), st.lists(st.integers(1, 4), min_size=2, max_size=3))
def test_intervals_stay_where_a_difference_can_be(seed, seeds, counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    result = paired_difference(*answers(seed, labels, seeds), labels)
    for interval in filter(None, (result.interval(), result.interval(0.001, 0.001), result.seeds_only_interval())):
        assert -1 <= interval.low <= interval.mean <= interval.high <= 1


def test_identical_arms_differ_by_nothing_within_one_image():
    result, alone = (paired_difference(*[answers(seeds=seeds)[0]] * 2) for seeds in (4, 1))
    assert (result.mean, result.p_value, result.seeds_only_interval().high) == (0, 1, 0)
    assert 1 / len(LABELS) < result.interval().high < 4 / len(LABELS)
    assert alone.interval().low < 0 < alone.interval().high and alone.p_value > 0.9


def test_a_class_of_one_test_image_borrows_its_variance_and_nine_are_one_sample():
    labels = np.array([0] * 20 + [1])
    first, second = answers(labels=labels)
    common, single = ClassMeans.of(first.astype(np.int8) - second, labels, one_generator(first)).each()
    assert single.image_variance == pytest.approx(20 * common.image_variance, rel=0.1)
    labels = np.arange(9)
    first, second = answers(labels=labels)
    image_mean = (first.astype(float) - second).mean(axis=0)
    expected = (image_mean.var(ddof=1) + 1 / 9) / 9
    assert paired_difference(first, second, labels).image_variance == pytest.approx(expected)


MANY_SMALL, FEW_LARGE = (60, 40, 20, 15, 10, 5), (500, 250, 100)


@pytest.mark.parametrize(
    ("effect", "counts", "seeds"), [(0.0, MANY_SMALL, 5), (0.4, FEW_LARGE, 2), (0.4, (30,) * 4, 5)]
)
def test_intervals_cover_the_truth_as_often_as_they_say(simulated_arms, effect, counts, seeds):
    """Of 1000 experiments 950 are expected, give or take 14; the full interval may err to the safe side."""
    world = simulated_arms(11, counts, seeds)
    truth = world.true_accuracy(effect) - world.true_accuracy(0)
    covered = seeds_only_covered = 0
    for _ in range(1000):
        (first, second), (chance, other_chance) = world.draw([effect, 0])
        result = paired_difference(first, second, world.labels)
        on_this_test_set = world.balanced(chance) - world.balanced(other_chance)
        covered += covers(result.interval(), truth)
        seeds_only_covered += covers(result.seeds_only_interval(), on_this_test_set)
    assert 936 <= covered <= 992
    assert 930 <= seeds_only_covered <= 970


def test_intervals_of_two_generators_cover_others(simulated_arms):
    """Of 500 experiments 475 are expected, give or take 5; with as many degrees of freedom as seeds it would be 450."""
    world = simulated_arms(11, (100,) * 8, seeds=10, generators=2)
    world.generator_sd = 0.6
    truth = world.true_accuracy(0, True) - world.true_accuracy(0)
    pairs = (world.draw([0, 0], generated=(0,))[0] for _ in range(500))
    intervals = [paired_difference(*pair, world.labels, world.generators).interval() for pair in pairs]
    assert sum(covers(interval, truth) for interval in intervals) >= 465


def test_seeds_of_one_generator_count_as_one_where_generators_differ():
    first = np.zeros((6, 300), bool)
    first[::2, :90] = True  # generator 0 helps more images than generator 1
    first[1::2, :45] = True
    labels = np.repeat([0, 1, 2], 100)
    second = np.zeros_like(first)
    one = paired_difference(first, second, labels)
    two = paired_difference(first, second, labels, np.arange(6) % 2)
    assert_allclose(two.by_generator, [0.3, 0.15])
    assert_allclose(two.seed_variance, np.var([0.3, 0.15], ddof=1) / 2)
    assert (one.seeds_degrees_of_freedom, two.seeds_degrees_of_freedom) == (5, 1)
    expected = stats.ttest_1samp([0.3, 0.15], 0).confidence_interval(0.95)
    interval = two.seeds_only_interval()
    assert_allclose([interval.low, interval.high], [expected.low, min(expected.high, 1)])
    assert one.interval().low > 0 > two.interval().low


@given(st.integers(0, 10**6), st.integers(2, 4))
def test_knowing_the_generators_never_lowers_the_variance(seed, generators):
    first, second = answers(seed, seeds=6)
    clustered = paired_difference(first, second, generators=np.arange(6) % generators)
    assert clustered.variance >= paired_difference(first, second).variance
    assert np.mean(clustered.by_generator) == pytest.approx(clustered.mean) or 6 % generators


def test_one_seed_is_judged_by_the_stratified_variance_over_images():
    labels = np.repeat([0, 1, 2], [400, 150, 40])
    result = paired_difference(*answers(labels=labels, seeds=1), labels)
    difference = np.subtract(*(a.astype(float)[0] for a in answers(labels=labels, seeds=1)))
    analytic = sum(difference[labels == c].var(ddof=1) / (labels == c).sum() for c in range(3)) / 9
    assert result.variance == pytest.approx(analytic, rel=0.05)
    half = 1.96 * np.sqrt(analytic)
    interval = result.interval()
    assert_allclose([interval.low, interval.high], [result.mean - half, result.mean + half], atol=0.01)
    assert result.p_value == pytest.approx(2 * stats.norm.sf(result.mean / np.sqrt(result.variance)), abs=0.005)
    assert result.seeds_only_interval() is None


def test_one_seed_covers_other_test_images(simulated_arms):
    """For a fixed pair of classifiers; 95 % of 400 is 380, give or take 4.4."""
    world = simulated_arms(2, (150, 100, 50, 12), seeds=1)
    world.seed_sd = 0.0
    truth = world.true_accuracy(0.5) - world.true_accuracy(0)
    intervals = [paired_difference(*world.draw([0.5, 0])[0], world.labels).interval() for _ in range(400)]
    assert 366 <= sum(covers(interval, truth) for interval in intervals) <= 394


def test_recall_of_one_seed_is_close_to_wilsons_interval():
    labels = np.repeat([0, 1], [100, 60])
    correct = np.arange(160)[None] % 10 < 8
    for estimate, n in zip(recall_intervals(correct, labels, one_generator(correct)), (100, 60), strict=True):
        wilson = stats.binomtest(int(0.8 * n), n).proportion_ci(method="wilson")
        assert_allclose([estimate.mean, estimate.low, estimate.high], [0.8, wilson.low, wilson.high], atol=0.01)


@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0.0, 0.5, 0.97, 1.0]))
def test_recall_intervals_stay_within_0_and_1_and_have_a_width(seed, seeds, share):
    labels = np.repeat([0, 1, 2], [30, 5, 1])
    correct = np.random.default_rng(seed).random((seeds, 36)) < share
    for estimate in recall_intervals(correct, labels, one_generator(correct)):
        assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
        assert estimate.high - estimate.low > 0.02


def test_recall_intervals_cover_the_truth(simulated_arms):
    world = simulated_arms(4, (150, 60, 20))
    truth = world.true_recall(0)
    covered = np.zeros(3)
    for _ in range(400):
        intervals = recall_intervals(world.draw([0])[0][0], world.labels, world.generators)
        covered += [covers(interval, share) for interval, share in zip(intervals, truth, strict=True)]
    assert (covered >= 0.93 * 400).all()


P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_holm_on_the_textbook_example():
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert_allclose(holm(p_values), [0.03, 0.06, 0.06, 0.02])
    assert_allclose(holm_tails(p_values), [0.025 / 3, 0.0125, 0.0125, 0.025 / 4])


@given(P_VALUES)
def test_holm_lies_between_no_correction_and_bonferronis_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, corrected in zip(p_values, adjusted, strict=True):
        assert p <= corrected <= min(1, len(p_values) * p)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@given(P_VALUES)
def test_intervals_with_these_tails_exclude_zero_exactly_if_holm_rejects(p_values):
    """Of normal statistics, in either direction."""
    for p, corrected, low in zip(p_values, holm(p_values), holm_tails(p_values), strict=True):
        assert (stats.norm.isf(p / 2) > stats.norm.isf(low)) == (corrected < 0.05)
        assert 0.025 / len(p_values) - 1e-12 <= low <= 0.025 + 1e-12


def test_the_tail_of_the_best_of_several_is_sidaks_once_that_is_stricter():
    assert [tail(m) for m in (1, 2)] == pytest.approx([0.025, 0.025])
    assert 1 - (1 - tail(4)) ** 4 == pytest.approx(0.05)
