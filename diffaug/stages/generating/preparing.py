"""Prepares filling a pool: filters, chunk store and chunk maker."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.encoders import Encoder
from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.files import HELD_OUT
from diffaug.diffusion.generator.generator import Generator
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.stages.generating.request import pool_inputs
from diffaug.stages.job import Job
from diffaug.synthesis.filters.calibrated import CalibratedFilters
from diffaug.synthesis.filters.preparing import prepare_filters
from diffaug.synthesis.pool.chunks import ChunkMaker, ChunkStore
from diffaug.synthesis.pool.filling import PoolProgress, advance_all, class_merges, fill_pool, fill_shard
from diffaug.synthesis.pool.merging import ClassMerge

NOT_IN_CHUNKS = {"sampling_strategy", "max_synthetic_ratio", "max_attempts"}


@dataclass(frozen=True)
class PoolFilling:
    """Everything that one process needs to fill a pool."""

    store: ChunkStore
    maker: ChunkMaker
    merges: list[ClassMerge]

    @property
    def targets(self) -> dict[str, int]:
        """Images to add per class."""
        return {merge.label: merge.target for merge in self.merges}

    def run(self, job: Job) -> None:
        """Computes chunks until no class needs another."""
        for progress in fill_pool(self.store, self.maker, self.merges):
            _narrate(job, progress)

    def run_shard(self, job: Job, shard: int, shards: int) -> dict[str, int]:
        """Computes a part of the chunks; returns the images that each class still lacks."""
        for progress in fill_shard(self.store, self.maker, self.merges, shard=shard, shards=shards):
            _narrate(job, progress)
        advance_all(self.merges, self.store, self.maker.filters)
        return {merge.label: merge.target - merge.kept for merge in self.merges if not merge.is_over}


def prepare_filling(
    job: Job, catalog: Catalog, generator: Generator, targets: Mapping[str, int], encoder: Encoder | None = None
) -> PoolFilling:
    """Prepares filling the pool of a study up to `targets`; the caller has its turn in the study."""
    config = job.config
    filters = _prepare_filters(job, catalog, encoder)
    content = {
        "seed": config.seed,
        "settings": config.synthesis.model_dump(mode="json", exclude=NOT_IN_CHUNKS),
        "chunk_size": config.advanced.chunk_size,
        "inputs": pool_inputs(catalog, generator),
        "filters": filters.fingerprint,
    }
    store = ChunkStore(job.study.chunks / storage.fingerprint(content))
    trained = catalog.images("train").select(np.flatnonzero(~held_out(catalog, generator)))
    maker = ChunkMaker(generator, filters, trained, config.synthesis, config.advanced.chunk_size, config.seed)
    return PoolFilling(store, maker, class_merges(maker, targets))


def held_out(catalog: Catalog, generator: Generator) -> NDArray[np.bool_]:
    """Whether each training image was held out from the generator's training, by pixels, whatever its file name."""
    rows = generator.rows()
    hashes = set() if rows is None else set(rows.loc[rows["part"] == HELD_OUT, "pixel_sha256"])
    return catalog.rows("train")["pixel_sha256"].isin(hashes).to_numpy(bool)


def _prepare_filters(job: Job, catalog: Catalog, encoder: Encoder | None) -> CalibratedFilters:
    folder, config = job.study.filters, job.config
    if job.overwrite:
        try:
            storage.committed_metadata(folder, verify=True)
        except DamagedError:
            storage.discard_directory(folder)
    job.narrator.say("training and calibrating the filters on the real images ...")
    return prepare_filters(
        folder,
        catalog.images("train"),
        catalog.groups("train"),
        settings=config.synthesis,
        seed=config.seed,
        device=job.device,
        encoder=encoder,
        max_steps=config.advanced.filter_max_steps,
    )


def _narrate(job: Job, progress: PoolProgress) -> None:
    detail = f"{progress.accepted} images, {progress.rejected} rejected"
    job.narrator.progress("generating", progress.accepted, progress.wanted, detail)
