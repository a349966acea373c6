"""The fine-tuning of a pipeline in a study: resumed, logged, saved, interrupted, and ended in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from diffaug.data.images import NO_LABEL
from diffaug.diffusion.generator.files import GeneratorRecord, write_generator
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.planning.sources import PretrainedModel
from diffaug.diffusion.training.batches import TrainingData, UnlabeledPart
from diffaug.diffusion.training.training import StepRecord
from diffaug.errors import DataError
from diffaug.files.records import find_signed_record, write_signed_record
from diffaug.integrations.pipelines.adapter import Adapter
from diffaug.integrations.pipelines.base import BaseFile, BaseModel, describe_base
from diffaug.integrations.pipelines.denoising import require_short
from diffaug.integrations.pipelines.families import family_of
from diffaug.integrations.pipelines.fitting.training import (
    FineTuning,
    TrainingLatents,
    restore_latest,
    save_checkpoint,
)
from diffaug.integrations.pipelines.frame import Frame, inner_size, latent_moments
from diffaug.integrations.pipelines.generator import PipelineGenerator
from diffaug.integrations.pipelines.loading import LoadedPipeline, load_pipeline
from diffaug.integrations.pipelines.prompts import Prompts, prompts_from
from diffaug.integrations.pipelines.records import (
    ADAPTER,
    PIPELINE,
    PipelineRecord,
    read_pipeline_record,
    write_pipeline_record,
)
from diffaug.runtime.distributed import ALONE
from diffaug.stages.fitting.running import CHECKPOINTS, TrainingRun, Unwatched
from diffaug.stages.fitting.sources import seen_rows
from diffaug.stages.fitting.work import Work
from diffaug.stages.job import Job

RANK = 8
"""Of the LoRA layers, as in DiffDA-Eval (arXiv 2603.08364)."""
HASHES = "pretrained-files.json"
GRID_COLUMNS = 4
_HASHES = TypeAdapter(dict[str, tuple[BaseFile, ...]])
"""Hashed files by the folder of their pipeline: another one may have files of equal names, sizes and times."""


def described_base(job: Job) -> BaseModel:
    """The pipeline that the settings name. Its files are hashed once per study, unless size, time or record changes."""
    file = job.study.path / HASHES
    folder = str(pipeline_of(job).resolve())
    known = find_signed_record(file, _HASHES, overwrite=True) or {}
    base = describe_base(folder, known.get(folder, ()))
    write_signed_record(file, _HASHES, {folder: base.files})
    return base


def usual_prompts(loaded: LoadedPipeline, classes: Sequence[str]) -> Prompts:
    """Those that no setting changes; the names alone, for pipelines of numbered classes."""
    if family_of(loaded).takes_text:
        return prompts_from(None, classes, {})
    return Prompts({label: (label,) for label in classes}, {})


def prompts_of(work: Work, loaded: LoadedPipeline) -> Prompts:
    """The prompts of the classes and training images; none may be too long for the pipeline."""
    if not family_of(loaded).takes_text:
        return usual_prompts(loaded, work.classes)
    images = work.holdout.trained
    by_path = {path: images.classes[label] for path, label in zip(images.ids, images.labels, strict=True)}
    prompts = prompts_from(work.job.config.diffusion.prompts, work.classes, by_path)
    require_short(loaded, prompts.all)
    return prompts


def write_files(work: Work, about: PipelineRecord, facts: dict[str, str | int], adapter: Adapter | None = None) -> None:
    """Writes a generator of a pipeline into the folder of the work."""
    base, plan = about.base, work.plan
    write_pipeline_record(work.folder, about)
    if adapter is not None:
        adapter.write(work.folder / ADAPTER)
    record = GeneratorRecord(
        "pipeline",
        plan.image_size,
        plan.channels,
        work.holdout.trained.counts_by_name,
        {
            **facts,
            "pretrained pipeline": f"{base.name}, {base.family}, sha256 {base.sha256}",
            "works at": f"{about.frame.inner[1]} x {about.frame.inner[0]} px",
            "prompts": "; ".join(about.prompts.all[:5]) + ("; ..." if len(about.prompts.all) > 5 else ""),
            "copies of training images": "not checked here; the filter 'copy' of the pool looks for them",
            "seconds": round(work.clock.seconds),
            "seed": work.job.config.seed,
            **work.job.environment,
        },
        dataset_class_to_idx=work.job.study.record.class_to_idx,
        intensity=work.catalog.intensity,
        unlabeled=plan.unlabeled,
        pretrained=PretrainedModel(base.name, f"{base.family} pipeline", base.license, base.sha256),
    )
    write_generator(work.folder, record, seen_rows(work.catalog, work.holdout, plan, work.folder))


def frame_of(job: Job, plan: Plan, loaded: LoadedPipeline) -> Frame:
    """Sizes and channels of images in and out of the pipeline."""
    return Frame(plan.image_size, plan.channels, inner_size(plan.image_size, loaded, job.config.advanced.pipeline_size))


class PipelineRun(TrainingRun):
    """The fine-tuning of a pipeline by a plan, in the main process."""

    state: Any  # a FineTuning

    def __init__(self, work: Work, unlabeled: UnlabeledPart | None) -> None:
        self.work, self.job, self.folder, self.plan = work, work.job, work.folder, work.plan
        base, seed = described_base(work.job), work.job.config.seed
        self.loaded = load_pipeline(base.folder, work.job.device)
        prompts = prompts_of(work, self.loaded)
        self.about = self._begun_with(PipelineRecord(base, prompts, frame_of(work.job, work.plan, self.loaded), RANK))
        adapter = Adapter.install(self.loaded, work.classes, rank=RANK, tokens=prompts.use_tokens, seed=seed)
        latents, frame = self._latents(unlabeled), self.about.frame
        state: Any = FineTuning(self.loaded, adapter, latents, prompts, self.plan, seed=seed)

        def preview(loaded: LoadedPipeline) -> PipelineGenerator:
            return PipelineGenerator.of(loaded, prompts, frame)

        super().__init__(work, state, preview, state=state, grid_columns=GRID_COLUMNS)
        self.group = ALONE

    def fine_tune(self) -> None:
        """Takes the steps of the plan from the last checkpoint on, in the time of the plan, and writes the generator.

        Raises:
            Interrupted: A stop was requested; a checkpoint was saved.
        """
        self.resume()
        was_ended = self.work.finish and self.state.step > 0
        self.train(Unwatched(), finish=was_ended)
        self.require_few_skipped()
        self.save_grid()
        facts: dict[str, str | int] = {
            **({"purpose": f"a {self.work.title}, trained without some images"} if self.work.is_pilot else {}),
            "images seen": self.images_seen,
            "LoRA rank": RANK,
            "steps skipped": self.state.skipped,
            **({"training ended": "with --finish"} if was_ended else {}),
        }
        write_files(self.work, self.about, facts, self.state.adapter)

    def _begun_with(self, about: PipelineRecord) -> PipelineRecord:
        """The record of this training; a DataError if it was begun with another pipeline."""
        if any((self.folder / CHECKPOINTS).glob("step-*")) and (self.folder / PIPELINE).is_file():
            before = read_pipeline_record(self.folder)
            if before.base.sha256 != about.base.sha256:
                what = "the pretrained pipeline was changed since this training began"
                fix = "put it back, or repeat the command with --overwrite"
                raise DataError(what, where=about.base.folder, fix=fix)
        write_pipeline_record(self.folder, about)
        return about

    def _latents(self, unlabeled: UnlabeledPart | None) -> TrainingLatents:
        """Encodes all images once."""
        trained = replace(self.work.holdout.trained, boxes=None)
        if unlabeled is not None:
            unlabeled = replace(unlabeled, images=replace(unlabeled.images, boxes=None))
        data = TrainingData.of(trained, "cpu", unlabeled=unlabeled)
        pixels, labels = data.pixels.numpy(), data.labels.numpy()
        ids = trained.ids + (() if unlabeled is None else unlabeled.images.ids)
        means, deviations = [], []
        copies = [pixels, pixels[:, :, ::-1]] if self.plan.horizontal_flip else [pixels]
        for number, image in enumerate(image for copy in copies for image in copy):
            mean, deviation = latent_moments(self.loaded, self.about.frame.enlarged(image[None]))
            means.append(mean.half().cpu())
            deviations.append(deviation.half().cpu())
            self.job.narrator.progress("encoding images", number + 1, len(copies) * len(pixels))
        times = len(copies)
        return TrainingLatents(
            torch.cat(means),
            torch.cat(deviations),
            ids * times,
            np.tile(np.where(labels == len(trained.classes), NO_LABEL, labels), times),
            np.tile(data.draw_probabilities, times) / times,
            np.tile(data.label_probabilities, times),
        )

    def _steps(self) -> Iterator[StepRecord]:
        yield from self.state.steps()

    def _restore(self) -> tuple[int | None, list[str]]:
        found: tuple[int | None, list[str]] = restore_latest(self.folder / CHECKPOINTS, self.state)
        return found

    def _checkpoint(self) -> None:
        save_checkpoint(self.folder / CHECKPOINTS, self.state)


def pipeline_of(job: Job) -> Path:
    """The folder that the settings name, which the route has asked for."""
    assert job.config.diffusion.pipeline is not None
    return Path(job.config.diffusion.pipeline)
