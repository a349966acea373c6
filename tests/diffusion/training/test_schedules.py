import dataclasses

import pytest

from diffaug.diffusion.training.schedules import ema_decay_at, learning_rate_at


def test_learning_rate_warms_up_and_ends_at_zero(plan) -> None:
    long = dataclasses.replace(plan, images=plan.batch_size * 10_000)
    rates = [learning_rate_at(step, long) for step in range(long.steps)]
    assert rates[0] == pytest.approx(long.learning_rate / 200)
    assert max(rates) == pytest.approx(long.learning_rate)
    assert rates.index(max(rates)) in (199, 200)
    assert rates[-1] < 1e-4 * long.learning_rate
    assert rates[5100] == pytest.approx(long.learning_rate / 2, rel=0.01)


def test_ema_half_life_is_a_share_of_the_images_seen() -> None:
    decay = ema_decay_at(step=999, batch_size=64)
    assert decay ** (0.05 * 64_000 / 64) == pytest.approx(0.5)
    assert ema_decay_at(step=10**7, batch_size=64) ** (500_000 / 64) == pytest.approx(0.5)
    assert ema_decay_at(step=0, batch_size=64) < 1e-5
