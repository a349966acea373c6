"""Trains the two networks of a cascade, one after the other, each resumable.

The folder of the work gets `base/` and `upscaler/`, each with the files of a network. What the base's training found
out is kept beside them until both are done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

from pydantic import TypeAdapter

from diffaug.diffusion.cascade.crops import Crops
from diffaug.diffusion.cascade.files import BASE, UPSCALER, UpscalerRecord, read_upscaler_record, write_scale
from diffaug.diffusion.cascade.generator import CascadeGenerator, reduced_boxes
from diffaug.diffusion.cascade.planning import LEAST_STEPS, plan_of_upscaler
from diffaug.diffusion.cascade.reducing import Reduction
from diffaug.diffusion.cascade.upscaler import PLAIN, Level, Upscaler
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.network_files import read_network, write_network
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.training.batches import TrainingData
from diffaug.files import storage
from diffaug.files.records import read_record, read_signed_record, write_record, write_signed_record
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.measured_lengths import CHOICE, LENGTH
from diffaug.stages.fitting.networks import CopyReport, TrainedNetwork, pixel_preview, write_description
from diffaug.stages.fitting.routes.view_levels import USUAL_LEVEL, choose_view_level, trusted_level
from diffaug.stages.fitting.running import REPORTS, TrainingRun, Unwatched
from diffaug.stages.fitting.sources import EARLIER_ROWS
from diffaug.stages.fitting.training import train_network
from diffaug.stages.fitting.work import Work
from diffaug.study import PILOT

BASE_REPORT = "base.json"
GRID_COLUMNS = 3
"""Full images take long to sample, and a grid appears with each checkpoint."""


@dataclass(frozen=True)
class BaseReport:
    """What the training of the base left besides its network: see `TrainedNetwork`; and the time on the clock."""

    facts: dict[str, str | int]
    copies: CopyReport
    seconds: float


_BASE_REPORT = TypeAdapter(BaseReport)


def train_cascade(work: Work) -> None:
    """Trains base and upscaler, and writes the generator. See `Route.train`.

    With `work.finish` the network in progress ends where it is; an upscaler that has not begun is trained.
    """
    _train_base(work)
    _UpscalerTraining(work).train()


def _train_base(work: Work) -> None:
    """Trains the base in its share of the time, unless it is trained, and writes its network."""
    file, group = work.folder / REPORTS / BASE_REPORT, current()
    with group.main_first():
        is_done = file.is_file()
    if is_done:
        return
    own = _work_of_base(work)
    data = _data_of_base(work, own)
    trained = train_network(own, data, pixel_preview(own, data), part="base")
    with group.main_first():
        if trained is not None:
            write_network(own.folder, own.plan.network, data.normalization, trained.weights, trained.guide)
            report = BaseReport(trained.facts, trained.copies, work.clock.seconds)
            write_signed_record(file, _BASE_REPORT, report)


def _work_of_base(work: Work) -> Work:
    plan, holdout = work.plan, work.holdout
    reduction, others = Reduction(plan.image_size, plan.network.image_size), holdout.unlabeled
    return replace(
        work,
        holdout=replace(
            holdout,
            trained=reduction.images(holdout.trained),
            held=reduction.images(holdout.held),
            unlabeled=None if others is None else reduction.images(others),
        ),
        plan=replace(plan, image_size=plan.network.image_size, seconds=work.deadline(plan.share)),
        folder=work.folder / BASE,
    )


def _data_of_base(work: Work, own: Work) -> TrainingData:
    """The reduced images; labels are predicted on the full ones."""
    unlabeled, others = work.unlabeled, own.holdout.unlabeled
    if unlabeled is not None and others is not None:
        unlabeled = replace(unlabeled, images=others)
    return TrainingData.of(own.holdout.trained, work.job.device, unlabeled=unlabeled)


class _UpscalerTraining:
    """The training of the upscaler, once the base is written. Every process has one; only the main one writes."""

    def __init__(self, work: Work) -> None:
        self.work, self.folder = work, work.folder / UPSCALER
        self.report = read_signed_record(work.folder / REPORTS / BASE_REPORT, _BASE_REPORT)
        work.clock.resume_at(self.report.seconds)
        base = work.plan.network.image_size
        self.crops = Crops.of(work.holdout.trained, base, work.job.device, unlabeled=work.unlabeled)
        own = replace(work, plan=plan_of_upscaler(work.plan, len(work.classes)), folder=self.folder, images_after=0)
        self.run = TrainingRun(own, self.crops, self.preview, part="upscaler", grid_columns=GRID_COLUMNS)
        self.was_ended = False

    def train(self) -> None:
        """Trains it, or resumes its training, and writes the generator."""
        self.run.resume()
        self.was_ended = self.work.finish and self.run.state.step > 0
        self.run.train(Unwatched() if current().is_main else None, finish=self.was_ended)
        with current().main_first():
            if current().is_main:
                self.run.require_few_skipped()
                self._write()

    def preview(self, denoiser: Denoiser) -> Generator:
        """The cascade with the upscaler as it is."""
        return self._generator(denoiser, USUAL_LEVEL)

    @cached_property
    def base(self) -> PixelGenerator:
        """The trained base."""
        network = read_network(self.work.folder / BASE, self.work.job.device)
        boxes = self.crops.class_boxes(len(self.work.classes))
        return PixelGenerator(
            classes=self.work.classes,
            weights_sha256="",
            boxes=None if boxes is None else reduced_boxes(boxes, self.crops.scale.reduction),
            denoiser=network.denoiser,
            normalization=network.normalization,
            guide=network.guide,
        )

    def _generator(self, denoiser: Denoiser, level: Level) -> CascadeGenerator:
        upscaler = Upscaler(denoiser, self.crops.scale, level)
        return CascadeGenerator(classes=self.work.classes, weights_sha256="", base=self.base, upscaler=upscaler)

    def _write(self) -> None:
        self.run.save_grid()
        state, scale, folder = self.run.state, self.crops.scale, self.work.folder
        level, why = self._level()
        self._tell(level, why)
        write_network(self.folder, self.run.plan.network, scale.normalization, state.averaged.state_dict(), state.guide)
        write_scale(self.folder, scale, level, state.step)
        facts: dict[str, str | int] = {
            **self.report.facts,
            "seconds": round(self.work.clock.seconds),
            "crops seen by the upscaler": self.run.images_seen,
            **({"training of the upscaler ended": "with --finish"} if self.was_ended else {}),
            "enlargement": f"{_in_words(level)}, {why}",
        }
        if self.work.plan.initial is not None:
            storage.write_parquet(folder / EARLIER_ROWS, storage.read_parquet(folder / BASE / EARLIER_ROWS))
        trained = TrainedNetwork({}, None, facts, self.report.copies)
        write_description(self.work, self.crops, "cascade", trained)
        self._write_length()

    def _write_length(self) -> None:
        """Passes on the length that a pilot chose for the base, and the time that both networks took."""
        file = self.work.folder / BASE / LENGTH
        if file.is_file():
            choice = replace(read_record(file, CHOICE), seconds=self.work.clock.seconds)
            write_record(self.work.folder / LENGTH, CHOICE, choice)

    def _level(self) -> tuple[Level, str]:
        """How images are enlarged, and why; see `trusted_level`."""
        generator = self._generator(self.run.state.averaged, USUAL_LEVEL)
        job, held = self.work.job, self.work.holdout.held
        measure = partial(choose_view_level, job, generator, held)
        return trusted_level(self._record_of_pilot(), self.run.state.step, measure)

    def _record_of_pilot(self) -> UpscalerRecord | None:
        """That of the pilot's upscaler, if there is a pilot."""
        if self.work.plan.pilot is None:  # also of the pilot's own training
            return None
        study = self.work.job.study
        return read_upscaler_record(study.path / PILOT / study.generator.name / UPSCALER)

    def _tell(self, level: Level, why: str) -> None:
        """Says how images are enlarged, and warns if the upscaler had too little time to learn."""
        narrator, plan, steps = self.work.job.narrator, self.run.plan, self.run.state.step
        narrator.say(f"images are enlarged by {_in_words(level)}, {why}")
        if steps >= LEAST_STEPS or self.work.is_pilot:
            return
        fix = f"--images-seen {LEAST_STEPS * plan.batch_size} or more" if plan.seconds is None else "more --minutes"
        fix = "no --finish" if self.was_ended else fix
        narrator.warn(
            f"the upscaler was trained for {steps} steps only, and {LEAST_STEPS} are the least that it needs to draw "
            f"detail well; give it {fix}, with --overwrite"
        )


def _in_words(level: Level) -> str:
    return "plain bicubic interpolation" if level == PLAIN else f"the upscaler at noise level {level:g} of its view"
