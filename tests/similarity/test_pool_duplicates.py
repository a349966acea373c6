import numpy as np
import pytest
from scipy.spatial.distance import cdist

from diffaug.similarity.distances import duplicate_thresholds, find_duplicates, mirrored_distances
from diffaug.similarity.thresholds import DUPLICATE_SHARE_OF_DISTANCE


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
