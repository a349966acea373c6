"""The stage that trains the generator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffaug.data.catalog import TABLE, Catalog
from diffaug.data.images import LabeledImages, hash_of
from diffaug.diffusion.generator.files import HELD_OUT, ROWS_COLUMNS, TRAINED, write_generator
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.grids import sample_sheet
from diffaug.diffusion.planning.planning import Plan, make_plan, set_length, with_more_steps
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.checkpoints import restore_latest, save_checkpoint
from diffaug.diffusion.training.holdout import Holdout, hold_out
from diffaug.diffusion.training.measuring import KEPT_SPEED, WORTHWHILE, ways_of_computing
from diffaug.diffusion.training.monitor import schedule_of
from diffaug.diffusion.training.training import StepRecord, new_state, train
from diffaug.errors import DiffaugError, Interrupted, UsageError
from diffaug.files import storage
from diffaug.runtime.console import duration
from diffaug.runtime.distributed import Workers, current
from diffaug.stages.catalog import show_catalog
from diffaug.stages.fitting.monitoring import Watching
from diffaug.stages.job import Job
from diffaug.stages.launch import Training, measured, taking_part
from diffaug.stages.signals import stop_requests
from diffaug.study import StageState, begin_stage, finish_stage, stage_settings

RUN, NEWEST = "fit", "newest"
LOGGED_POINTS = 200
GRID_COLUMNS = 8


def fit_generator(job: Job, catalog: Catalog) -> Generator:
    """Trains the study's generator, goes on with a training that was stopped, or loads the finished one.

    Raises:
        Interrupted: A stop was asked for; a checkpoint was saved.
        UsageError: The study's generator was begun with other settings.
    """
    folder, settings = job.study.generator, generator_settings(job)
    state = begin_stage(folder, settings, {"catalog": catalog.fingerprint}, overwrite=job.overwrite)
    if state == "finished":
        job.narrator.say(f"generator: finished already, kept ({folder})")
        _log_finished(job)
        return Generator.load(folder, device=job.device)
    show_catalog(job, catalog)
    images = catalog.images("train")
    plan = plan_training(job, images)
    _Fit(job, catalog, plan).run(state)
    finish_stage(folder)
    _log_finished(job)
    job.narrator.say(f"generator written to {folder}")
    return Generator.load(folder, device=job.device)


def generator_settings(job: Job) -> dict[str, Any]:
    """The settings that the trained weights depend on."""
    excluded = {"checkpoint_seconds", "grid_seconds"}
    return {"seed": job.config.seed, **job.config.diffusion.model_dump(mode="json", exclude=excluded)}


def plan_training(job: Job, images: LabeledImages, *, measure: bool = False) -> Plan:
    """The plan: the one that a training with these settings began with, else a new one at the speed measured now.

    Args:
        job: The job.
        images: The training images.
        measure: Measure the speed also where the length is set in images, to say how long it takes; nothing that is
            decided depends on it.
    """
    file = job.study.generator / "plan.json"
    if file.is_file() and stage_settings(job.study.generator) == generator_settings(job):
        plan = Plan.from_dict(storage.read_json(file))
        if plan.device != job.device:
            job.narrator.warn(f"this training was planned for {plan.device} and goes on, as planned, on {job.device}")
        _say_plan(job, plan)
        return plan
    settings, device = job.config.diffusion, job.device
    plan = make_plan(images, settings, device)
    decides = settings.images_seen is None or settings.compile is True
    if decides or measure:
        job.narrator.say("measuring training speed ...")
    if decides:
        plan = _fastest(job, images, plan, ways_of_computing(plan, settings, device))
    while (smaller := with_more_steps(plan, settings, device, smallest=current().size)) != plan:
        if plan.images_per_second:
            smaller = _fastest(job, images, replace(smaller, images_per_second=0.0), [smaller])
            if smaller.images_per_second < KEPT_SPEED * plan.images_per_second:
                break
        plan = smaller
    if measure and not decides:
        plan = _fastest(job, images, plan, [plan])
    plan = set_length(plan, settings, len(images))
    _say_plan(job, plan)
    return plan


def _fastest(job: Job, images: LabeledImages, plan: Plan, ways: Iterable[Plan]) -> Plan:
    """The plan in the way of computing that is measured to be the fastest, with its speed."""
    settings, device = job.config.diffusion, job.device
    data = TrainingData.of(images, settings, device)
    speeds: dict[Plan, float] = {}
    for way in ways:
        training = Training(images, way, settings, device, seed=0)
        with taking_part("measure", training) as workers:
            speed, failure = measured(workers, data, training)
        if failure is not None:
            if settings.compile is True:
                raise UsageError(f"can't compile here: {failure}", fix="--set diffusion.compile=false") from failure
            job.narrator.warn(f"not compiled: {str(failure).splitlines()[0]}")
        speeds[way] = max(speed, speeds.get(way, 0.0))
    best = plan
    for way, speed in speeds.items():
        if speed > WORTHWHILE * best.images_per_second:
            best = replace(way, images_per_second=speed)
    return best


def _say_plan(job: Job, plan: Plan) -> None:
    job.narrator.say("plan:")
    for reason in plan.reasons:
        job.narrator.say(f"  {reason}")
    if current().size > 1:
        job.narrator.say(f"  {current().size} processes share each batch")


def _log_finished(job: Job) -> None:
    """Records the finished generator as the run's model, once, and ends the run."""
    if job.journal.status(RUN) == "open":
        name = job.config.tracking.model or f"diffaug-{job.study.name}"
        job.journal.log_model(RUN, job.study.generator, "generator", registered_name=name, alias=NEWEST)
        job.journal.end_run(RUN)


class _Fit:
    """One training at work: steps, checkpoints, grids, log."""

    def __init__(self, job: Job, catalog: Catalog, plan: Plan) -> None:
        self.job, self.plan = job, plan
        self.folder = job.study.generator
        self.settings = job.config.diffusion
        schedule = schedule_of(plan, self.settings, len(catalog.items("train")))
        limit = schedule.pairs if len(schedule.steps) > 1 else 0  # one look, at the end, can't end the training
        holdout = hold_out(catalog, fraction=self.settings.holdout, limit=limit, seed=job.config.seed)
        self.images = holdout.trained
        self.rows = _rows(catalog, holdout)
        self.train_digest = hash_of(catalog.images("train"))
        self.data = TrainingData.of(self.images, self.settings, job.device, plan.images)
        if not self.data.is_on_device:
            job.narrator.say("the images take more than half of the GPU's free memory: each batch is copied to it")
        self.watching = Watching(job, RUN, plan, schedule=schedule, holdout=holdout, data=self.data)
        self.state = new_state(plan, self.settings, job.device, job.config.seed)
        self.interval = max(1, plan.steps // LOGGED_POINTS)
        self.losses: list[Tensor] = []
        self.logged_at = 0.0

    def run(self, stage: StageState) -> None:
        """Trains to the end of the plan and writes the artifact's files."""
        storage.write_json(self.folder / "plan.json", self.plan.to_dict())
        self._resume()
        self._start_log(stage)
        if self.state.step == 0:
            self._save_grid()  # the noise that the later grids begin from; MLflow's slider starts at step 0
        began = self.logged_at = time.monotonic()
        training = Training(self.images, self.plan, self.settings, self.job.device, self.job.config.seed)
        with stop_requests() as stop_requested, taking_part("train", training, self.state) as workers:
            self._train(workers, stop_requested)
        self._judge_skipped()
        self._save_grid()
        self._write(time.monotonic() - began)
        for file in ("config.json", "README.md", "plan.json"):
            self.job.journal.log_artifact(RUN, self.folder / file)

    def _resume(self) -> None:
        step, notes = restore_latest(self.folder / "checkpoints", self.state)
        for note in notes:
            self.job.narrator.warn(note)
        if step is not None:
            self.job.narrator.say(f"resuming at {step * self.plan.batch_size} of {self.plan.images} images")

    def _train(self, workers: Workers, stop_requested: Callable[[], bool]) -> None:
        seed = self.job.config.seed
        checkpoint_at = time.monotonic() + self.settings.checkpoint_seconds
        grid_at = time.monotonic() + self.settings.grid_seconds
        for record in train(self.state, self.data, self.plan, self.settings, seed, workers=workers):
            self._log(record)
            ended = self.watching.ends_training(self.state)
            stopping = workers.any(ended or stop_requested())
            if ended:
                return
            now = time.monotonic()
            if now >= grid_at:
                self._save_grid()
                grid_at = time.monotonic() + self.settings.grid_seconds
            if stopping or now >= checkpoint_at:
                save_checkpoint(self.folder / "checkpoints", self.state)
                checkpoint_at = time.monotonic() + self.settings.checkpoint_seconds
            if stopping:
                raise Interrupted(
                    f"stopped after {record.images_seen} of {self.plan.images} images; a checkpoint was saved",
                    where=self.folder,
                    fix=f"go on with: {self.job.command}",
                )

    def _log(self, record: StepRecord) -> None:
        self.losses.append(record.loss)
        if record.step % self.interval and record.step != self.plan.steps:
            return
        loss = float(torch.stack(self.losses).mean())
        now, images = time.monotonic(), len(self.losses) * self.plan.batch_size
        metrics = {
            "loss": loss,
            "learning_rate": record.learning_rate,
            "skipped_steps": float(self.state.skipped),
            "images_per_second": images / max(now - self.logged_at, 1e-9),
        }
        self.losses.clear()
        self.logged_at = now
        self.job.journal.log_metrics(RUN, metrics, step=record.images_seen)
        detail = f"{record.images_seen} images, loss {loss:.3f}"
        self.job.narrator.progress("training", record.step, self.plan.steps, detail)

    def _start_log(self, stage: StageState) -> None:
        network = self.plan.network
        self.job.start_run(
            RUN,
            stage,
            name="fit",
            kind="fit",
            params={
                "images": self.plan.images,
                "batch_size": self.plan.batch_size,
                "learning_rate": self.plan.learning_rate,
                "base_channels": network.base_channels,
                "image_size": "x".join(map(str, network.image_size)),
                "train_images": len(self.images),
                "held_out_images": self.watching.held,
                "classes": network.num_classes,
            },
        )
        table, digest = self.job.study.catalog / TABLE, self.train_digest  # with those held out, as classifiers name it
        self.job.journal.log_dataset(RUN, table, "train", "training", digest=digest)

    def _save_grid(self) -> None:
        seen = self.state.step * self.plan.batch_size
        sheet = sample_sheet(
            self._generator(),
            columns=GRID_COLUMNS,
            seed=self.job.config.seed,
            num_inference_steps=self.job.config.synthesis.num_inference_steps,
        )
        file = self.folder / "samples" / f"images-{seen:09d}.png"
        storage.write_bytes(file, storage.png_bytes(sheet))
        self.job.journal.log_image(RUN, "samples", file, step=seen)

    def _generator(self) -> Generator:
        return Generator(self.state.averaged, self.data.normalization, self.images.classes, weights_sha256="")

    def _judge_skipped(self) -> None:
        """Tells how many steps changed nothing; more than half are an error."""
        skipped, steps = int(self.state.skipped), self.state.step
        text = f"{skipped} of {steps} steps changed nothing, since their gradients were not finite"
        if 2 * skipped > steps:
            rate = f"--set diffusion.learning_rate={self.plan.learning_rate / 2:.1g}"
            raise DiffaugError(text, where=self.folder, fix=f"lower the learning rate: {rate}")
        if skipped:
            self.job.narrator.warn(text)

    def _write(self, seconds: float) -> None:
        training = {
            "images seen": min(self.plan.images, self.state.step * self.plan.batch_size),
            **self.watching.facts(self.state),
            "seconds in the last run": round(seconds),
            "steps skipped": int(self.state.skipped),
            "seed": self.job.config.seed,
            **self.job.environment,
        }
        write_generator(
            self.folder,
            network=self.plan.network,
            weights=self.state.averaged.state_dict(),
            guide=self.state.guide,
            normalization=self.data.normalization,
            counts=self.images.counts_by_name,
            training=training,
            rows=self.rows,
        )
        storage.discard_directory(self.folder / "checkpoints")
        self.job.narrator.say(f"trained in {duration(seconds)}")


def _rows(catalog: Catalog, holdout: Holdout) -> pd.DataFrame:
    """What the generator's folder says of every training image."""
    images = catalog.table.rename(columns={"path": "id"})
    images = images[images["id"].isin(holdout.trained.ids + holdout.held.ids)]
    part = np.where(images["id"].isin(holdout.held.ids), HELD_OUT, TRAINED)
    return images.assign(part=part)[list(ROWS_COLUMNS)]
