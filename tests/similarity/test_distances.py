import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import binomtest

from diffaug.similarity.copies import GENERATED
from diffaug.similarity.distances import (
    MIN_HELD_OUT,
    Described,
    Distances,
    compare_distances,
    copies_among,
    distance_ratio,
    duplicate_thresholds,
    find_duplicates,
    mirrored_distances,
    nearest_ratios,
    neighbor_ratios,
    small_pictures,
)
from diffaug.similarity.intervals import Estimate, Share
from diffaug.similarity.thresholds import COPY_RATIO, DUPLICATE_SHARE_OF_DISTANCE


def described(features: np.ndarray, groups: np.ndarray | None = None) -> Described:
    labels = np.zeros(len(features), np.int64)
    return Described(features, labels, np.arange(len(features)) if groups is None else groups)


def generated(features: np.ndarray) -> Described:
    return described(features, np.full(len(features), GENERATED))


def draw(seed: int, *counts: int, dim: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(count, dim)) for count in counts]


def test_relative_distances_are_those_of_an_explicit_leave_one_out() -> None:
    samples, trained, held = draw(0, 7, 30, 6)
    groups = np.array([0, 0, 1, 2, 3, 4]) * 10 + 100
    found = compare_distances(generated(samples), described(trained), described(held, groups))
    assert found is not None

    def log_nearest(queries, references):
        return np.log(cdist(queries, references).min(axis=1))

    without = [log_nearest(samples, held[groups != group]) for group in np.unique(groups)]
    assert found.samples == pytest.approx(log_nearest(samples, trained) - np.mean(without, axis=0))
    own = [log_nearest(held[[i]], held[groups != groups[i]])[0] for i in range(6)]
    assert found.held == pytest.approx(log_nearest(held, trained) - own)


def test_too_few_groups_say_nothing_however_many_images_they_have() -> None:
    samples, trained, held = draw(0, 7, 30, 40)
    parts = generated(samples), described(trained)
    few = np.arange(40) % (MIN_HELD_OUT - 1)
    assert compare_distances(*parts, described(held, few)) is None
    assert compare_distances(*parts, described(held, np.arange(40) % MIN_HELD_OUT)) is not None
    assert compare_distances(parts[0], described(trained[:0]), described(held)) is None


@pytest.mark.e2e
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("held", [5, 10, 40])
def test_new_images_lie_no_nearer_even_from_a_timid_or_wild_generator(scale, held) -> None:
    for seed in range(20):
        samples, trained, left_out = draw(seed, 100, 100, held)
        found = compare_distances(generated(scale * samples), described(trained), described(left_out))
        ratio = distance_ratio([found], seed=seed)
        assert ratio.high >= 0.8 and 0.7 < ratio.value < 1.4


@pytest.mark.parametrize(("closeness", "expected"), [(0.0, 0.0), (0.3, 0.5)])
def test_repeated_images_lie_nearer(closeness, expected) -> None:
    """Two images are 2^0.5 16^0.5 apart, nearest ones 0.6 of that: three tenths of the first is half of the second."""
    samples, trained, held = draw(0, 200, 95, 5)
    copies = trained[np.arange(200) % 95]
    near = copies + closeness * (samples - copies)
    ratio = distance_ratio([compare_distances(generated(near), described(trained), described(held))], seed=0)
    assert ratio.value == pytest.approx(expected, abs=0.1)
    assert ratio.high < 0.8


def test_a_frame_of_the_same_patient_held_out_too_raises_no_alarm() -> None:
    samples, trained, held = draw(1, 100, 100, 10)
    twins = np.concatenate([held, held + 0.01])
    groups = np.tile(np.arange(10), 2)
    right = compare_distances(generated(samples), described(trained), described(twins, groups))
    wrong = compare_distances(generated(samples), described(trained), described(twins))
    assert distance_ratio([right], seed=0).value == pytest.approx(1, abs=0.15)
    assert distance_ratio([wrong], seed=0).high < 0.1


def test_classes_count_by_their_held_out_images() -> None:
    many = Distances(np.full(10, np.log(0.5)), np.zeros(30))
    few = Distances(np.full(1000, 0.0), np.zeros(5))
    assert distance_ratio([many, few], seed=0).value == pytest.approx(0.5)
    assert distance_ratio([few], seed=0) == Estimate(1, 1, 1)
    assert distance_ratio([Distances(np.empty(0), np.zeros(9))], seed=0) is None
    assert distance_ratio([], seed=0) is None


def test_the_interval_covers_the_truth_and_the_seed_decides_it() -> None:
    rng, covered = np.random.default_rng(0), 0
    for seed in range(40):
        parts = [Distances(rng.normal(-0.5, 1, 60), rng.normal(0, 0.5, 20)) for _ in range(2)]
        ratio = distance_ratio(parts, seed=seed)
        assert ratio.low <= ratio.value <= ratio.high
        covered += ratio.low <= np.exp(-0.5) <= ratio.high
    assert 34 <= covered <= 40
    assert distance_ratio(parts, seed=1) == distance_ratio(parts, seed=1) != distance_ratio(parts, seed=2)


def test_medians_are_numpys_where_all_weights_are_equal() -> None:
    for count in (1, 2, 5, 8):
        samples, held = np.random.default_rng(count).normal(size=(2, count))
        expected = np.exp(np.median(samples) - np.median(held))
        assert distance_ratio([Distances(samples, held)], seed=0).value == pytest.approx(expected)


def test_nearest_ratios_are_nearest_over_second_nearest() -> None:
    samples, trained = draw(0, 150, 80)
    two = np.sort(cdist(samples, trained), axis=1)[:, :2]
    assert nearest_ratios(generated(samples), described(trained)) == pytest.approx(two[:, 0] / two[:, 1])
    assert nearest_ratios(generated(samples[:0]), described(trained)).shape == (0,)


def test_small_pictures_are_block_averages() -> None:
    shapes = (3, 8, 8, 1), (3, 32, 32, 1), (3, 28, 30, 3)
    small, large, odd = (np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8) for shape in shapes)
    assert small_pictures(small) == pytest.approx(small.reshape(3, -1) / 255)
    blocks = large.reshape(3, 16, 2, 16, 2).mean(axis=(2, 4)) / 255
    assert small_pictures(large) == pytest.approx(blocks.reshape(3, -1))
    assert small_pictures(odd).shape == (3, 16 * 16 * 3)
    assert small_pictures(odd[:0]).shape[0] == 0


@given(st.integers(1, 300).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_is_scipys(counts: tuple[int, int]) -> None:
    expected = binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert Share(*counts).interval == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert Share(0, 0).interval == (0.0, 1.0)


def test_a_distance_far_below_the_size_of_the_features_is_exact() -> None:
    references = 100 + torch.eye(8)
    ratio = neighbor_ratios(references[:1] + 1e-3, torch.tensor([GENERATED]), references, torch.arange(8))
    assert ratio == pytest.approx(1e-3 * 8**0.5 / 2**0.5, rel=0.05)


def test_a_near_duplicate_in_the_same_group_does_not_hide_a_copy() -> None:
    references = torch.tensor([[0.0], [0.01], [10.0], [20.0]])
    query, nobody = torch.tensor([[0.005]]), torch.tensor([GENERATED])
    assert neighbor_ratios(query, nobody, references, torch.tensor([0, 1, 2, 3])) > COPY_RATIO
    assert neighbor_ratios(query, nobody, references, torch.tensor([0, 0, 2, 3])) < COPY_RATIO


def test_a_real_image_is_not_compared_with_its_own_group() -> None:
    references, groups = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([0, 0, 1, 2])
    ratios = neighbor_ratios(references, groups, references, groups)
    assert ratios.tolist() == pytest.approx([3 / 7, 2 / 6, 2 / 4, 4 / 6])


def test_one_group_alone_says_nothing_nor_does_a_broken_sample() -> None:
    references, nobody = torch.tensor([[0.0], [1.0]]), torch.tensor([GENERATED, GENERATED])
    assert neighbor_ratios(references, nobody, references, torch.tensor([4, 4])).tolist() == [1, 1]
    broken = neighbor_ratios(references * torch.nan, nobody, references, torch.tensor([0, 1]))
    assert copies_among(broken) == Share(0, 2)


def test_distances_are_compared_in_full_float32_and_the_setting_is_left_alone(monkeypatch) -> None:
    seen, product, references = [], torch.Tensor.__matmul__, torch.eye(3)

    def noting(left, right):
        seen.append(torch.get_float32_matmul_precision())
        return product(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", noting)
    torch.set_float32_matmul_precision("high")
    try:
        neighbor_ratios(references, torch.full((3,), GENERATED), references, torch.arange(3))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest"]


def normalized(maps: np.ndarray) -> np.ndarray:
    return maps / np.sqrt(np.square(maps).sum(axis=(1, 2, 3), keepdims=True))


def maps_of(count: int, seed: int = 0) -> np.ndarray:
    return normalized(np.random.default_rng(seed).normal(size=(count, 2, 4, 3)).astype(np.float32))


def nudged(maps: np.ndarray, by: float) -> np.ndarray:
    return normalized(maps + by * maps_of(len(maps), seed=9))


def test_distances_are_those_of_the_nearer_of_image_and_mirror_image() -> None:
    queries, references = maps_of(9), maps_of(5, seed=1)
    flat = [one.reshape(len(one), -1) for one in (queries, references, references[..., ::-1])]
    expected = np.minimum(cdist(flat[0], flat[1]), cdist(flat[0], flat[2]))
    np.testing.assert_allclose(mirrored_distances(queries, references), expected, atol=1e-5)


def test_a_later_image_that_shows_an_earlier_one_is_found_mirrored_or_changed_a_little() -> None:
    first = maps_of(300)
    shown_again = np.concatenate([first, first[:10], first[10:20, ..., ::-1], nudged(first[20:30], 0.05)])
    assert find_duplicates(shown_again, 0.1).tolist() == [False] * 300 + [True] * 30


def test_what_is_like_a_duplicate_alone_is_kept() -> None:
    angles = np.array([0.0, 0.4, 0.8, 1.2])
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32).reshape(4, 2, 1, 1)
    assert find_duplicates(chain, 0.5).tolist() == [False, True, False, True]


def test_without_a_threshold_equal_images_alone_are_duplicates() -> None:
    maps = maps_of(20)
    found = find_duplicates(np.concatenate([maps, maps[:3], nudged(maps[3:6], 0.05)]), 0.0)
    assert found.tolist() == [False] * 20 + [True] * 3 + [False] * 3
    assert find_duplicates(maps[:0], 0.5).tolist() == []


def test_thresholds_leave_all_but_a_share_of_real_images_apart_in_every_class() -> None:
    maps, labels = maps_of(400), np.repeat([0, 2], 200)
    thresholds = duplicate_thresholds(maps, labels, np.arange(400), 3, share=0.05)
    for label in (0, 2):
        distances = mirrored_distances(maps[labels == label], maps[labels == label])
        np.fill_diagonal(distances, np.inf)
        assert np.mean(distances.min(axis=1) < thresholds[label] / DUPLICATE_SHARE_OF_DISTANCE) <= 0.05
    assert thresholds[[0, 2]].max() < DUPLICATE_SHARE_OF_DISTANCE * 2
    assert 0 < thresholds.max() <= 2
    assert thresholds[1] == 0


def test_images_of_one_group_say_nothing_about_distinct_images() -> None:
    maps = maps_of(100)
    doubled, labels = np.concatenate([maps, nudged(maps, 0.01)]), np.zeros(200, np.int64)
    apart = duplicate_thresholds(doubled, labels, np.arange(200), 1, share=0.01)
    together = duplicate_thresholds(doubled, labels, np.tile(np.arange(100), 2), 1, share=0.01)
    assert apart[0] < 0.05 < together[0]
    alone = duplicate_thresholds(maps, labels[:100], np.arange(100), 1, share=0.01)
    assert together[0] == pytest.approx(alone[0], abs=0.1)
