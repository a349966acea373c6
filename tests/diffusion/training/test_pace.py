import dataclasses
import math

import pytest

from diffaug.diffusion.training.checkpoints import restore_latest, save_checkpoint
from diffaug.diffusion.training.pace import Pace, learning_rate_at
from diffaug.diffusion.training.training import new_state, train


def test_a_changed_pace_goes_on_from_where_it_is_and_gets_to_its_end() -> None:
    pace = Pace(1000)
    assert [pace.at(step) for step in (0, 250, 1000)] == [0.0, 0.25, 1.0]
    shorter = pace.ending_after(500, now=400)
    assert [shorter.at(step) for step in (400, 450, 500)] == pytest.approx([0.4, 0.7, 1.0])
    longer = shorter.ending_after(650, now=450)
    assert [longer.at(step) for step in (450, 550, 650)] == pytest.approx([0.7, 0.85, 1.0])
    assert shorter.ending_after(100, now=450) == Pace(450, 450, shorter.at(450))  # not into the past
    assert pace.ending_after(1000, now=300).at(777) == pytest.approx(pace.at(777))


def test_the_learning_rate_falls_to_zero_at_the_end_of_the_pace_without_a_jump(plan) -> None:
    long = dataclasses.replace(plan, images_seen=plan.batch_size * 10_000)
    shorter = Pace(10_000).ending_after(5_000, now=4_000)
    before, after = learning_rate_at(4_000, long), learning_rate_at(4_000, long, shorter)
    assert after == pytest.approx(before)
    assert learning_rate_at(5_000, long, shorter) == pytest.approx(0.0)
    rates = [learning_rate_at(step, long, shorter) for step in range(4_000, 5_001)]
    assert rates == sorted(rates, reverse=True)
    assert rates[500] == pytest.approx(long.learning_rate * (1 + math.cos(math.pi * (0.7 - 0.02) / 0.98)) / 2)


def test_the_learning_rate_of_a_pilot_stays_and_does_not_depend_on_its_length(plan) -> None:
    short, long = (dataclasses.replace(plan, images_seen=plan.batch_size * n, decays=False) for n in (300, 9_000))
    rates = [learning_rate_at(step, short) for step in range(300)]
    assert rates == [learning_rate_at(step, long) for step in range(300)]
    assert rates[-1] == rates[60] == plan.learning_rate
    assert rates[0] < rates[10] < rates[40] < plan.learning_rate


@pytest.mark.e2e
def test_a_shortened_training_resumes_with_its_pace_and_ends_there(tmp_path, data, plan) -> None:
    state = new_state(plan, "cpu", 3)
    for record in train(state, data, plan, seed=3):
        if record.step == 10:
            state.pace, state.seconds = state.pace_of(plan).ending_after(14, now=10), 12.5
            save_checkpoint(tmp_path, state)
    resumed = new_state(plan, "cpu", 3)
    restore_latest(tmp_path, resumed)
    assert (resumed.pace, resumed.seconds) == (Pace(14, 10, 10 / 24), 12.5)
    rates = [record.learning_rate for record in train(resumed, data, plan, seed=3)]
    assert (state.step, resumed.step, len(rates)) == (14, 14, 4)
    assert rates[-1] == min(rates)
