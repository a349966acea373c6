"""How learning rate and weight averaging follow the budget."""

from __future__ import annotations

import math

from diffaug.diffusion.planning.planning import Plan

WARM_UP_SHARE = 0.02
MIN_WARM_UP_STEPS = 50
EMA_SHARE = 0.05
MAX_EMA_HALF_LIFE = 500_000


def learning_rate_at(step: int, plan: Plan) -> float:
    """Linear warm-up over 2 % of the steps (at least 50), then a half cosine down to 0 at the end."""
    warm_up = min(max(MIN_WARM_UP_STEPS, round(WARM_UP_SHARE * plan.steps)), max(1, plan.steps // 2))
    if step < warm_up:
        return plan.learning_rate * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, plan.steps - warm_up)
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def ema_decay_at(step: int, batch_size: int) -> float:
    """Decay whose half-life is 5 % of the images seen so far, at most 500,000 images.

    A fixed decay such as .9999 has a half-life of 6931 steps, longer than many a whole training here.
    """
    half_life = min(MAX_EMA_HALF_LIFE, EMA_SHARE * (step + 1) * batch_size)
    return float(0.5 ** (batch_size / half_life))
