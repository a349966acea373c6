"""How fast a plan trains on this machine, and which ways of computing are worth trying."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

from diffaug.configuration.settings import DiffusionSettings
from diffaug.diffusion.planning.planning import DEFAULT_MINUTES, Plan
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.training import new_state, train
from diffaug.runtime.distributed import ALONE, Workers

WARM_UP_STEPS = 3
SECONDS = 3.0
LASTING_SHARE = 0.85
WORTHWHILE, KEPT_SPEED = 1.1, 0.8
MIN_MINUTES_TO_COMPILE = 20


def measure_images_per_second(
    data: TrainingData, plan: Plan, settings: DiffusionSettings, workers: Workers = ALONE
) -> float:
    """Trains a scratch network for about three seconds and says how fast a whole training is likely to be.

    That is 85 % of the median step's speed: looks at copying, grids and checkpoints take time too, and processors keep
    their speed for seconds only. On two CPU cores, trainings planned for ten minutes at all of it took 11.5 to 14.
    """
    device = data.device.type
    endless = replace(plan, images=plan.batch_size * 10_000)
    times: list[float] = []
    began = started = time.perf_counter()
    for record in train(new_state(plan, settings, device, seed=0), data, endless, settings, 0, workers=workers):
        record.loss.item()  # waits for the device
        now = time.perf_counter()
        if record.step > WARM_UP_STEPS:
            times.append(now - started)
        else:
            began = now
        if workers.any(bool(times) and now - began > SECONDS):
            break
        started = now
    return LASTING_SHARE * plan.batch_size / statistics.median(times)


def ways_of_computing(plan: Plan, settings: DiffusionSettings, device: str) -> Iterator[Plan]:
    """The plan in the ways that may be fastest here: as set, or those among which measuring decides.

    Whether bfloat16 pays on a CPU depends on its instructions; a budget in images is kept free of what is measured.
    Compiling takes a minute or two, so only a budget of 20 minutes or more tries it, and only on a GPU: on a CPU, where
    convolutions take most of the time, it was slower. A budget in images tells no time, so there it must be set.
    """
    precisions: list[str] = [settings.precision]
    if settings.precision == "auto":
        open_choice = device == "cpu" and settings.images_seen is None and settings.objective == "edm"
        precisions = ["float32", "bfloat16"] if open_choice else [plan.precision]
    plans = [replace(plan, precision=precision, compiled=settings.compile is True) for precision in precisions]
    yield from plans
    if len(plans) > 1 and not plan.compiled:  # in turn, so that a machine busy for a moment does not choose
        yield from plans
    long = (settings.minutes or DEFAULT_MINUTES) >= MIN_MINUTES_TO_COMPILE
    if settings.compile == "auto" and device == "cuda" and long:
        yield replace(plans[-1], compiled=True)
