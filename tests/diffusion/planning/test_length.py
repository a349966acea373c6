import math

import numpy as np
import pytest

from diffaug.diffusion.planning.length import (
    FIRST_IMAGES_SEEN,
    FIRST_VIEWS,
    GROWTH,
    MeasuredLength,
    Measurement,
    PilotPlan,
    choose_length,
    class_balanced_mean,
    is_enough,
    length_choice,
    measured_steps,
    summarized,
)
from diffaug.similarity.intervals import Share

NONE, MANY = Share(0, 64), Share(32, 64)


def curve(*excess: float, error: float = 0.01, copying: tuple[int, ...] = ()) -> list[MeasuredLength]:
    """Lengths of 1000, 2000, ... images with these errors beyond the least."""
    return [
        MeasuredLength(1000 * 2**number, 0.3 + one, one, error if one else 0.0, NONE, number in copying)
        for number, one in enumerate(excess)
    ]


@pytest.mark.parametrize(
    ("measured", "chosen", "enough"),
    [
        (curve(0.0), 0, False),
        (curve(0.3, 0.2, 0.0), 2, False),
        (curve(0.3, 0.0, 0.2), 1, False),
        (curve(0.3, 0.0, 0.2, 0.3), 1, True),
        (curve(0.3, 0.009, 0.0), 1, False),  # within one standard error: the shorter one
        (curve(0.3, 0.011, 0.0), 2, False),
        (curve(0.3, 0.009, 0.005, 0.0), 1, True),
        (curve(0.2, 0.0, -0.1, copying=(2,)), 1, False),  # the least error belongs to a length that copies
        (curve(0.2, 0.0, -0.1, -0.2, copying=(2, 3)), 1, True),
        (curve(0.2, 0.0, copying=(0, 1)), 0, False),  # all copy: the shortest
        (curve(0.2, 0.1, 0.0, copying=(0, 1, 2)), 0, True),
    ],
)
def test_the_shortest_length_near_the_best_is_chosen_and_two_more_are_enough(measured, chosen, enough) -> None:
    assert choose_length(measured) == chosen
    assert is_enough(measured) == enough


def test_a_larger_limit_adds_lengths_and_changes_none() -> None:
    def steps(images_seen: int) -> tuple[int, ...]:
        return measured_steps(PilotPlan(images_seen, 230, 111), 16)

    least = max(FIRST_IMAGES_SEEN, FIRST_VIEWS * 230)
    assert steps(least // 2) == (round(least / 2 / 16),)
    longest = steps(200_000)
    assert longest[0] == least / 16
    assert longest[-1] == 200_000 / 16
    for limit in (20_000, 51_200, 133_333):
        shorter = steps(limit)
        assert shorter[:-1] == longest[: len(shorter) - 1]
        assert shorter[-1] == round(limit / 16)
        ratios = np.array(shorter[1:]) / np.array(shorter[:-1])
        assert (ratios > math.sqrt(GROWTH) - 0.01).all()
        assert (ratios < GROWTH**1.5 + 0.01).all()


def test_classes_count_equally_and_the_standard_error_is_that_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 4], [200, 50, 10])
    centers = np.array([1.0, 2.0, 0, 0, 6.0])[labels]
    means, errors = zip(
        *(class_balanced_mean(centers + rng.normal(0, 0.5, len(labels)), labels) for _ in range(400)), strict=True
    )
    assert np.mean(means) == pytest.approx(3.0, abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    assert class_balanced_mean(np.array([1.0, 3.0]), np.array([0, 1])) == (2.0, 0.0)  # one image each


def test_lengths_are_compared_on_the_same_images() -> None:
    """Images differ a hundred times more than lengths do; their differences are what counts."""
    rng = np.random.default_rng(0)
    hard, labels = rng.normal(5, 1, 60), np.repeat([0, 1], 30)
    measured = [
        Measurement(images, tuple(hard + offset + rng.normal(0, 0.01, 60)), NONE, False)
        for images, offset in ((1000, 0.1), (2000, 0.0), (4000, 0.05))
    ]
    short, best, long = found = summarized(measured, labels)
    assert (best.excess, best.standard_error) == (0.0, 0.0)
    assert short.excess == pytest.approx(0.1, abs=0.01)
    assert long.excess > 10 * long.standard_error > 0
    choice = length_choice(found, trained=100, seconds=9.0)
    assert (choice.chosen, choice.views, choice.is_longest) == (1, 20.0, False)


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        (curve(0.1, 0.0), "the pilot denoised new images best at its end, after 20 views per image"),
        (curve(0.0, 0.1), "after 10 views per image the pilot denoised new images as well as after more"),
        (curve(0.0, copying=(0,)), "each measured length copies training images; 10 views per image is the shortest"),
        (
            curve(0.0, -0.1, copying=(1,)),
            "after 10 views per image the pilot denoised new images best without copying trained ones",
        ),
    ],
)
def test_the_reason_says_what_decided(measured, reason) -> None:
    assert length_choice(measured, trained=100, seconds=1.0).reason == reason


def test_a_pilot_that_had_no_time_says_so() -> None:
    choice = length_choice(curve(0.0), trained=1000, seconds=1.0)
    assert choice.is_longest
    assert choice.reason == "the pilot saw 1000 images in its time, too few to find a length"


def test_a_pilot_that_was_ended_does_not_call_for_more() -> None:
    choice = length_choice(curve(0.1, 0.0), trained=100, seconds=1.0, was_ended=True)
    assert (choice.views, choice.is_longest) == (20.0, False)
    assert choice.reason == "the pilot was ended after 20 views per image"
