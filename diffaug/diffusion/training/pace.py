"""The pace of a training: when it ends, its learning rate, and over how many steps weights are averaged."""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffaug.diffusion.planning.planning import Plan

WARM_UP_FRACTION = 0.02
MIN_WARM_UP_STEPS, CONTINUED_WARM_UP_STEPS = 50, 20  # the latter where weights are not random; by hand
EMA_FRACTION = 0.05
MAX_EMA_HALF_LIFE_IMAGES = 500_000


@dataclass(frozen=True)
class Pace:
    """How a training gets to its end: by equal parts in each step, from `progress` at step `since` to 1 at `steps`."""

    steps: int
    since: int = 0
    progress: float = 0.0

    def at(self, step: int) -> float:
        """The progress at a step, in [0, 1]."""
        return self.progress + (1 - self.progress) * (step - self.since) / max(1, self.steps - self.since)

    def ending_after(self, steps: int, now: int) -> Pace:
        """The pace from step `now` on that ends the training after `steps`, at least `now`."""
        return Pace(max(steps, now), now, self.at(now))


def learning_rate_at(step: int, plan: Plan, pace: Pace | None = None) -> float:
    """Linear warm-up over 2 % of the steps, then a half cosine down to 0 at the end of the pace.

    The warm-up takes at least 50 steps, or 20 if weights are not random.

    A plan that does not decay keeps the rate, and its warm-up does not depend on its length.
    """
    warm_up = least = CONTINUED_WARM_UP_STEPS if plan.initial else MIN_WARM_UP_STEPS
    if plan.decays:
        warm_up = min(max(least, round(WARM_UP_FRACTION * plan.steps)), max(1, plan.steps // 2))
    if step < warm_up:
        return plan.learning_rate * (step + 1) / warm_up
    if not plan.decays:
        return plan.learning_rate
    begin = warm_up / plan.steps
    progress = ((pace or Pace(plan.steps)).at(step) - begin) / max(1 / plan.steps, 1 - begin)
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def ema_decay_at(step: int, batch_size: int) -> float:
    """Decay whose half-life is 5 % of the images seen so far, at most 500,000 images.

    A fixed decay such as .9999 has a half-life of 6931 steps, longer than many a whole training here.
    """
    half_life = min(MAX_EMA_HALF_LIFE_IMAGES, EMA_FRACTION * (step + 1) * batch_size)
    return float(0.5 ** (batch_size / half_life))
