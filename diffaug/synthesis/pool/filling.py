"""Fills a pool: any number of processes compute its chunks until no class needs another."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from diffaug.runtime.parallel import backend_is_registered, run_unordered
from diffaug.synthesis.filters.calibrated import CalibratedFilters
from diffaug.synthesis.pool.chunks import REASON, ChunkStore
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.merging import ClassMerge

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class PoolProgress:
    """How many images of the requested ones are accepted so far, and how many candidates rejected."""

    accepted: int
    wanted: int
    rejected: int


def class_merges(maker: ChunkMaker, targets: Mapping[str, int]) -> list[ClassMerge]:
    """The merges of all classes before any chunk, for targets by class name.

    A class of which nothing can be made, see `origin_fractions`, is given up without an attempt.
    """
    size, merges = maker.chunk_size, []
    for label, target in targets.items():
        index = maker.generator.classes.index(label)
        attempts = maker.settings.max_attempts if any(maker.counts(index).values()) else 0
        merges.append(ClassMerge(label, index, target, chunk_size=size, max_attempts=attempts))
    return merges


def fill_pool(store: ChunkStore, maker: ChunkMaker, merges: Sequence[ClassMerge]) -> Iterator[PoolProgress]:
    """Computes the missing chunks, together with every other process that does the same; yields the progress.

    Each process takes the first chunk that is probably needed, not finished and not claimed by another process. An
    unneeded chunk changes nothing. Filling ends when every class is full or given up after `max_attempts` candidates
    per requested image. With a registered joblib backend (see `runtime.parallel`) its workers compute the chunks.
    """
    compute = _compute_in_workers if backend_is_registered() else _compute_next
    advance_all(merges, store, maker.filters)
    yield _progress(merges)
    while unfilled := [merge for merge in merges if not merge.is_over]:
        idle = True
        for _ in compute(store, maker, unfilled):
            idle = False
            advance_all(merges, store, maker.filters)
            yield _progress(merges)
        if idle:  # other processes compute all that is needed
            time.sleep(POLL_SECONDS)
            advance_all(merges, store, maker.filters)
            yield _progress(merges)


def fill_shard(
    store: ChunkStore, maker: ChunkMaker, merges: Sequence[ClassMerge], *, shard: int, shards: int
) -> Iterator[PoolProgress]:
    """Computes one of several disjoint parts of the chunks, every `shards`-th of each class; needs no locks.

    A class ends when the shard's chunks hold its share of the images, or of the attempts. Yields the progress of the
    shard, in which duplicates are not known yet; `shard` counts from 1.
    """
    shares = [-(-merge.target // shards) for merge in merges]
    accepted = rejected = 0
    for merge, share in zip(merges, shares, strict=True):
        passed = 0
        for number in range(shard - 1, merge.most_chunks, shards):
            if passed >= share:
                break
            if number not in store.finished(merge.class_index):
                store.write(merge.class_index, number, maker.make(merge.class_index, number))
            reasons = store.read(merge.class_index, number, [REASON])[REASON]
            good = int((reasons == "").sum())
            passed, rejected = passed + good, rejected + len(reasons) - good
            yield PoolProgress(accepted + min(passed, share), sum(shares), rejected)
        accepted += min(passed, share)


def advance_all(merges: Sequence[ClassMerge], store: ChunkStore, filters: CalibratedFilters) -> None:
    """Merges the finished chunks of every class."""
    for merge in merges:
        merge.advance(store, filters)


def _compute_next(store: ChunkStore, maker: ChunkMaker, merges: Sequence[ClassMerge]) -> Iterator[None]:
    for merge in merges:
        for number in _missing(store, merge):
            with store.claim(merge.class_index, number) as mine:
                if mine:
                    store.write(merge.class_index, number, maker.make(merge.class_index, number))
                    yield
                    return


def _compute_in_workers(store: ChunkStore, maker: ChunkMaker, merges: Sequence[ClassMerge]) -> Iterator[None]:
    tasks = {
        (merge.class_index, number): partial(maker.make, merge.class_index, number)
        for merge in merges
        for number in _missing(store, merge)
    }
    for (class_index, number), chunk in run_unordered(tasks):
        store.write(class_index, number, chunk)
        yield


def _missing(store: ChunkStore, merge: ClassMerge) -> list[int]:
    finished = store.finished(merge.class_index)
    return [number for number in range(merge.decided, merge.needed_chunks) if number not in finished]


def _progress(merges: Sequence[ClassMerge]) -> PoolProgress:
    return PoolProgress(
        sum(merge.kept for merge in merges),
        sum(merge.target for merge in merges),
        sum(sum(merge.rejected.values()) for merge in merges),
    )
