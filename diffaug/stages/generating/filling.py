"""One process's part in filling the pool of a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffaug.classifiers.encoders import Encoder
from diffaug.configuration.settings import Config
from diffaug.configuration.sources import Resolved
from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.generator import Generator
from diffaug.files import storage
from diffaug.runtime.console import SilentNarrator
from diffaug.stages.job import Job
from diffaug.study import open_study
from diffaug.synthesis.filters.calibrated import CalibratedJudge, prepare_judge
from diffaug.synthesis.pool.chunks import ChunkMaker, ChunkStore
from diffaug.synthesis.pool.filling import Progress, advance_all, class_merges, fill_pool, fill_shard
from diffaug.synthesis.pool.merging import ClassMerge
from diffaug.synthesis.pool.train_split import TrainSplit
from diffaug.tracking.journal import Journal

NOT_IN_CHUNKS = {"sampling_strategy", "max_synthetic_ratio", "max_attempts"}


@dataclass(frozen=True)
class Filling:
    """One process's part in filling a pool.

    Attributes:
        store: Where chunks are kept.
        maker: Computes a chunk.
        judge: What it judges with.
        merges: How far each class is.
    """

    store: ChunkStore
    maker: ChunkMaker
    judge: CalibratedJudge
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


def prepare_filling(
    job: Job, catalog: Catalog, generator: Generator, targets: Mapping[str, int], encoder: Encoder | None = None
) -> Filling:
    """What filling the study's pool takes; the caller has its turn in the study.

    Args:
        job: The job.
        catalog: Its images.
        generator: Its generator.
        targets: Images to add to each class, by name.
        encoder: What the filters see images with; none: a classifier of the training images.
    """
    settings, seed = job.config.synthesis, job.config.seed
    judge = _prepare_judge(job, catalog, encoder)
    content = {
        "seed": seed,
        "settings": settings.model_dump(mode="json", exclude=NOT_IN_CHUNKS),
        "inputs": pool_inputs(catalog, generator),
        "judge": judge.fingerprint,
    }
    store = ChunkStore(job.study.chunks / storage.fingerprint(content))
    maker = ChunkMaker(generator, judge, TrainSplit.of(catalog, generator).part(held=False), settings, seed)
    return Filling(store, maker, judge, class_merges(maker, targets))


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


def _prepare_judge(job: Job, catalog: Catalog, encoder: Encoder | None) -> CalibratedJudge:
    images, groups = catalog.images("train"), catalog.groups("train")
    job.narrator.say("training and calibrating the filters on the real images ...")
    settings, seed = job.config.synthesis, job.config.seed
    return prepare_judge(
        job.study.judge, images, groups, settings=settings, seed=seed, device=job.device, encoder=encoder
    )


def _narrate(job: Job, progress: Progress) -> None:
    detail = f"{progress.accepted} images, {progress.rejected} rejected"
    job.narrator.progress("generating", progress.accepted, progress.wanted, detail)
