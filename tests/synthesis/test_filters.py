import numpy as np
import pytest

from diffaug.synthesis.filters import CONSTANT, NON_FINITE, OFF_CLASS, REASONS, judge

SURE, UNSURE, OTHER = [0.98, 0.01, 0.01], [0.4, 0.3, 0.3], [0.03, 0.96, 0.01]
PLAIN = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
FLAT = np.broadcast_to(np.array([255, 0, 7], np.uint8), (4, 4, 3))


def judged(images, finite, probabilities, *, class_index=0, confidence=0.95):
    seen = []

    def scorer(pixels):
        seen.append(pixels)
        return np.array(probabilities, np.float32)

    pixels = np.stack(images)
    judgement = judge(pixels, np.array(finite), class_index, scorer, confidence)
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], pixels)
    return judgement


def test_each_reason_is_found():
    judgement = judged([PLAIN, PLAIN, FLAT, PLAIN], [True, False, True, True], [SURE, SURE, SURE, OTHER])
    assert judgement.reasons == ("", NON_FINITE, CONSTANT, OFF_CLASS)
    assert judgement.accepted.tolist() == [0]
    assert set(judgement.reasons) - {""} == set(REASONS)


@pytest.mark.parametrize("is_finite", [True, False])
@pytest.mark.parametrize("image", [PLAIN, FLAT])
@pytest.mark.parametrize("probabilities", [SURE, OTHER])
def test_the_first_reason_is_given(is_finite, image, probabilities):
    faults = {NON_FINITE: not is_finite, CONSTANT: image is FLAT, OFF_CLASS: probabilities is OTHER}
    judgement = judged([image], [is_finite], [probabilities])
    assert judgement.reasons == (next((reason for reason in REASONS if faults[reason]), ""),)


def test_a_sample_that_the_scorer_is_unsure_of_is_kept():
    leaning_away = [0.05, 0.90, 0.05]
    judgement = judged([PLAIN] * 3, [True] * 3, [UNSURE, leaning_away, [0, 0.5, 0.5]])
    assert judgement.reasons == ("", "", "")
    assert judgement.accepted.tolist() == [0, 1, 2]


def test_the_threshold_itself_rejects():
    edge = np.float32(0.75)
    below = np.nextafter(edge, np.float32(0))
    judgement = judged([PLAIN] * 2, [True] * 2, [[0.25, edge], [0.25, below]], confidence=0.75)
    assert judgement.reasons == (OFF_CLASS, "")


def test_only_other_classes_can_reject():
    for class_index in range(3):
        probabilities = np.eye(3)
        judgement = judged([PLAIN] * 3, [True] * 3, probabilities, class_index=class_index)
        assert judgement.accepted.tolist() == [class_index]
        np.testing.assert_array_equal(judgement.own_class_probability, probabilities[:, class_index])


def test_one_pixel_or_one_channel_makes_an_image_not_constant():
    one_pixel = FLAT.copy()
    one_pixel[3, 3, 2] += 1
    grey = np.zeros((4, 4, 1), np.uint8)
    assert judged([one_pixel, FLAT], [True, True], [SURE, SURE]).reasons == ("", CONSTANT)
    assert judged([grey, grey + np.eye(4, dtype=np.uint8)[..., None]], [True] * 2, [SURE] * 2).reasons == (CONSTANT, "")


def test_with_one_class_there_is_no_other():
    assert judged([PLAIN], [True], [[1.0]]).reasons == ("",)


def test_no_samples_no_judgement():
    judgement = judge(
        np.empty((0, 4, 4, 3), np.uint8), np.empty(0, bool), 0, lambda pixels: np.empty((len(pixels), 2)), 0.9
    )
    assert judgement.reasons == ()
    assert judgement.accepted.tolist() == []
