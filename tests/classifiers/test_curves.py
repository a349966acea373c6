import math
import threading

import pytest
import torch

from diffaug.classifiers.curves import learning_curve, record_loss


@pytest.mark.parametrize("steps", [1, 7, 40, 41, 1000])
def test_a_curve_has_at_most_forty_points_and_keeps_the_mean(steps):
    with learning_curve() as curve:
        for step in range(steps):
            record_loss(step, steps, torch.tensor(float(step)))
    assert len(curve.points) == min(steps, 40) and curve.points[-1][0] == steps
    ends = [0, *(step for step, _ in curve.points)]
    total = sum((end - start) * mean for start, end, (_, mean) in zip(ends, ends[1:], curve.points, strict=False))
    assert total == pytest.approx(steps * (steps - 1) / 2)


def test_losses_that_are_not_finite_are_left_out_and_nothing_is_recorded_elsewhere():
    record_loss(0, 1, torch.tensor(1.0))
    with learning_curve() as curve:
        record_loss(0, 2, torch.tensor(math.nan))
        record_loss(1, 2, torch.tensor(0.5))
        other = threading.Thread(target=record_loss, args=(0, 2, torch.tensor(9.0)))
        other.start()
        other.join()
    record_loss(1, 2, torch.tensor(1.0))
    assert curve.points == ((2, 0.5),)
