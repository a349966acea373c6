import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from diffaug.synthesis.filters import scores as scoring


def calibration(*classes):
    scores = [np.asarray(scores, np.float32) for scores in classes]
    return scoring.Calibration(np.concatenate(scores), np.repeat(np.arange(len(scores)), list(map(len, scores))))


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(0, 9))
def test_a_p_value_is_a_rank_that_counts_the_image_itself(scores, score):
    expected = (1 + sum(one >= score for one in scores)) / (len(scores) + 1)
    p_value = calibration(scores, [5.0] * 50).p_values(np.array([score], np.float32), 0)
    assert p_value == pytest.approx([expected])


@pytest.mark.parametrize("count", [24, 60, 500])
@pytest.mark.parametrize("share", [0.08, 0.2])
def test_new_images_of_every_class_are_rejected_at_the_same_share_whatever_their_scale(count, share):
    random = np.random.default_rng(0)
    lost = np.zeros(2)
    for _ in range(300):
        known = calibration(random.normal(size=count), 5 + 3 * random.exponential(size=count))
        new = random.normal(size=40), 5 + 3 * random.exponential(size=40)
        lost += [known.unusual(one.astype(np.float32), label, share).mean() / 300 for label, one in enumerate(new)]
    assert np.all(lost <= share + 0.012)
    assert np.all(lost >= share - 1 / (count + 1) - 0.012)


@pytest.mark.parametrize("count", [1, 5, 20])
def test_a_class_too_small_for_a_share_of_its_own_loses_no_more(count):
    random = np.random.default_rng(1)
    lost = []
    for _ in range(300):
        known = calibration(random.normal(size=400), random.normal(size=count))
        lost.append(known.unusual(random.normal(size=40).astype(np.float32), 1, 0.08).mean())
    assert 0 < np.mean(lost) <= 0.045


@pytest.mark.parametrize(
    ("scores", "classes"),
    [([0, 2, 100], (np.linspace(0, 1, 500), [])), ([1, 1], ([1.0] * 100, [1.0] * 3)), ([1e9], ([], []))],
    ids=["no image of the class", "equal scores", "no image at all"],
)
def test_without_evidence_nothing_is_unusual(scores, classes):
    assert not calibration(*classes).unusual(np.array(scores, np.float32), 1, 0.08).any()


def test_a_small_class_that_is_harder_than_others_keeps_what_is_no_worse_than_its_own_worst():
    known = calibration(np.linspace(0, 1, 500), [5, 6, 7])
    assert known.unusual(np.array([0.99, 4, 6.9, 7.1], np.float32), 1, 0.08).tolist() == [False, False, False, True]
    assert known.unusual(np.array([0.99, 4, 6.9, 7.1], np.float32), 0, 0.08).tolist() == [True] * 4


def test_log_odds_are_those_of_the_likeliest_other_class():
    log_probabilities = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], np.float32))
    odds = np.exp(scoring.wrong_class_log_odds(log_probabilities, 0))
    np.testing.assert_allclose(odds, [0.2 / 0.7, 0.6 / 0.1], rtol=1e-5)
    assert scoring.wrong_class_log_odds(np.zeros((2, 1), np.float32), 0).tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_distances_are_the_mean_to_the_nearest_by_direction(count):
    random = np.random.default_rng(2)
    features, references = random.normal(size=(7, 4)), random.normal(size=(count, 4))
    directions = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (features, references)]
    expected = np.sort(cdist(*directions), axis=1)[:, : scoring.NEIGHBORS].mean(axis=1)
    found = scoring.class_distances((3 * features).astype(np.float32), references.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.isfinite(scoring.class_distances(np.zeros((1, 4), np.float32), np.eye(4, dtype=np.float32))).all()


def test_an_image_is_saturated_half_way_between_the_worst_real_one_of_its_class_and_all_of_it():
    pixels = np.full((3, 4, 4, 1), 100, np.uint8)
    pixels[0, :2], pixels[1, 0], pixels[2, :, 0] = 0, 255, 255
    shares = scoring.saturation(pixels)
    assert shares.tolist() == [0.5, 0.25, 0.25]
    assert scoring.saturation_limits(shares, np.array([0, 0, 2]), 3).tolist() == [0.75, 0.75, 0.625]


def test_constant_images_have_one_value_a_channel():
    flat = np.tile(np.array([255, 0, 7], np.uint8), (4, 4, 1))
    one_pixel = flat.copy()
    one_pixel[3, 3, 2] += 1
    assert scoring.constant(np.stack([flat, one_pixel])).tolist() == [True, False]


def test_only_the_first_reason_is_given():
    rejected = {"a": np.array([False, True, True]), "b": np.array([False, True, False])}
    assert scoring.first_reasons(rejected, 3) == ("", "a", "a")
    assert scoring.first_reasons({}, 2) == ("", "")


@pytest.mark.parametrize("count", [1, 3, 9])
def test_absolute_distances_are_to_the_five_nearest(count) -> None:
    random = np.random.default_rng(0)
    features, references = random.normal(size=(7, 4)).astype(np.float32), random.normal(size=(count, 4)) + 3
    all_of_them = np.sort(np.linalg.norm(features[:, None] - references[None], axis=2), axis=1)
    found = scoring.absolute_distances(features, references.astype(np.float32))
    np.testing.assert_allclose(found, all_of_them[:, :5].mean(axis=1), rtol=1e-4)
