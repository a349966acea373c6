"""One training in the study: resumed, logged, saved, interrupted, and ended in time."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.grids import sample_sheet
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.training.checkpoints import restore_latest, save_checkpoint
from diffaug.diffusion.training.pace import Pace
from diffaug.diffusion.training.training import Batches, StepRecord, TrainingState, new_state, train
from diffaug.errors import DiffaugError, Interrupted
from diffaug.files import storage
from diffaug.files.stage_records import finish_stage
from diffaug.runtime.console import duration
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.work import Clock, Work
from diffaug.stages.job import FIT_RUN
from diffaug.stages.signals import stop_requests

LOGGED_POINTS = 200
GRID_COLUMNS = 8
QUICK_GRID, GRID_SHARE = 5.0, 0.05
"""Seconds up to which a grid is drawn with each checkpoint; share of the time that longer ones take."""
CHECKPOINTS, SNAPSHOTS, REPORTS = "checkpoints", "snapshots", "progress"
"""Folders of what a training needs to resume, at any depth in the folder of a generator."""
RESERVED_SHARE = 0.05
"""Share of a deadline left for the last measurement and for writing the generator."""


class Watch(Protocol):
    """Looks at a training after each step, in the main process."""

    def ends_training(self, state: TrainingState, pace: Pace) -> bool:
        """Whether the training is to end now, whatever its pace says."""


class Unwatched:
    """Ends no training early."""

    def ends_training(self, state: TrainingState, pace: Pace) -> bool:
        """Never."""
        return False


class TrainingRun:
    """The training of one network by a plan. Every process has one; only the main one writes.

    Checkpoints and sample grids are kept in the folder of the work; `preview` makes a generator of the network given,
    and a grid has `grid_columns` samples of each class. It begins with `state`, by default that of the plan's network.
    `part` names the network in progress and metrics, if the route trains several.
    """

    def __init__(
        self,
        work: Work,
        data: Batches,
        preview: Callable[[Denoiser], Generator],
        *,
        state: TrainingState | None = None,
        part: str = "",
        grid_columns: int = GRID_COLUMNS,
    ) -> None:
        self.work, self.job, self.folder, self.plan, self.clock = work, work.job, work.folder, work.plan, work.clock
        self.data, self.preview, self.grid_columns = data, preview, grid_columns
        self.part, self.title = part, " ".join(filter(None, (work.title, part)))
        self.group = current()
        self.state = state or new_state(self.plan, self.job.device, self.job.config.seed)
        self._pace = PaceKeeper(self.plan, self.clock)
        self._log_interval = max(1, self.plan.steps // LOGGED_POINTS)
        self._losses: list[Tensor] = []
        self._logged_at = self._saved_at = self._drawn_at = self._drawing = 0.0
        self._began = 0, 0.0

    @property
    def images_seen(self) -> int:
        """Images seen so far."""
        return self.state.step * self.plan.batch_size

    def resume(self) -> None:
        """Takes up the last checkpoint, if there is one."""
        step, notes = self._restore()
        for note in notes:
            self.job.narrator.warn(note)
        if step is not None:
            self.clock.resume_at(self.state.seconds)
            self.job.narrator.say(f"resuming at {self.images_seen} of {self.plan.images_seen} images")

    def train(self, watch: Watch | None, *, finish: bool = False) -> None:
        """Takes the steps of the plan, in the time of the plan, from the present state on; or ends where it is.

        Raises:
            Interrupted: A stop was requested; a checkpoint was saved.
        """
        if self.group.is_main and self.state.step == 0:
            self.save_grid()  # the noise that the later grids begin from; MLflow's slider starts at step 0
        self._logged_at = self._saved_at = time.monotonic()
        self._began = self.state.step, self._saved_at
        ended = stopping = False
        if finish:
            self.state.pace = Pace(self.state.step)
            ended = watch is not None and watch.ends_training(self.state, self.state.pace)
        with stop_requests() as stop_requested:
            for record in self._steps():
                self._keep_pace(record)
                if watch is not None:
                    self._log(record)
                    ended = watch.ends_training(self.state, self.state.pace_of(self.plan))
                stopping = self.group.any(ended or stop_requested())
                if self.group.is_main and not ended:
                    self._save_if_due(stopping)
                if stopping:
                    break
        with self.group.main_first():
            if self.group.is_main and stopping and not ended:
                raise self._interrupted()

    def require_few_skipped(self) -> None:
        """Warns of steps that changed nothing; a DiffaugError if they are more than half."""
        skipped, steps = int(self.state.skipped), self.state.step
        text = f"{skipped} of {steps} steps changed nothing because their gradients were not finite"
        if 2 * skipped > steps:
            fix = f"lower the learning rate: --set diffusion.learning_rate={self.plan.learning_rate / 2:.1g}"
            raise DiffaugError(text, where=self.folder, fix=fix)
        if skipped:
            self.job.narrator.warn(text)

    def save_grid(self) -> None:
        """Draws and logs samples of the averaged weights."""
        began = time.monotonic()
        generator = self.preview(self.state.averaged)
        steps, seed = self.job.config.synthesis.num_inference_steps, self.job.config.seed
        sheet = sample_sheet(generator, columns=self.grid_columns, seed=seed, num_inference_steps=steps)
        file = self.folder / "samples" / f"images-{self.images_seen:09d}.png"
        storage.write_bytes(file, storage.png_bytes(sheet))
        self.job.journal.log_image(FIT_RUN, self._named("samples"), file, step=self.images_seen)
        self._drawn_at = time.monotonic()
        self._drawing = self._drawn_at - began

    def _steps(self) -> Iterator[StepRecord]:
        return train(self.state, self.data, self.plan, self.job.config.seed, group=self.group)

    def _restore(self) -> tuple[int | None, list[str]]:
        return restore_latest(self.folder / CHECKPOINTS, self.state)

    def _checkpoint(self) -> None:
        save_checkpoint(self.folder / CHECKPOINTS, self.state)

    def _grid_is_due(self) -> bool:
        """Grids that take long, as where a large autoencoder decodes on a CPU, get a small share of the time."""
        return self._drawing < QUICK_GRID or self._drawing < GRID_SHARE * (time.monotonic() - self._drawn_at)

    def log_metrics(self, metrics: dict[str, float], images_seen: int) -> None:
        """Logs figures of the training by images seen."""
        named = {self._named(name): value for name, value in metrics.items()}
        self.job.journal.log_metrics(FIT_RUN, named, step=images_seen)

    def _keep_pace(self, record: StepRecord) -> None:
        """Plans the end again, from time to time, the same in all processes."""
        if self.plan.seconds is None or record.step % self._log_interval:
            return
        last = self.group.broadcast(self._pace.last_step(record.step))
        pace = self.state.pace_of(self.plan)
        if last != pace.steps:
            self.state.pace = pace.ending_after(last, record.step)

    def _save_if_due(self, stopping: bool) -> None:
        if stopping or time.monotonic() - self._saved_at >= self.job.config.advanced.checkpoint_seconds:
            if not stopping and self._grid_is_due():
                self.save_grid()
            self.state.seconds = self.clock.seconds
            self._checkpoint()
            self._saved_at = time.monotonic()

    def _log(self, record: StepRecord) -> None:
        self._losses.append(record.loss)
        last = self.state.pace_of(self.plan).steps
        if record.step % self._log_interval and record.step < last:
            return
        loss = float(torch.stack(self._losses).mean())
        now, images = time.monotonic(), len(self._losses) * self.plan.batch_size
        speed = images / max(now - self._logged_at, 1e-9)
        metrics = {
            "loss": loss,
            "learning_rate": record.learning_rate,
            "skipped_steps": float(self.state.skipped),
            "images_per_second": speed,
        }
        self._losses.clear()
        self._logged_at = now
        self.log_metrics(metrics, record.images_seen)
        detail = f"{record.images_seen} images, loss {loss:.3f}"
        if self.work.images_after:
            detail += f", at most {duration(self._seconds_left(record.step, last))} until all is trained"
        self.job.narrator.progress(f"training {self.title}".rstrip(), record.step, last, detail)

    def _seconds_left(self, step: int, last: int) -> float:
        """Until the end of all trainings, at the speed of this run so far."""
        first, began = self._began
        steps = last - step + self.work.images_after / self.plan.batch_size
        return steps * (time.monotonic() - began) / max(1, step - first)

    def _interrupted(self) -> Interrupted:
        study = self.job.study
        finish = shlex.join(["diffaug", "fit", str(study.record.data), "--study", str(study.path), "--finish"])
        what = "end the pilot here and train on all images" if self.work.is_pilot else "keep what was learned so far"
        if self.part:  # other networks may follow, of the pilot or not
            what = f"end the training of {self.title} here and go on with what follows"
        done = f"{self.images_seen} of {self.plan.images_seen} images{f' of {self.title}' if self.title else ''}"
        return Interrupted(
            f"stopped after {done}; a checkpoint was saved",
            where=self.folder,
            fix=f"resume with: {self.job.command}; or {what}: {finish}",
        )

    def _named(self, name: str) -> str:
        return f"{self.title.replace(' ', '/')}/{name}" if self.title else name


def finish_training(folder: Path) -> None:
    """Commits the folder of a generator, and only then removes what its training would need to resume."""
    finish_stage(folder, without=(CHECKPOINTS, SNAPSHOTS, REPORTS))
    discard_progress(folder)


def discard_progress(folder: Path) -> None:
    """Removes what the training of a finished generator would need to resume, if a kill left it."""
    for name in (CHECKPOINTS, SNAPSHOTS, REPORTS):
        for one in list(folder.rglob(name)):
            storage.discard_directory(one)


class PaceKeeper:
    """Finds the last step that a training reaches before its deadline, from the speed measured on the way.

    What the machine does besides, checks and checkpoints count. The mean of the speeds since the last call and since
    the first one follows a machine that becomes slower, and forgets a moment's pause.
    """

    def __init__(self, plan: Plan, clock: Clock) -> None:
        self._plan, self._clock = plan, clock
        self._first: tuple[int, float] | None = None
        self._last = (0, 0.0)

    def last_step(self, step: int) -> int:
        """The last step as of now, at most that of the plan; the plan has a deadline."""
        now = self._clock.seconds
        if self._first is None:
            self._first = self._last = (step, now)
        assert self._plan.seconds is not None
        left = (1 - RESERVED_SHARE) * self._plan.seconds - now
        if left <= 0:
            return step
        since = [(step - begin, now - then) for begin, then in (self._first, self._last) if step > begin]
        self._last = (step, now)
        if not since:
            return self._plan.steps
        seconds_per_step = sum(seconds / steps for steps, seconds in since) / len(since)
        return min(self._plan.steps, step + int(left / max(seconds_per_step, 1e-9)))
