import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import binomtest

from diffaug.similarity.copies import COPY_RATIO, GENERATED
from diffaug.similarity.ratios import Share, copies_among, neighbour_ratios


@given(st.integers(1, 300).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_is_scipys(counts: tuple[int, int]) -> None:
    expected = binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert Share(*counts).interval == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_nothing_seen_says_nothing() -> None:
    assert Share(0, 0).interval == (0.0, 1.0)


def test_ratios_are_those_of_plain_distances() -> None:
    rng = np.random.default_rng(0)
    queries, references = rng.normal(size=(150, 7)), rng.normal(size=(80, 7))
    near, second = np.sort(cdist(queries, references), axis=1)[:, :2].T
    ratios = neighbour_ratios(
        torch.tensor(queries), torch.full((150,), GENERATED), torch.tensor(references), torch.arange(80)
    )
    assert np.allclose(ratios, near / second)


def test_a_distance_far_below_the_size_of_the_features_is_exact() -> None:
    references = 100 + torch.eye(8)
    ratio = neighbour_ratios(references[:1] + 1e-3, torch.tensor([GENERATED]), references, torch.arange(8))
    assert ratio == pytest.approx(1e-3 * 8**0.5 / 2**0.5, rel=0.05)


def test_a_near_duplicate_in_the_same_unit_does_not_hide_a_copy() -> None:
    references = torch.tensor([[0.0], [0.01], [10.0], [20.0]])
    query, nobody = torch.tensor([[0.005]]), torch.tensor([GENERATED])
    assert neighbour_ratios(query, nobody, references, torch.tensor([0, 1, 2, 3])) > COPY_RATIO
    assert neighbour_ratios(query, nobody, references, torch.tensor([0, 0, 2, 3])) < COPY_RATIO


def test_a_real_image_is_not_compared_with_its_own_group() -> None:
    references = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    groups = torch.tensor([0, 0, 1, 2])
    assert neighbour_ratios(references, groups, references, groups).tolist() == pytest.approx(
        [3 / 7, 2 / 6, 2 / 4, 4 / 6]
    )


def test_one_unit_alone_cannot_be_judged_nor_can_a_broken_sample() -> None:
    references = torch.tensor([[0.0], [1.0]])
    nobody = torch.tensor([GENERATED, GENERATED])
    assert neighbour_ratios(references, nobody, references, torch.tensor([4, 4])).tolist() == [1, 1]
    broken = torch.full((2, 1), torch.nan)
    assert copies_among(neighbour_ratios(broken, nobody, references, torch.tensor([0, 1]))) == Share(0, 2)


def test_distances_are_compared_in_full_float32_and_the_setting_is_left_alone(monkeypatch) -> None:
    seen = []
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: seen.append(torch.get_float32_matmul_precision()) or product(a, b)
    )
    references = torch.eye(3)
    torch.set_float32_matmul_precision("high")
    try:
        neighbour_ratios(references, torch.full((3,), GENERATED), references, torch.arange(3))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest"]
