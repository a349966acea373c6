"""What the trainings of all networks have in common, and what one leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from diffaug.diffusion.generator.files import GeneratorRecord, write_generator
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.process.boxes import ClassBoxes
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.training import Weights
from diffaug.similarity.intervals import Share
from diffaug.stages.fitting.sources import seen_rows
from diffaug.stages.fitting.work import Work

Preview = Callable[[Denoiser], Generator]
"""A generator of the network given, which is being trained."""


class WithBoxes(Protocol):
    """Images that may have proportions of their own."""

    def class_boxes(self, num_classes: int) -> ClassBoxes | None:
        """The boxes of each class, or None without boxes."""


@dataclass(frozen=True)
class CopyReport:
    """What is known about copies at the end of a training: facts for the model card, and copies by class name."""

    facts: dict[str, str | int] = field(default_factory=dict)
    copies: dict[str, Share] = field(default_factory=dict)
    copied_classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainedNetwork:
    """A network whose training has ended."""

    weights: Weights  # averaged
    guide: Weights | None  # the same early in the training, if they were kept
    facts: dict[str, str | int]  # for the model card
    copies: CopyReport = CopyReport()  # what is known about copies; empty for a pilot


def pixel_preview(work: Work, data: TrainingData) -> Preview:
    """Generators of networks that denoise pixels."""
    boxes = data.class_boxes(len(work.classes))

    def preview(denoiser: Denoiser) -> Generator:
        return PixelGenerator(
            classes=work.classes, weights_sha256="", boxes=boxes, denoiser=denoiser, normalization=data.normalization
        )

    return preview


def write_description(work: Work, data: WithBoxes, kind: str, trained: TrainedNetwork) -> None:
    """Writes the files that generators of all kinds have into the folder of the work."""
    counts, copies = work.holdout.trained.counts_by_name, trained.copies
    record = GeneratorRecord(
        kind,
        work.plan.image_size,
        work.plan.channels,
        counts,
        {**trained.facts, "seed": work.job.config.seed, **work.job.environment},
        dataset_class_to_idx=work.job.study.record.class_to_idx,
        intensity=work.catalog.intensity,
        boxes=data.class_boxes(len(counts)),
        copied_classes=copies.copied_classes,
        copies=copies.copies,
        unlabeled=work.plan.unlabeled,
        initial=work.plan.initial,
    )
    write_generator(work.folder, record, seen_rows(work.catalog, work.holdout, work.plan, work.folder))
