import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from diffaug.evaluation.statistics.crossed import holm, holm_tails, tail

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
