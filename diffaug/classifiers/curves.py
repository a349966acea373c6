"""The learning curve of a training, recorded without the training's knowing who asks for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor

POINTS = 40


@dataclass
class LearningCurve:
    """Mean losses of about 40 equal parts of each training in the block that it was made for."""

    _parts: list[tuple[int, Tensor, int]] = field(default_factory=list)  # last step, sum of losses, steps

    def record(self, step: int, steps: int, loss: Tensor) -> None:
        """Adds the loss, a scalar, of step `step`, from 0, of `steps`; doesn't wait for a GPU."""
        is_first = step == 0 or step * POINTS // steps > (step - 1) * POINTS // steps
        if is_first or not self._parts:
            self._parts.append((step + 1, loss.detach(), 1))
        else:
            _, total, count = self._parts[-1]
            self._parts[-1] = (step + 1, total + loss.detach(), count + 1)

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        """Steps done and mean loss since the point before, in order; without losses that are not finite."""
        means = [(step, float(total) / count) for step, total, count in self._parts]
        return tuple((step, mean) for step, mean in means if math.isfinite(mean))


_current: ContextVar[LearningCurve | None] = ContextVar("learning_curve", default=None)


@contextmanager
def learning_curve() -> Iterator[LearningCurve]:
    """Records trainings in the block, in this thread: those of networks of diffaug; no point where there are none."""
    curve = LearningCurve()
    token = _current.set(curve)
    try:
        yield curve
    finally:
        _current.reset(token)


def record_loss(step: int, steps: int, loss: Tensor) -> None:
    """Adds to the curve that is recorded, if one is; see `LearningCurve.record`."""
    curve = _current.get()
    if curve is not None:
        curve.record(step, steps, loss)
