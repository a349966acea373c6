"""The pilot: a generator trained without a part of the images, which chooses how long the generator is trained.

It is a study of its own inside the study. Its averaged weights are measured at growing lengths and kept, until the
length is chosen; then those of this length are its generator.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from safetensors.torch import load_file, save

from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.files import GeneratorRecord, write_generator
from diffaug.diffusion.planning.length import (
    GROWTH,
    LengthChoice,
    Measurement,
    is_enough,
    length_choice,
    measured_steps,
    summarized,
)
from diffaug.diffusion.planning.planning import Plan, plan_of_pilot
from diffaug.diffusion.training.batches import TrainingData, hold_out
from diffaug.diffusion.training.monitor import MemorizationMonitor
from diffaug.diffusion.training.pace import Pace
from diffaug.diffusion.training.training import TrainingState, Weights
from diffaug.files import storage
from diffaug.files.records import read_record, write_record
from diffaug.files.stage_records import begin_stage, finish_stage
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.judged import in_turn_by_class, judged_images
from diffaug.stages.fitting.monitoring import figures_of
from diffaug.stages.fitting.plan import generator_settings
from diffaug.stages.fitting.running import CHECKPOINTS, Clock, TrainingRun
from diffaug.stages.fitting.sources import begin_from_earlier, seen_rows, stage_inputs, unlabeled_part
from diffaug.stages.job import Job
from diffaug.study import PILOT, Study, plan_study

LENGTH, SNAPSHOTS, WEIGHTS, MEASURED = "length.json", "snapshots", "weights.safetensors", "measured.json"
MOST_MEASURED = 512
"""Judged images that errors are measured on."""
_CHOICE, _MEASUREMENT = TypeAdapter(LengthChoice), TypeAdapter(Measurement)


def pilot_study(study: Study) -> Study:
    """The study of the pilot, inside a study; it has begun if there is a pilot."""
    return plan_study(study.path / PILOT, study.record.data, study.record.class_to_idx)


def train_pilot(job: Job, catalog: Catalog, plan: Plan, clock: Clock, *, finish: bool = False) -> LengthChoice:
    """Trains the pilot of a plan, resumes it, or reads the finished one; returns the length that it chose.

    All processes take part and get the same answer. With `finish` a pilot that was begun ends where it is.

    Raises:
        Interrupted: A stop was requested; a checkpoint was saved.
    """
    group, judged = current(), judged_images(catalog, job.config.seed)
    rest, study = catalog.without(judged), pilot_study(job.study)
    folder = study.generator
    settings, inputs = generator_settings(job.config), {**stage_inputs(job, catalog), "catalog": rest.fingerprint}
    with group.main_first():
        if group.is_main:
            study.begin()
        stage = begin_stage(folder, settings, inputs, overwrite=job.overwrite)
    if stage != "finished":
        pilot = _Pilot(job, rest, catalog.images("train").select(np.flatnonzero(judged)), plan, clock)
        pilot.run.resume()
        pilot.restore()
        was_ended = finish and pilot.run.state.step > 0
        pilot.run.train(pilot if group.is_main else None, finish=was_ended)
        with group.main_first():
            if group.is_main:
                pilot.finish(was_ended=was_ended)
                finish_stage(folder)
    return read_record(folder / LENGTH, _CHOICE)


class _Pilot:
    """The training of the pilot, and what was measured on the way; the latter in the main process only."""

    def __init__(self, job: Job, catalog: Catalog, judged: LabeledImages, plan: Plan, clock: Clock) -> None:
        assert plan.pilot is not None
        self.job, self.catalog, self.clock = job, catalog, clock
        self.plan, self.folder = plan_of_pilot(plan), pilot_study(job.study).generator
        held = judged.select(in_turn_by_class(judged.labels, job.config.seed)[:MOST_MEASURED])
        everything = hold_out(catalog, fraction=0.0, seed=job.config.seed, unlabeled=plan.unlabeled is not None)
        self.holdout = replace(everything, held=held)
        trained = self.holdout.trained
        unlabeled = unlabeled_part(job, plan, self.holdout, self.folder)
        self.data = TrainingData.of(trained, job.device, unlabeled=unlabeled)
        self.run = TrainingRun(
            job,
            self.folder,
            self.plan,
            self.data,
            classes=trained.classes,
            clock=clock,
            title=PILOT,
            images_after=plan.images_seen,
        )
        begin_from_earlier(plan, self.run.state, catalog.classes, self.folder)
        self.steps = measured_steps(plan.pilot, plan.batch_size)
        self.measured: list[Measurement] = []
        self._monitor: MemorizationMonitor | None = None

    def restore(self) -> None:
        """Reads what was measured up to the present step."""
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
            storage.write_bytes(target / WEIGHTS, save(_on_cpu(state.averaged.state_dict())))
            write_record(target / MEASURED, _MEASUREMENT, measurement)
        self.measured.append(measurement)
        found = summarized(self.measured, self.holdout.held.labels)
        figures = {"held_out_error": found[-1].error, **figures_of(check, self.holdout.trained.classes)}
        self.run.log_metrics(figures, images_seen)
        return is_enough(found)

    @property
    def monitor(self) -> MemorizationMonitor:
        """Prepared when it is first needed."""
        if self._monitor is None:
            self._monitor = MemorizationMonitor.of(
                self.data,
                self.holdout,
                len(self.holdout.held),
                self.job.config.seed,
                mirrored=self.plan.horizontal_flip,
                precision=self.plan.precision,
            )
        return self._monitor

    def finish(self, *, was_ended: bool) -> None:
        """Chooses the length, and writes the weights of this length as the pilot's generator."""
        self.run.require_few_skipped()
        found = summarized(self.measured, self.holdout.held.labels)
        choice = length_choice(found, len(self.holdout.trained), self.clock.seconds, was_ended=was_ended)
        one = choice.measured[choice.chosen]
        guide = self.run.state.guide
        record = GeneratorRecord(
            self.plan.network,
            self.data.normalization,
            self.holdout.trained.counts_by_name,
            {
                "purpose": "a pilot, trained without the images that choices are made on",
                "images seen": one.images_seen,
                "seed": self.job.config.seed,
                **self.job.environment,
            },
            guide=guide is not None,
            dataset_class_to_idx=self.job.study.record.class_to_idx,
            intensity=self.catalog.intensity,
            boxes=self.data.class_boxes(len(self.holdout.trained.classes)),
            unlabeled=self.plan.unlabeled,
            initial=self.plan.initial,
        )
        rows = seen_rows(self.catalog, self.holdout, self.plan, self.folder)
        weights = load_file(self._snapshot(one.images_seen) / WEIGHTS)
        write_generator(self.folder, record, weights, guide, rows)
        write_record(self.folder / LENGTH, _CHOICE, choice)
        storage.discard_directory(self.folder / CHECKPOINTS)
        storage.discard_directory(self.folder / SNAPSHOTS)

    def _snapshot(self, images_seen: int) -> Path:
        return self.folder / SNAPSHOTS / f"images-{images_seen:09d}"


def _on_cpu(weights: Weights) -> Weights:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
