"""The training of a pilot: its averaged weights are measured at growing lengths and kept, until one is chosen.

Then those of this length are its generator.
"""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import TypeAdapter
from safetensors.torch import load_file, save

from diffaug.diffusion.planning.length import (
    GROWTH,
    LengthChoice,
    Measurement,
    PilotPlan,
    is_enough,
    length_choice,
    measured_steps,
    summarized,
)
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.monitor import MemorizationMonitor
from diffaug.diffusion.training.pace import Pace
from diffaug.diffusion.training.training import TrainingState
from diffaug.files import storage
from diffaug.files.records import read_record, write_record
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.monitoring import figures_of
from diffaug.stages.fitting.networks import TrainedNetwork
from diffaug.stages.fitting.running import SNAPSHOTS, TrainingRun
from diffaug.stages.fitting.work import Work

LENGTH, WEIGHTS, MEASURED = "length.json", "weights.safetensors", "measured.json"
CHOICE, _MEASUREMENT = TypeAdapter(LengthChoice), TypeAdapter(Measurement)


def train_measured(work: Work, run: TrainingRun, data: TrainingData) -> TrainedNetwork | None:
    """Trains until the length is chosen, and writes it; see `train_network`."""
    run.resume()
    lengths = _MeasuredLengths(work, run, data)
    was_ended = work.finish and run.state.step > 0
    run.train(lengths if current().is_main else None, finish=was_ended)
    return lengths.finish(was_ended=was_ended) if current().is_main else None


class _MeasuredLengths:
    """What was measured on the way, up to the present step; in the main process only."""

    def __init__(self, work: Work, run: TrainingRun, data: TrainingData) -> None:
        self.work, self.run, self.data, self.plan, self.folder = work, run, data, work.plan, work.folder
        judged = PilotPlan(self.plan.images_seen, len(work.holdout.trained), len(work.holdout.held))
        self.steps = measured_steps(judged, self.plan.batch_size)
        self.measured: list[Measurement] = []
        self._monitor: MemorizationMonitor | None = None
        for folder in sorted((self.folder / SNAPSHOTS).glob("images-*")):
            if storage.committed_metadata(folder, verify=True) is not None:
                measurement = read_record(folder / MEASURED, _MEASUREMENT)
                if measurement.images_seen <= self.run.images_seen:
                    self.measured.append(measurement)

    def ends_training(self, state: TrainingState, pace: Pace) -> bool:
        """Measures the averaged weights if it is time to; True once a longer training would choose no other length."""
        images_seen, before = state.step * self.plan.batch_size, [one.images_seen for one in self.measured]
        ends_early = state.step >= pace.steps and images_seen >= math.sqrt(GROWTH) * max(before, default=0)
        if (state.step not in self.steps and not ends_early) or images_seen in before:
            return False
        check = self.monitor.check(state.averaged, state.step)
        measurement = Measurement(images_seen, check.held_errors, check.copies, check.copying)
        with storage.new_directory(self._snapshot(images_seen), {"images_seen": images_seen}) as target:
            storage.write_bytes(
                target / WEIGHTS,
                save(
                    {name: tensor.detach().cpu().contiguous() for name, tensor in state.averaged.state_dict().items()}
                ),
            )
            write_record(target / MEASURED, _MEASUREMENT, measurement)
        self.measured.append(measurement)
        found = summarized(self.measured, self.work.holdout.held.labels)
        gaps = figures_of(check, self.work.classes, self.plan.network.noise_scale)
        figures = {"held_out_error": found[-1].error, **gaps}
        self.run.log_metrics(figures, images_seen)
        return is_enough(found)

    @property
    def monitor(self) -> MemorizationMonitor:
        """Prepared when it is first needed."""
        if self._monitor is None:
            self._monitor = MemorizationMonitor.of(
                self.data,
                self.work.holdout,
                len(self.work.holdout.held),
                self.work.job.config.seed,
                mirrored=self.plan.horizontal_flip,
                precision=self.plan.precision,
                noise_scale=self.plan.network.noise_scale,
            )
        return self._monitor

    def finish(self, *, was_ended: bool) -> TrainedNetwork:
        """Chooses the length and writes it; returns the network of this length."""
        self.run.require_few_skipped()
        found = summarized(self.measured, self.work.holdout.held.labels)
        seconds = self.work.clock.seconds
        choice = length_choice(found, len(self.work.holdout.trained), seconds, was_ended=was_ended)
        one = choice.measured[choice.chosen]
        write_record(self.folder / LENGTH, CHOICE, choice)
        facts: dict[str, str | int] = {
            "purpose": "a pilot, trained without the images that choices are made on",
            "images seen": one.images_seen,
        }
        return TrainedNetwork(load_file(self._snapshot(one.images_seen) / WEIGHTS), self.run.state.guide, facts)

    def _snapshot(self, images_seen: int) -> Path:
        return self.folder / SNAPSHOTS / f"images-{images_seen:09d}"
