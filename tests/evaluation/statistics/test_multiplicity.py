from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from diffaug.evaluation.statistics.multiplicity import holm, tail


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


def test_the_tail_of_the_best_of_several_is_sidaks_once_that_is_stricter():
    assert [tail(m) for m in (1, 2)] == pytest.approx([0.025, 0.025])
    assert 1 - (1 - tail(4)) ** 4 == pytest.approx(0.05)
