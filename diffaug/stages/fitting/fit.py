"""The stage that trains the generator: steps, checkpoints, sample grids, log."""

import time

import numpy as np
import torch
from torch import Tensor

from diffaug.data.catalog import TABLE, Catalog
from diffaug.data.images import hash_of
from diffaug.diffusion.generator.files import HELD_OUT, TRAINED, GeneratorRecord, write_generator
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.grids import sample_sheet
from diffaug.diffusion.planning.planning import PLAN, Plan
from diffaug.diffusion.training.batches import TrainingData, hold_out
from diffaug.diffusion.training.checkpoints import restore_latest, save_checkpoint
from diffaug.diffusion.training.monitor import CheckSchedule
from diffaug.diffusion.training.training import StepRecord, new_state, train
from diffaug.errors import DiffaugError, Interrupted
from diffaug.files import storage
from diffaug.files.stage_records import StageState, begin_stage, finish_stage, stage_state
from diffaug.runtime.console import duration
from diffaug.runtime.distributed import current
from diffaug.stages.catalog import show_catalog
from diffaug.stages.fitting.monitoring import MonitorCallback
from diffaug.stages.fitting.plan import PLAN_FILE, generator_settings, plan_training
from diffaug.stages.job import FIT_RUN, Job
from diffaug.stages.signals import stop_requests

LOGGED_POINTS = 200
GRID_COLUMNS = 8
NEWEST = "newest"


def fit_generator(job: Job, catalog: Catalog) -> Generator:
    """Trains the study's generator, resumes a training that was stopped, or loads the finished one.

    Raises:
        Interrupted: A stop was requested; a checkpoint was saved.
        UsageError: The study's generator was begun with other settings.
    """
    group, folder = current(), job.study.generator
    inputs = {"catalog": catalog.fingerprint}
    settings = generator_settings(job.config)
    overwrite = job.overwrite or not job.study.keeps_something  # an attempt that kept nothing binds nobody
    with group.main_first():
        stage = stage_state(folder, settings, inputs, overwrite=overwrite)
    if stage == "finished":
        with group.main_first():
            job.accept()
        job.narrator.say(f"generator: already finished, kept ({folder})")
    else:
        show_catalog(job, catalog)
        plan = plan_training(job, catalog.images("train"), renew=stage == "new")
        with group.main_first():  # from here on, the study has something to keep
            job.accept()
            stage = begin_stage(folder, settings, inputs, overwrite=overwrite)
        run = TrainingRun(job, catalog, plan)
        run.train(stage)
        with group.main_first():
            if group.is_main:
                run.finish()
                finish_stage(folder)
                job.narrator.say(f"generator written to {folder}")
    if group.is_main:
        _finish_log(job)
    return Generator.load(folder, device=job.device)


class TrainingRun:
    """One training in the study. Every process has one; only the main one writes."""

    def __init__(self, job: Job, catalog: Catalog, plan: Plan) -> None:
        self.job, self.catalog, self.plan, self.group = job, catalog, plan, current()
        self.folder, self.seed = job.study.generator, job.config.seed
        schedule = CheckSchedule.of(plan, len(catalog.rows("train")))
        # A single check, at the end, can't end the training, so nothing is held out for it.
        fraction = job.config.diffusion.holdout if len(schedule.steps) > 1 else 0.0
        self.holdout = hold_out(catalog, fraction=fraction, seed=self.seed)
        self.data = TrainingData.of(self.holdout.trained, job.device, plan.images_seen)
        if not self.data.is_on_device:
            job.narrator.say("the images take more than half of the GPU's free memory; batches are copied to it")
        self.monitor = MonitorCallback(job, plan, schedule, self.holdout, self.data) if self.group.is_main else None
        self.state = new_state(plan, job.device, self.seed)
        self.log_interval = max(1, plan.steps // LOGGED_POINTS)
        self.losses: list[Tensor] = []
        self.began = self.logged_at = self.saved_at = 0.0

    def train(self, stage: StageState) -> None:
        """Takes the steps of the plan, from the last checkpoint on; Interrupted if a stop was requested."""
        self._resume()
        if self.group.is_main:
            storage.write_json(self.folder / PLAN_FILE, PLAN.dump_python(self.plan, mode="json"))
            self._start_log(stage)
            if self.state.step == 0:
                self._save_grid()  # the noise that the later grids begin from; MLflow's slider starts at step 0
        self.began = self.logged_at = self.saved_at = time.monotonic()
        copies = stopping = False
        with stop_requests() as stop_requested:
            for record in train(self.state, self.data, self.plan, self.seed, group=self.group):
                if self.monitor is not None:
                    self._log(record)
                    copies = self.monitor.ends_training(self.state)
                stopping = self.group.any(copies or stop_requested())
                if self.group.is_main and not copies:
                    self._save_if_due(stopping)
                if stopping:
                    break
        with self.group.main_first():
            if self.group.is_main and stopping and not copies:
                done = f"{self._images(self.state.step)} of {self.plan.images_seen} images"
                fix = f"resume with: {self.job.command}"
                raise Interrupted(f"stopped after {done}; a checkpoint was saved", where=self.folder, fix=fix)

    def finish(self) -> None:
        """Writes the generator."""
        seconds = time.monotonic() - self.began
        self._require_few_skipped()
        self._save_grid()
        assert self.monitor is not None
        training: dict[str, str | int] = {
            "images seen": min(self.plan.images_seen, self._images(self.state.step)),
            **self.monitor.facts(self.state),
            "seconds in the last run": round(seconds),
            "steps skipped": int(self.state.skipped),
            "seed": self.seed,
            **self.job.environment,
        }
        counts, guide = self.holdout.trained.counts_by_name, self.state.guide
        record = GeneratorRecord(
            self.plan.network,
            self.data.normalization,
            counts,
            training,
            guide=guide is not None,
            dataset_class_to_idx=self.job.study.record.class_to_idx,
            intensity=self.catalog.intensity,
            boxes=self.data.class_boxes(len(counts)),
        )
        rows, held = self.catalog.table.rename(columns={"path": "id"}), self.holdout.held.ids
        rows = rows[rows["id"].isin(self.holdout.trained.ids + held)]
        rows = rows.assign(part=np.where(rows["id"].isin(held), HELD_OUT, TRAINED))
        write_generator(self.folder, record, self.state.averaged.state_dict(), guide, rows)
        storage.discard_directory(self.folder / "checkpoints")
        self.job.narrator.say(f"trained in {duration(seconds)}")

    def _require_few_skipped(self) -> None:
        """Warns of steps that changed nothing; a DiffaugError if they are more than half."""
        skipped, steps = int(self.state.skipped), self.state.step
        text = f"{skipped} of {steps} steps changed nothing because their gradients were not finite"
        if 2 * skipped > steps:
            fix = f"lower the learning rate: --set diffusion.learning_rate={self.plan.learning_rate / 2:.1g}"
            raise DiffaugError(text, where=self.folder, fix=fix)
        if skipped:
            self.job.narrator.warn(text)

    def _resume(self) -> None:
        step, notes = restore_latest(self.folder / "checkpoints", self.state)
        for note in notes:
            self.job.narrator.warn(note)
        if step is not None:
            self.job.narrator.say(f"resuming at {self._images(step)} of {self.plan.images_seen} images")

    def _save_if_due(self, stopping: bool) -> None:
        if stopping or time.monotonic() - self.saved_at >= self.job.config.advanced.checkpoint_seconds:
            if not stopping:
                self._save_grid()
            save_checkpoint(self.folder / "checkpoints", self.state)
            self.saved_at = time.monotonic()

    def _log(self, record: StepRecord) -> None:
        self.losses.append(record.loss)
        if record.step % self.log_interval and record.step != self.plan.steps:
            return
        loss = float(torch.stack(self.losses).mean())
        now, images = time.monotonic(), self._images(len(self.losses))
        metrics = {
            "loss": loss,
            "learning_rate": record.learning_rate,
            "skipped_steps": float(self.state.skipped),
            "images_per_second": images / max(now - self.logged_at, 1e-9),
        }
        self.losses.clear()
        self.logged_at = now
        self.job.journal.log_metrics(FIT_RUN, metrics, step=record.images_seen)
        detail = f"{record.images_seen} images, loss {loss:.3f}"
        self.job.narrator.progress("training", record.step, self.plan.steps, detail)

    def _start_log(self, stage: StageState) -> None:
        network = self.plan.network
        params = {
            "images_seen": self.plan.images_seen,
            "batch_size": self.plan.batch_size,
            "learning_rate": self.plan.learning_rate,
            "base_channels": network.base_channels,
            "image_size": "x".join(map(str, network.image_size)),
            "train_images": len(self.holdout.trained),
            "held_out_images": len(self.holdout.held),
            "classes": network.num_classes,
        }
        self.job.start_run(FIT_RUN, stage, name="fit", kind="fit", params=params)
        digest = hash_of(self.catalog.images("train"))  # with those held out, as classifiers name it
        self.job.journal.log_dataset(FIT_RUN, self.job.study.catalog / TABLE, "train", "training", digest=digest)

    def _save_grid(self) -> None:
        seen = self._images(self.state.step)
        classes, normalization = self.holdout.trained.classes, self.data.normalization
        boxes = self.data.class_boxes(len(classes))
        generator = Generator(self.state.averaged, normalization, classes, weights_sha256="", boxes=boxes)
        steps = self.job.config.synthesis.num_inference_steps
        sheet = sample_sheet(generator, columns=GRID_COLUMNS, seed=self.seed, num_inference_steps=steps)
        file = self.folder / "samples" / f"images-{seen:09d}.png"
        storage.write_bytes(file, storage.png_bytes(sheet))
        self.job.journal.log_image(FIT_RUN, "samples", file, step=seen)

    def _images(self, steps: int) -> int:
        return steps * self.plan.batch_size


def _finish_log(job: Job) -> None:
    """Logs the finished generator as the run's model, once, and ends the run."""
    if job.journal.status(FIT_RUN) == "open":
        for file in ("config.json", "README.md", PLAN_FILE):
            job.journal.log_artifact(FIT_RUN, job.study.generator / file)
        name = job.config.tracking.model or f"diffaug-{job.study.name}"
        job.journal.log_model(FIT_RUN, job.study.generator, "generator", registered_name=name, alias=NEWEST)
        job.journal.end_run(FIT_RUN)
