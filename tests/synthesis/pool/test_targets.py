import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.over_sampling import RandomOverSampler
from imblearn.utils._validation import check_sampling_strategy

from diffaug.configuration.settings import SAMPLING_WORDS as WORDS
from diffaug.errors import UsageError
from diffaug.synthesis.pool.targets import resolve_targets

CLASSES = ("ant", "bee", "cat", "dog", "eel")
COUNTS = {"ant": 100, "bee": 40, "cat": 7}

counts_of_classes = st.lists(st.integers(1, 30), min_size=2, max_size=5).map(
    lambda counts: dict(zip(CLASSES, counts, strict=False))
)


def labels(counts: dict[str, int]) -> np.ndarray:
    return np.repeat(list(counts), list(counts.values()))


def by_imbalanced_learn(strategy, counts: dict[str, int]) -> dict[str, int]:
    added = check_sampling_strategy(strategy, labels(counts), "over-sampling")
    return {name: int(added.get(name, 0)) for name in counts}


@settings(deadline=None)
@given(counts_of_classes, st.sampled_from(WORDS))
def test_words_mean_what_they_mean_in_imbalanced_learn(counts, word):
    targets = resolve_targets(counts, word)
    assert targets == by_imbalanced_learn(word, counts)
    assert list(targets) == list(counts)


@settings(deadline=None)
@given(counts_of_classes, st.data())
def test_totals_mean_what_they_mean_in_imbalanced_learn(counts, data):
    chosen = data.draw(st.lists(st.sampled_from(list(counts)), unique=True))
    totals = {name: counts[name] + data.draw(st.integers(0, 50)) for name in chosen}
    expected = by_imbalanced_learn(totals, counts)
    by_index = {list(counts).index(name): total for name, total in totals.items()}
    assert resolve_targets(counts, totals) == expected
    assert resolve_targets(counts, by_index) == expected
    assert resolve_targets(counts, {str(index): np.int64(total) for index, total in by_index.items()}) == expected


@settings(deadline=None)
@given(counts_of_classes)
def test_callables_mean_what_they_mean_in_imbalanced_learn(counts):
    def twice(counted):
        return {name: 2 * number for name, number in counted.items()}

    expected = by_imbalanced_learn(lambda y: twice(collections.Counter(y.tolist())), counts)
    assert resolve_targets(counts, twice) == expected == counts


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.floats(0.001, 1))
def test_a_fraction_of_two_classes_means_what_it_means_in_imbalanced_learn(one, other, fraction):
    counts = {"ant": one, "bee": other}
    try:
        expected = by_imbalanced_learn(fraction, counts)
    except ValueError:  # there it's an error to ask for less than there is; here nothing is added
        expected = {"ant": 0, "bee": 0}
    if one != other:
        assert resolve_targets(counts, fraction) == expected
    assert max(resolve_targets({"ant": one, "bee": one}, fraction).values()) == 0


@pytest.mark.parametrize("strategy", [*WORDS, {"cat": 9}, {"bee": 40}])
def test_the_public_sampler_ends_with_the_same_totals(strategy):
    y = labels(COUNTS)
    sampler = RandomOverSampler(sampling_strategy=strategy, random_state=0)
    _, resampled = sampler.fit_resample(np.zeros((len(y), 1)), y)
    targets = resolve_targets(COUNTS, strategy)
    assert {name: COUNTS[name] + targets[name] for name in COUNTS} == collections.Counter(resampled.tolist())


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("numbers", [(5, 5, 5), (9, 9, 2), (9, 2, 2), (2, 9, 2, 9)])
def test_ties_are_broken_as_in_imbalanced_learn(word, numbers):
    counts = dict(zip(CLASSES, numbers, strict=False))
    assert resolve_targets(counts, word) == by_imbalanced_learn(word, counts)


def test_a_fraction_lifts_every_class_to_that_share_of_the_largest():
    assert resolve_targets(COUNTS, 0.5) == {"ant": 0, "bee": 10, "cat": 43}
    assert resolve_targets(COUNTS, 0.1) == {"ant": 0, "bee": 0, "cat": 3}
    assert resolve_targets(COUNTS, 1) == resolve_targets(COUNTS, "auto")


def test_a_list_lifts_the_classes_it_names_to_the_largest():
    assert resolve_targets(COUNTS, ["cat"]) == {"ant": 0, "bee": 0, "cat": 93}
    assert resolve_targets(COUNTS, np.array(["cat", "bee"])) == resolve_targets(COUNTS, "auto")
    assert resolve_targets(COUNTS, [2, "1"]) == resolve_targets(COUNTS, "auto")
    assert resolve_targets(COUNTS, []) == dict.fromkeys(COUNTS, 0)


def test_a_number_is_the_class_of_that_name_before_that_of_that_index():
    assert resolve_targets({"1": 5, "2": 5, "3": 5}, {1: 9}) == {"1": 4, "2": 0, "3": 0}
    assert resolve_targets({"1": 5, "2": 5, "3": 5}, {"2": 9}) == {"1": 0, "2": 4, "3": 0}


@settings(deadline=None)
@given(counts_of_classes, st.sampled_from([*WORDS, 0.3, 0.9, ["ant", "bee"]]), st.floats(0.1, 20))
def test_the_cap_limits_what_is_derived(counts, strategy, ratio):
    free, capped = resolve_targets(counts, strategy), resolve_targets(counts, strategy, max_synthetic_ratio=ratio)
    for name in counts:
        assert capped[name] == min(free[name], int(counts[name] * ratio))


@pytest.mark.parametrize("strategy", [{"cat": 1000}, lambda counts: {"cat": 1000}])
def test_the_cap_leaves_totals_that_are_spelled_out(strategy):
    assert resolve_targets(COUNTS, strategy, max_synthetic_ratio=2)["cat"] == 993


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("majority", "majority"),
        ("", "unknown sampling_strategy ''"),
        ("most", "unknown sampling_strategy 'most'"),
        (0, "above 0"),
        (0.0, "above 0"),
        (-0.5, "above 0"),
        (1.01, "not above 1"),
        (float("nan"), "above 0"),
        (True, "above 0"),
        ({"cow": 9}, "'cow'"),
        ({3: 200}, "3"),
        ({-1: 200}, "-1"),
        ({True: 200}, "True"),
        ({1.0: 200}, "1.0"),
        (["cow"], "'cow'"),
        ([None], "None"),
        ({"ant": 99}, "asks for 99 images of class 'ant', which has 100 already"),
        ({"ant": -1}, "asks for -1 images"),
        ({"cat": 10.5}, "not a whole number"),
        ({"cat": "10"}, "not a whole number"),
        (lambda counts: {"ant": counts["ant"] - 1}, "asks for 99"),
    ],
)
def test_what_cannot_be_done_is_refused(strategy, message):
    with pytest.raises(UsageError, match=message):
        resolve_targets(COUNTS, strategy)


@pytest.mark.parametrize("strategy", ["majority", "most", {"cow": 9}, {"ant": 99}])
def test_imbalanced_learn_refuses_the_same(strategy):
    with pytest.raises(ValueError):
        by_imbalanced_learn(strategy, COUNTS)
