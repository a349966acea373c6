import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.over_sampling import RandomOverSampler

from diffaug.configuration.settings import SAMPLING_WORDS as WORDS
from diffaug.errors import UsageError
from diffaug.synthesis.pool.targets import resolve_targets

CLASSES = ("ant", "bee", "cat", "dog", "eel")
COUNTS = {"ant": 100, "bee": 40, "cat": 7}

counts_of_classes = st.lists(st.integers(1, 30), min_size=2, max_size=5).map(
    lambda counts: dict(zip(CLASSES, counts, strict=False))
)


def by_imbalanced_learn(strategy, counts: dict[str, int]) -> dict[str, int]:
    labels = np.repeat(list(counts), list(counts.values()))
    sampler = RandomOverSampler(sampling_strategy=strategy, random_state=0)
    _, resampled = sampler.fit_resample(np.zeros((len(labels), 1)), labels)
    return {name: int((resampled == name).sum()) - count for name, count in counts.items()}


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
    by_scalar = {np.int64(index): np.int64(total) for index, total in by_index.items()}
    for strategy in (totals, by_index, by_scalar, lambda counted: totals if counted == counts else {}):
        assert resolve_targets(counts, strategy, max_synthetic_ratio=0.1) == expected  # totals have no limit


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


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("numbers", [(5, 5, 5), (9, 9, 2), (9, 2, 2), (2, 9, 2, 9)])
def test_ties_are_broken_as_in_imbalanced_learn(word, numbers):
    counts = dict(zip(CLASSES, numbers, strict=False))
    assert resolve_targets(counts, word) == by_imbalanced_learn(word, counts)


def test_fractions_lists_and_numbers_lift_the_classes_they_mean():
    assert resolve_targets(COUNTS, 0.5) == {"ant": 0, "bee": 10, "cat": 43}
    assert resolve_targets(COUNTS, 0.1) == {"ant": 0, "bee": 0, "cat": 3}
    assert resolve_targets(COUNTS, 1) == resolve_targets(COUNTS, "auto")
    assert resolve_targets(COUNTS, ["cat"]) == {"ant": 0, "bee": 0, "cat": 93}
    assert resolve_targets(COUNTS, np.array(["cat", "bee"])) == resolve_targets(COUNTS, "auto")
    assert resolve_targets(COUNTS, [2, np.int8(1)]) == resolve_targets(COUNTS, "auto")
    assert resolve_targets(COUNTS, []) == dict.fromkeys(COUNTS, 0)
    # a number is the class of that name before that of that index
    assert resolve_targets({"1": 5, "2": 5, "3": 5}, {1: 9, "2": 6}) == {"1": 4, "2": 1, "3": 0}


@settings(deadline=None)
@given(counts_of_classes, st.sampled_from([*WORDS, 0.3, 0.9, ["ant", "bee"]]), st.floats(0.1, 20))
def test_the_cap_limits_what_is_derived(counts, strategy, ratio):
    free, capped = resolve_targets(counts, strategy), resolve_targets(counts, strategy, max_synthetic_ratio=ratio)
    for name in counts:
        assert capped[name] == min(free[name], int(counts[name] * ratio))


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("majority", "majority"),
        ("most", "unknown sampling_strategy 'most'"),
        (0, "above 0"),
        (1.01, "not above 1"),
        (float("nan"), "above 0"),
        (True, "above 0"),
        ({"cow": 9}, "'cow'"),
        ({3: 200}, "3"),
        ({True: 200}, "True"),
        ({1.5: 200}, "1.5"),
        ({"1": 200}, "'1'"),
        ({1: 200, "bee": 300}, "'bee' twice"),
        (["cow"], "'cow'"),
        ({"ant": 99}, "asks for 99 images of class 'ant', which has 100 already"),
        ({"cat": 10.5}, "not a whole number"),
        ({"cat": "10"}, "not a whole number"),
        (lambda counts: {"ant": counts["ant"] - 1}, "asks for 99"),
    ],
)
def test_what_cannot_be_done_is_refused(strategy, message):
    with pytest.raises(UsageError, match=message):
        resolve_targets(COUNTS, strategy)
    if strategy in ("majority", "most", {"cow": 9}, {"ant": 99}):
        with pytest.raises(ValueError):
            by_imbalanced_learn(strategy, COUNTS)
