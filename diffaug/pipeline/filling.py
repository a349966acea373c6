"""One process's part in filling the pool of a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug import storage
from diffaug.config import Resolved
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.diffusion.artifact import Generator
from diffaug.diffusion.holdout import Holdout, hold_out
from diffaug.diffusion.planning import Plan
from diffaug.diffusion.watch import schedule_of
from diffaug.evaluation.tracking import Journal
from diffaug.narration import SilentNarrator
from diffaug.pipeline.job import Job
from diffaug.settings import Config, DiffusionSettings
from diffaug.study import open_study, stage_settings
from diffaug.synthesis import filters
from diffaug.synthesis.candidates import Candidates, Judge, Judgement
from diffaug.synthesis.chunks import ChunkMaker, ChunkStore
from diffaug.synthesis.classifier import TrainingRecipe, default_updates, fit_classifier, predict_probabilities
from diffaug.synthesis.generation import Progress, advance_all, class_merges, fill_pool, fill_shard
from diffaug.synthesis.merging import ClassMerge

NOT_IN_CHUNKS = {"sampling_strategy", "max_synthetic_ratio", "max_attempts"}


@dataclass(frozen=True)
class Filling:
    """One process's part in filling a pool.

    Attributes:
        store: Where chunks are kept.
        maker: Computes a chunk.
        merges: How far each class is.
    """

    store: ChunkStore
    maker: ChunkMaker
    merges: list[ClassMerge]

    @property
    def targets(self) -> dict[str, int]:
        """Images wanted of each class."""
        return {merge.label: merge.target for merge in self.merges}

    def run(self, job: Job) -> None:
        """Computes chunks until no class needs another."""
        for progress in fill_pool(self.store, self.maker, self.merges):
            _narrate(job, progress)

    def run_shard(self, job: Job, shard: int, shards: int) -> dict[str, int]:
        """Computes a part of the chunks; returns the images that each class still lacks."""
        for progress in fill_shard(self.store, self.maker, self.merges, shard=shard, shards=shards):
            _narrate(job, progress)
        advance_all(self.merges, self.store, self.maker.judge)
        return {merge.label: merge.target - merge.kept for merge in self.merges if not merge.is_over}


def prepare_filling(job: Job, catalog: Catalog, generator: Generator, targets: Mapping[str, int]) -> Filling:
    """What filling the study's pool takes; the caller has its turn in the study."""
    settings, seed = job.config.synthesis, job.config.seed
    judge = _prepare_judge(job, catalog.images("train"))
    content = {
        "seed": seed,
        "settings": settings.model_dump(mode="json", exclude=NOT_IN_CHUNKS),
        "inputs": pool_inputs(catalog, generator),
        "judge": judge.fingerprint,
    }
    store = ChunkStore(job.study.chunks / storage.fingerprint(content))
    maker = ChunkMaker(generator, judge, generator_split(job, catalog).trained, settings, seed)
    return Filling(store, maker, class_merges(maker, targets))


def generator_split(job: Job, catalog: Catalog) -> Holdout:
    """What the study's generator was trained on, and what was held out from it."""
    begun = stage_settings(job.study.generator)
    seed = begun.pop("seed")
    settings = DiffusionSettings.model_validate(begun)
    plan = Plan.from_dict(storage.read_json(job.study.generator / "plan.json"))
    schedule = schedule_of(plan, settings, len(catalog.images("train")))
    limit = schedule.pairs if len(schedule.steps) > 1 else 0
    return hold_out(catalog, fraction=settings.holdout, limit=limit, seed=seed)


def help_to_generate(order: Mapping[str, Any]) -> None:
    """Fills a pool beside the process that began it; `order` is what that one sent."""
    study, config = open_study(Path(order["study"])), Config.model_validate(order["config"])
    job = Job(study, Resolved(config, {}), SilentNarrator(), Journal(study.journal), command="")
    with study.in_turn():
        generator = Generator.load(study.generator, device=job.device)
        filling = prepare_filling(job, Catalog.load(study.catalog), generator, order["targets"])
    filling.run(job)


def pool_inputs(catalog: Catalog, generator: Generator) -> dict[str, str]:
    """Fingerprints of what a pool is made from."""
    return {"catalog": catalog.fingerprint, "generator": generator.weights_sha256}


class _ClassifierJudge:
    """The filters behind a classifier of the real training images, class frequencies taken out of its logits."""

    score_names: tuple[str, ...] = ("own_class_probability",)
    image_ids: tuple[str, ...] = ("",)

    def __init__(self, job: Job, images: LabeledImages) -> None:
        self.fingerprint = storage.fingerprint({"seed": job.config.seed, "images": images.ids})
        self._confidence, self._device = job.config.synthesis.off_class_confidence, job.device
        self._model = fit_classifier(
            images,
            recipe=TrainingRecipe(updates=default_updates(len(images))),
            seed=job.config.seed,
            purpose="off-class scorer",
            log_prior=np.log(np.maximum(images.class_counts, 1)),
            device=job.device,
        )

    def __call__(self, candidates: Candidates) -> Judgement:
        """See `Judge`."""

        def score(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            return predict_probabilities(self._model, pixels, device=self._device)

        judgement = filters.judge(candidates.pixels, candidates.finite, candidates.class_index, score, self._confidence)
        count = len(judgement.reasons)
        scores = {"own_class_probability": judgement.own_class_probability}
        return Judgement(judgement.reasons, scores, np.zeros(count, np.int64), np.zeros((count, 0), np.float32))

    def duplicates(self, descriptors: NDArray[np.float32], class_index: int) -> NDArray[np.bool_]:
        """None: this judge has nothing to compare images by."""
        return np.zeros(len(descriptors), bool)


def _prepare_judge(job: Job, images: LabeledImages) -> Judge:
    job.narrator.say("training the classifier that finds off-class samples ...")
    return _ClassifierJudge(job, images)


def _narrate(job: Job, progress: Progress) -> None:
    detail = f"{progress.accepted} images, {progress.rejected} rejected"
    job.narrator.progress("generating", progress.accepted, progress.wanted, detail)
