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
from diffaug.synthesis.pool.merging import manifest_columns
from diffaug.synthesis.pool.pool import ClassSummary, Pool

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


def test_a_shard_computes_its_chunks_once_up_to_its_share(tmp_path, maker, monkeypatch) -> None:
    store, made, make = ChunkStore(tmp_path), [], ChunkMaker.make
    monkeypatch.setattr(ChunkMaker, "make", lambda self, *of: made.append(of) or make(self, *of))
    for _ in range(2):
        steps = list(fill_shard(store, maker, class_merges(maker, {"a": 3, "b": 7}), shard=2, shards=2))
        assert [number % 2 for _, number in made] == [1] * len(made)
        assert len(set(made)) == len(made) == len(steps)
    reasons = {of: store.read(*of)["reason"] for of in made}
    passed = {label: [int((reasons[of] == "").sum()) for of in made if of[0] == label] for label in (0, 1)}
    for label, share in ((0, 2), (1, 4)):
        assert sum(passed[label]) >= share > sum(passed[label][:-1])
    assert steps[-1] == PoolProgress(2 + 4, 2 + 4, sum(int((of != "").sum()) for of in reasons.values()))
    of_a = len(passed[0])
    assert [step.accepted for step in steps[:of_a]] == [min(2, sum(passed[0][: n + 1])) for n in range(of_a)]
    assert all(step.accepted >= 2 for step in steps[of_a:])
    assert [step.rejected for step in steps] == sorted(step.rejected for step in steps)


def test_a_hopeless_class_of_a_shard_ends_at_its_attempts(tmp_path, maker, generator) -> None:
    generator.denoiser.broken_below = np.inf
    *_, last = fill_shard(ChunkStore(tmp_path), maker, class_merges(maker, {"b": 4}), shard=1, shards=2)
    assert last == PoolProgress(0, 2, 16)  # 8 attempts for each of 4 images, half of them in this shard
    assert ChunkStore(tmp_path).finished(1) == {0, 2, 4, 6}


def test_merges_begin_with_what_the_settings_allow(maker) -> None:
    merges = class_merges(maker, {"c/d": 3, "a": 5})
    assert [(one.label, one.class_index, one.target, one.most_chunks) for one in merges] == [
        ("c/d", 2, 3, 6),
        ("a", 0, 5, 10),
    ]


def test_the_progress_of_a_pool_ends_with_what_is_in_it(tmp_path, maker) -> None:
    targets = {"a": 2, "b": 5}
    steps = list(fill(tmp_path, maker, targets))
    assert steps[0] == PoolProgress(0, 7, 0) and steps[-1].accepted == steps[-1].wanted == 7
    merges = class_merges(maker, targets)
    for merge in merges:
        merge.advance(ChunkStore(tmp_path), maker.filters)
        assert ChunkStore(tmp_path).finished(merge.class_index) == set(range(merge.decided))
    assert steps[-1].rejected == sum(sum(merge.rejected.values()) for merge in merges) > 0
    assert len(steps) == 1 + sum(merge.decided for merge in merges)
    assert list(fill(tmp_path, maker, targets)) == [steps[-1]]
    assert not list(tmp_path.rglob("*.lock"))


def test_a_chunk_that_another_process_computes_is_waited_for_and_told(tmp_path, maker, monkeypatch) -> None:
    store, waits = ChunkStore(tmp_path), []
    with store.claim(1, 0) as mine, monkeypatch.context() as patch:
        assert mine

        def other_ends(seconds: float) -> None:
            assert seconds > 0 and store.finished(1) == {1}  # what is left to do meanwhile
            waits.append(seconds)
            store.write(1, 0, maker.make(1, 0))

        patch.setattr(time, "sleep", other_ends)
        steps = list(fill(tmp_path, maker, {"b": 5}))
    assert len(waits) == 1 and steps[-1].accepted == 5


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
