"""Prepares filling a pool: filters, chunk store and chunk maker."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.files import HELD_OUT
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.usual import Strength
from diffaug.files import storage
from diffaug.files.records import find_signed_record, write_signed_record
from diffaug.stages.generating.backgrounds import fingerprint_of, with_backgrounds
from diffaug.stages.generating.request import Judge, pool_inputs, train_filters
from diffaug.stages.job import Job
from diffaug.synthesis.pool.chunks import ChunkStore
from diffaug.synthesis.pool.filling import PoolProgress, advance_all, class_merges, fill_pool, fill_shard
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.merging import ClassMerge
from diffaug.synthesis.pool.strengths import CHOSEN_STRENGTHS, ChosenStrength, choose_strengths, strengths_by_class

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
    job: Job, catalog: Catalog, generator: Generator, targets: Mapping[str, int], judge: Judge
) -> PoolFilling:
    """Prepares filling the pool of a study up to `targets`; the caller has its turn in the study."""
    config = job.config
    filters = train_filters(job, catalog, judge)
    kept, settings = ~held_out(catalog, generator), generator.usual.settled(config.synthesis)
    trained = catalog.images("train").select(np.flatnonzero(kept))
    maker = ChunkMaker(generator, filters, trained, settings, config.advanced.chunk_size, config.seed)
    maker = with_backgrounds(job, catalog, _chosen_strengths(job, generator, maker), kept)
    content = {
        "seed": config.seed,
        "settings": settings.model_dump(mode="json", exclude=NOT_IN_CHUNKS),
        "chunk_size": config.advanced.chunk_size,
        "inputs": pool_inputs(catalog, generator),
        "filters": filters.fingerprint,
        "strengths": dict(sorted(maker.strengths.items())),
        **fingerprint_of(maker),
    }
    store = ChunkStore(job.study.chunks / storage.fingerprint(content))
    return PoolFilling(store, maker, class_merges(maker, targets))


def held_out(catalog: Catalog, generator: Generator) -> NDArray[np.bool_]:
    """Whether each training image was held out from the generator's training, by pixels, whatever its file name."""
    rows = generator.rows()
    hashes = set() if rows is None else set(rows.loc[rows["part"] == HELD_OUT, "pixel_sha256"])
    return catalog.rows("train")["pixel_sha256"].isin(hashes).to_numpy(bool)


def _chosen_strengths(job: Job, generator: Generator, maker: ChunkMaker) -> ChunkMaker:
    """The maker with the strength of variations chosen per class, once for all processes that fill the pool.

    The choice is kept, since on another machine it might fall otherwise.
    """
    about = [generator.weights_sha256, maker.filters.fingerprint, maker.settings.model_dump(mode="json"), maker.seed]
    file = job.study.chunks / f"strengths-{storage.fingerprint(about)}.json"
    chosen = find_signed_record(file, CHOSEN_STRENGTHS, overwrite=job.overwrite)
    if chosen is None:
        progress = partial(job.narrator.progress, "choosing the strength of variations")
        chosen = choose_strengths(maker, copied=generator.copied_classes, progress=progress)
        write_signed_record(file, CHOSEN_STRENGTHS, chosen)
    _tell_strengths(job, generator, chosen)
    return replace(maker, strengths=strengths_by_class(chosen))


def _tell_strengths(job: Job, generator: Generator, chosen: Mapping[str, ChosenStrength]) -> None:
    """Names the classes whose variations are weaker or stronger than usual, or that get none."""
    usual = generator.usual
    why: dict[Strength | None, str] = {
        **dict.fromkeys(usual.weaker, "weaker variations than usual, since stronger ones lose the class"),
        **dict.fromkeys(usual.stronger, "stronger variations than usual, since the generator repeats training images"),
        None: "no variations, since at each strength they lose the class or repeat training images",
    }
    for strength, what in why.items():
        names = [name for name, one in chosen.items() if one.strength == strength]
        if names:
            job.narrator.say(f"{what}: {', '.join(names)}")


def _narrate(job: Job, progress: PoolProgress) -> None:
    detail = f"{progress.accepted} images, {progress.rejected} rejected"
    job.narrator.progress("generating", progress.accepted, progress.wanted, detail)
