import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from unittest.mock import DEFAULT, Mock

import numpy as np
import pandas as pd
import pytest

from diffaug.configuration.settings import SynthesisSettings
from diffaug.diffusion.generator.usual import USUAL
from diffaug.files import storage
from diffaug.synthesis.pool.chunks import ChunkStore
from diffaug.synthesis.pool.filling import PoolProgress, class_merges, fill_pool, fill_shard
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.pool import ClassSummary, Pool, manifest_columns

TARGETS = {"a": 0, "b": 6, "c/d": 3}
LARGER = {"a": 6, "b": 16, "c/d": 3}


def fill(folder: Path, maker: ChunkMaker, targets: Mapping[str, int]) -> Iterator[PoolProgress]:
    return fill_pool(ChunkStore(folder), maker, class_merges(maker, targets))


def images(digests: Mapping[str, str]) -> dict[str, str]:
    return {file: sha256 for file, sha256 in digests.items() if file.startswith(("images/", "rejected/"))}


def test_every_class_gets_what_it_should_and_the_manifest_says_where_from(tmp_path, maker, complete) -> None:
    pool = Pool.open(complete(tmp_path, maker, TARGETS))
    manifest = pool.manifest
    assert list(manifest.columns) == manifest_columns(["first_pixel"])
    assert list(pool.rejected.columns) == [*manifest.columns, "reason"]
    assert "duplicate" in set(pool.rejected["reason"])
    assert manifest["label"].value_counts().to_dict() == {"b": 6, "c/d": 3}
    assert manifest.groupby("label")["index"].is_monotonic_increasing.all()
    for row in manifest.itertuples():
        assert storage.sha256_file(pool.root / row.file) == row.sha256
        assert row.class_index == pool.class_to_idx[row.label]
        assert pool.read(row.Index).reshape(-1)[0] == row.first_pixel
        assert row.first_pixel % 4 != 1
    pixels = pool.images().pixels
    assert pixels.shape == (9, 5, 6, 1)
    for index in (1, 2):
        own = pixels[pool.labels == index]
        assert len({int(image.sum()) // 2 for image in own}) == len(own)
    assert pixels[pool.labels == 2].mean() > 230


@pytest.mark.e2e
def test_a_pool_stopped_anywhere_ends_the_same_byte_for_byte(tmp_path, maker, complete, digests, monkeypatch) -> None:
    written = Mock(wraps=storage.write_bytes)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", written)
        expected = digests(complete(tmp_path / "whole", maker, TARGETS))
    assert written.call_count > 5
    for stop_at in range(1, written.call_count + 1):
        interrupted = Mock(wraps=storage.write_bytes, side_effect=[DEFAULT] * (stop_at - 1) + [KeyboardInterrupt])
        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_bytes", interrupted)
            with pytest.raises(KeyboardInterrupt):
                complete(tmp_path / str(stop_at), maker, TARGETS)
        assert digests(complete(tmp_path / str(stop_at), maker, TARGETS)) == expected


def test_attempts_are_bounded_and_the_shortfall_is_in_the_summary(tmp_path, maker, generator, complete) -> None:
    generator.denoiser.broken_below = np.inf
    pool = complete(tmp_path, maker, {"b": 8})
    assert Pool.open(pool).summaries["b"] == ClassSummary(8, 0, 64, {"non-finite": 64})
    assert Pool.open(pool).images().pixels.shape == (0, 5, 6, 1)


def test_a_class_of_which_nothing_can_be_made_is_given_up_without_a_try(tmp_path, maker, complete, monkeypatch) -> None:
    monkeypatch.setattr(type(maker.generator), "usual", replace(USUAL, only_varies=True))
    settings = SynthesisSettings(num_inference_steps=2, guidance_scale=1.0, max_attempts=8)
    lost = replace(maker, strengths={"b": None}, settings=settings)
    pool = Pool.open(complete(tmp_path, lost, {"a": 3, "b": 4}))
    assert pool.summaries["b"] == ClassSummary(4, 0, 0, {})
    assert set(pool.manifest["label"]) == {"a"}
    assert set(pool.manifest["origin"]) == {"variation"}
    *_, last = fill_shard(ChunkStore(tmp_path / "shard"), lost, class_merges(lost, {"a": 3, "b": 4}), shard=1, shards=1)
    assert last.accepted == 3


@pytest.mark.e2e
def test_a_larger_target_or_shards_without_locks_end_in_the_pool_of_one_process(
    tmp_path, maker, complete, digests, monkeypatch
) -> None:
    alone = digests(complete(tmp_path / "at once", maker, LARGER))
    before = digests(complete(tmp_path / "extended", maker, TARGETS))
    assert images(before).items() <= images(alone).items()
    assert digests(complete(tmp_path / "extended", maker, LARGER)) == alone
    store = ChunkStore(tmp_path / "sharded" / "chunks")
    with monkeypatch.context() as patch:
        patch.setattr(ChunkStore, "claim", lambda *_: pytest.fail("a shard needs no claim"))
        for turn, shard in enumerate((3, 1, 2), start=1):
            *_, last = fill_shard(store, maker, class_merges(maker, LARGER), shard=shard, shards=3)
            assert last.accepted == last.wanted == 2 + 6 + 1
            parts = {number % 3 + 1 for class_index in range(3) for number in store.finished(class_index)}
            assert parts == set((3, 1, 2)[:turn])
    for class_index, number in ((c, j) for c in range(3) for j in store.finished(c)):
        assert store.read(class_index, number)["index"].iloc[0] == number * 4
    assert digests(complete(tmp_path / "sharded", maker, LARGER)) == alone


@pytest.mark.e2e
def test_one_process_computes_no_chunk_too_many_and_none_again(tmp_path, maker, monkeypatch) -> None:
    list(fill(tmp_path, maker, LARGER))
    for merge in class_merges(maker, LARGER):
        merge.advance(ChunkStore(tmp_path), maker.filters)
        assert ChunkStore(tmp_path).finished(merge.class_index) == set(range(merge.decided))
    monkeypatch.setattr(ChunkMaker, "make", lambda *_: pytest.fail("computed again"))
    *_, last = fill(tmp_path, maker, LARGER)
    assert (last.accepted, last.wanted) == (25, 25)


def start(work: Callable[..., object], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def fill_with_kills(work, root: Path, maker: ChunkMaker, processes: int, kills: int, seed: int) -> int:
    """Lets processes fill one pool, kills some at random and replaces them; returns how many were killed."""
    random, started = np.random.default_rng(seed), [start(work, root, maker, LARGER) for _ in range(processes)]
    for _ in range(kills):
        time.sleep(random.uniform(0, 0.15))
        alive = [process for process in started if process.is_alive()]
        if alive:
            victim = alive[random.integers(len(alive))]
            victim.kill()
            victim.join()
            if victim.exitcode == -signal.SIGKILL:
                started.append(start(work, root, maker, LARGER))
    for process in started:
        process.join(120)
    codes = [process.exitcode for process in started]
    assert set(codes) <= {0, -signal.SIGKILL}
    return codes.count(-signal.SIGKILL)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("processes", "kills"), [(2, 2), *(pytest.param(n, 7, marks=pytest.mark.slow) for n in (1, 2, 4))]
)
def test_pools_of_killed_processes_are_the_same(tmp_path, maker, complete, digests, processes, kills) -> None:
    expected = digests(complete(tmp_path / "whole", maker, LARGER))
    done, rounds = 0, 0
    while done < kills:
        root = tmp_path / str(rounds)
        done += fill_with_kills(complete, root, maker, processes, kills - done, seed=rounds)
        assert digests(root / "pool") == expected
        rounds += 1
        assert rounds < 10, "no process lived long enough to be killed"


@pytest.mark.e2e
def test_two_processes_share_the_work(tmp_path, maker, monkeypatch) -> None:
    real = ChunkMaker.make

    def signed(self: ChunkMaker, class_index: int, number: int) -> pd.DataFrame:
        (tmp_path / f"made-{class_index}-{number}-{os.getpid()}").touch()
        time.sleep(0.02)
        return real(self, class_index, number)

    monkeypatch.setattr(ChunkMaker, "make", signed)
    for process in [start(list, fill(tmp_path / "chunks", maker, LARGER)) for _ in range(2)]:
        process.join(120)
    made = [path.name.split("-")[1:] for path in tmp_path.glob("made-*")]
    assert len({(c, j) for c, j, _ in made}) == len(made)
    assert len({process for *_, process in made}) == 2
