"""The two routes of a pretrained pipeline: it is fine-tuned, or it varies real images as it is."""

from __future__ import annotations

import importlib.util
import statistics
import time
from dataclasses import replace

import numpy as np
import torch

from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.planning.sources import PretrainedModel
from diffaug.diffusion.training.measuring import LASTING_SPEED, MEASURED_SECONDS
from diffaug.errors import DataError, UsageError
from diffaug.integrations.pipelines.adapter import Adapter
from diffaug.integrations.pipelines.base import name_and_license, read_layout
from diffaug.integrations.pipelines.families import BY_NAME
from diffaug.integrations.pipelines.fitting.run import (
    RANK,
    PipelineRun,
    described_base,
    frame_of,
    pipeline_of,
    prompts_of,
    usual_prompts,
    write_files,
)
from diffaug.integrations.pipelines.fitting.training import FineTuning, TrainingLatents
from diffaug.integrations.pipelines.generator import PipelineGenerator
from diffaug.integrations.pipelines.learned import known_classes
from diffaug.integrations.pipelines.loading import EXTRA, load_pipeline
from diffaug.integrations.pipelines.prompts import TOKEN
from diffaug.integrations.pipelines.records import PipelineRecord
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.work import Work
from diffaug.stages.job import Job

PACKAGES = ("diffusers", "transformers", "peft")
BATCH_SIZE, LEARNING_RATE = 8, 1e-4
VIEWS, LEAST_SEEN, MOST_SEEN = 40, 4_000, 16_000
"""Views per image, and images seen at least and at most: DiffDA-Eval takes 500 to 1000 steps of 16 (arXiv 2603.08364).
Chosen by hand."""
BYTES_PER_PIXEL = 12_000
"""What an image keeps for the backward pass through a UNet as large as Stable Diffusion's. A rough estimate."""


class PipelineRoute:
    """A pretrained pipeline is fine-tuned with LoRA on the images; see `Route`."""

    name = "pipeline"

    def possible(self, job: Job, images: LabeledImages) -> str:
        """Whether the settings name a whole pipeline that is supported."""
        config = job.config.diffusion
        if config.pipeline is None:
            return (
                "no pretrained pipeline is named, and none is downloaded; give the folder of one that you have with "
                "--pipeline FOLDER"
            )
        missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
        if missing:
            return f"{', '.join(missing)} is not installed; pip install 'diffaug[{EXTRA}]'"
        if config.init is not None:
            return "diffusion.init continues from a network of diffaug; leave it out"
        if config.augmentation:
            return "its images are encoded once and can't be augmented; leave diffusion.augmentation out"
        try:
            read_layout(config.pipeline)
        except (UsageError, DataError) as error:
            return f"{error.what} ({error.where}); {error.fix}"
        return ""

    def plan(self, job: Job, images: LabeledImages) -> Plan:
        """As many steps as others found to suffice."""
        config, layout = job.config.diffusion, read_layout(pipeline_of(job))
        name, license_text = name_and_license(layout.folder)
        _, height, width, channels = images.pixels.shape
        return Plan(
            (height, width),
            channels,
            None,
            batch_size=config.batch_size or BATCH_SIZE,
            learning_rate=config.learning_rate or LEARNING_RATE,
            recommended_images=min(MOST_SEEN, max(LEAST_SEEN, VIEWS * len(images))),
            device=job.device,
            horizontal_flip=config.horizontal_flip,
            pretrained=PretrainedModel(name, f"{layout.family} pipeline", license_text),
        )

    def images_per_second(self, job: Job, images: LabeledImages, plan: Plan) -> float:
        """Of steps on latents of noise, for about three seconds."""
        loaded = load_pipeline(pipeline_of(job), job.device)
        adapter = Adapter.install(loaded, images.classes, rank=RANK, tokens=False)
        shape, count = frame_of(job, plan, loaded).latent_shape(loaded), len(images.classes)
        noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
        often = np.full(count, 1 / count), np.ones(count)
        latents = TrainingLatents(noise, torch.zeros_like(noise), images.classes, np.arange(count), *often)
        state = FineTuning(loaded, adapter, latents, usual_prompts(loaded, images.classes), plan, seed=0)
        state.take_step()  # warms up
        times: list[float] = []
        while not times or sum(times) < MEASURED_SECONDS:
            began = time.perf_counter()
            state.take_step()
            times.append(time.perf_counter() - began)
        return LASTING_SPEED * plan.batch_size / statistics.median(times)

    def seconds_besides(self, job: Job, images: LabeledImages, plan: Plan) -> float:
        """Of loading and encoding, which is not measured."""
        return 0.0

    def untrained(self, job: Job, images: LabeledImages, plan: Plan) -> Generator:
        """The pipeline as it is."""
        loaded = load_pipeline(pipeline_of(job), job.device)
        Adapter.install(loaded, images.classes, rank=0, tokens=False)
        only_varies = self.name == VariationsRoute.name
        prompts, frame = usual_prompts(loaded, images.classes), frame_of(job, plan, loaded)
        generator: Generator = PipelineGenerator.of(loaded, prompts, frame, only_varies=only_varies)
        return generator

    def bytes_needed(self, plan: Plan) -> int:
        """What a batch keeps; the pipeline's own weights are as large as its files."""
        height, width = plan.image_size
        return BYTES_PER_PIXEL * plan.batch_size * max(height * width, 512 * 512)

    def expectation(self, plan: Plan) -> str:
        """Depends on what the pipeline knows."""
        return "sharp images where the pipeline knows such pictures, and odd ones where it does not"

    def train(self, work: Work) -> None:
        """Fine-tunes the pipeline. One process does; others wait."""
        unlabeled = work.unlabeled  # all processes must ask for them
        with current().main_first():
            if current().is_main:
                PipelineRun(work, unlabeled).fine_tune()


class VariationsRoute(PipelineRoute):
    """A pretrained pipeline varies real images as it is; nothing is trained."""

    name = "variations"

    def possible(self, job: Job, images: LabeledImages) -> str:
        """Also, that it knows the classes without learning them."""
        if reason := super().possible(job, images):
            return reason
        if TOKEN in (job.config.diffusion.prompts or ""):
            return "{token} stands for a word that is learned, and nothing is; use {class} in diffusion.prompts"
        layout = read_layout(pipeline_of(job))
        if not BY_NAME[layout.family].takes_text:
            starts = known_classes(layout, images.classes)
            unknown = [name for name, start in zip(images.classes, starts, strict=True) if start is None]
            if unknown:
                return f"the pipeline has no class '{unknown[0]}'; fine-tune it with --route pipeline"
        return ""

    def plan(self, job: Job, images: LabeledImages) -> Plan:
        """Nothing is trained."""
        return replace(super().plan(job, images), recommended_images=0)

    def images_per_second(self, job: Job, images: LabeledImages, plan: Plan) -> float:
        """Not measured."""
        return 0.0

    def expectation(self, plan: Plan) -> str:
        """Depends on what the pipeline knows, and on the strength."""
        return "variations of your images, as strong as the class is still recognized in them"

    def train(self, work: Work) -> None:
        """Writes the generator, and trains nothing."""
        if not current().is_main:
            return
        base = described_base(work.job)
        loaded = load_pipeline(base.folder, work.job.device)
        prompts = prompts_of(work, loaded)
        if prompts.use_tokens:
            what = f"{TOKEN} stands for a word that is learned, and the route {self.name} learns nothing"
            fix = f"use {{class}} in the table, or fine-tune: --route {PipelineRoute.name}"
            raise UsageError(what, where=work.job.config.diffusion.prompts, fix=fix)
        about = PipelineRecord(base, prompts, frame_of(work.job, work.plan, loaded), rank=0, is_trained=False)
        write_files(work, about, {"images seen": 0})
