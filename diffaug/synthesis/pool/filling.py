"""Filling a pool: any number of processes take its chunks, one at a time, until no class needs another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from diffaug.errors import UsageError
from diffaug.synthesis.filters.protocol import Judge
from diffaug.synthesis.pool.chunks import REASON, ChunkMaker, ChunkStore
from diffaug.synthesis.pool.merging import ClassMerge

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Progress:
    """How far a pool is.

    Attributes:
        accepted: Images that it has.
        wanted: Images that it should have.
        rejected: Candidates that the filters rejected.
    """

    accepted: int
    wanted: int
    rejected: int


def class_merges(maker: ChunkMaker, targets: Mapping[str, int]) -> list[ClassMerge]:
    """The classes before any chunk is looked at.

    Args:
        maker: What makes their chunks.
        targets: Images to add to each class, by name.
    """
    size, attempts = maker.settings.chunk_size, maker.settings.max_attempts
    return [
        ClassMerge(label, maker.generator.class_index(label), target, chunk_size=size, max_attempts=attempts)
        for label, target in targets.items()
    ]


def fill_pool(store: ChunkStore, maker: ChunkMaker, merges: Sequence[ClassMerge]) -> Iterator[Progress]:
    """Computes what is missing, together with every other process that does the same.

    Each process takes the first chunk that is needed, as far as can be foreseen, and that nobody has or works on. A
    chunk too many changes nothing. Ends when every class has what it should or is given up, after `max_attempts`
    candidates for each image wanted.

    Args:
        store: Where chunks are kept; what is there already counts.
        maker: Computes a chunk.
        merges: The classes; in the end all are over, ready for `write_pool`.

    Yields:
        After every chunk, how far the pool is.
    """
    while True:
        advance_all(merges, store, maker.judge)
        yield _progress(merges)
        if all(merge.is_over for merge in merges):
            return
        if not any(_compute_next(store, maker, merge) for merge in merges if not merge.is_over):
            time.sleep(POLL_SECONDS)  # others are at all that is needed


def fill_shard(
    store: ChunkStore, maker: ChunkMaker, merges: Sequence[ClassMerge], *, shard: int, shards: int
) -> Iterator[Progress]:
    """Computes one of several disjoint parts of the chunks, which needs no locks: every `shards`-th of each class.

    Ends for each class when the shard's chunks hold its share of the images, or of the attempts.

    Args:
        store: Where chunks are kept; what is there already counts.
        maker: Computes a chunk.
        merges: The classes; they are not advanced.
        shard: Number of the part, from 1.
        shards: Number of parts.

    Yields:
        After every chunk, how far the shard is; its duplicates are not known yet.

    Raises:
        UsageError: There is no such part.
    """
    require_shard(shard, shards)
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
            yield Progress(accepted + min(passed, share), sum(shares), rejected)
        accepted += min(passed, share)


def require_shard(shard: int, shards: int) -> None:
    """Raises UsageError where there is no such part."""
    if not 1 <= shard <= shards:
        fix = f"shards are 1/{shards} to {shards}/{shards}" if shards > 0 else "shard 3/8 is the third of eight"
        raise UsageError(f"there is no shard {shard} of {shards}", fix=fix)


def advance_all(merges: Sequence[ClassMerge], store: ChunkStore, judge: Judge) -> None:
    """Takes in the finished chunks of every class."""
    for merge in merges:
        merge.advance(store, judge)


def _compute_next(store: ChunkStore, maker: ChunkMaker, merge: ClassMerge) -> bool:
    """Computes the first chunk of a class that is needed and free; whether there was one."""
    finished = store.finished(merge.class_index)
    for number in range(merge.decided, merge.needed_chunks):
        if number in finished:
            continue
        with store.claim(merge.class_index, number) as mine:
            if mine:
                store.write(merge.class_index, number, maker.make(merge.class_index, number))
                return True
    return False


def _progress(merges: Sequence[ClassMerge]) -> Progress:
    return Progress(
        sum(merge.kept for merge in merges),
        sum(merge.target for merge in merges),
        sum(sum(merge.rejected.values()) for merge in merges),
    )
