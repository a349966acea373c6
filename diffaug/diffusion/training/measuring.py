"""How fast a plan trains on this machine."""

import statistics
import time
from dataclasses import replace

from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.training.training import Batches, new_state, train
from diffaug.runtime.distributed import ALONE, ProcessGroup

WARM_UP_STEPS = 3
MEASURED_SECONDS = 3.0
LASTING_SPEED = 0.85
"""Fraction of the measured speed that a whole training keeps. Ten planned minutes took 11.5 to 14 on two CPU cores."""


def measure_images_per_second(data: Batches, plan: Plan, group: ProcessGroup = ALONE) -> float:
    """Trains a scratch network for about three seconds and returns the expected speed of a whole training.

    That is 85 % of the median step's speed: checks, grids and checkpoints take time too, and processors slow down.
    """
    endless = replace(plan, images_seen=plan.batch_size * 10_000)
    times: list[float] = []
    began = started = time.perf_counter()
    for record in train(new_state(plan, plan.device, seed=0), data, endless, 0, group=group):
        record.loss.item()  # waits for the device
        now = time.perf_counter()
        if record.step > WARM_UP_STEPS:
            times.append(now - started)
        else:
            began = now
        if group.any(bool(times) and now - began > MEASURED_SECONDS):
            break
        started = now
    return LASTING_SPEED * plan.batch_size / statistics.median(times)
