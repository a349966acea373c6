import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.synthesis.pool.chunks import ChunkMaker, ChunkStore
from diffaug.synthesis.pool.filling import Progress, class_merges, fill_pool, fill_shard
from diffaug.synthesis.pool.pool import Pool, manifest_columns

TARGETS = {"a": 0, "b": 6, "c/d": 3}
LARGER = {"a": 6, "b": 16, "c/d": 3}


def fill(folder: Path, maker: ChunkMaker, targets: Mapping[str, int]) -> Iterator[Progress]:
    return fill_pool(ChunkStore(folder), maker, class_merges(maker, targets))


def images(digests: Mapping[str, str]) -> dict[str, str]:
    return {file: sha256 for file, sha256 in digests.items() if file.startswith(("images/", "rejected/"))}


def test_every_class_gets_what_it_should_and_the_manifest_says_where_from(tmp_path, maker, complete) -> None:
    pool = Pool.open(complete(tmp_path, maker, TARGETS))
    manifest = pool.manifest
    assert list(manifest.columns) == manifest_columns(["first_pixel"])
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


def test_accepted_rejected_and_surplus_are_all_candidates_of_the_chunks_used(tmp_path, maker, complete) -> None:
    pool = complete(tmp_path, maker, LARGER)
    manifest, rejected = (pd.read_parquet(pool / f"{name}.parquet") for name in ("manifest", "rejected"))
    summary = storage.read_json(pool / "summary.json")
    for label, target in LARGER.items():
        accepted, refused = (set(table.loc[table["label"] == label, "index"]) for table in (manifest, rejected))
        assert accepted.isdisjoint(refused)
        assert len(accepted) == target
        assert accepted | refused <= set(range(summary[label]["candidates"]))
        last = (summary[label]["candidates"] - 1) // 4 * 4
        assert accepted | refused >= set(range(last))
        counted = rejected.loc[rejected["label"] == label, "reason"].value_counts().to_dict()
        assert summary[label]["rejected"] == counted
    assert "duplicate" in set(rejected["reason"])
    assert list(rejected.columns) == [*manifest.columns, "reason"]


def test_a_pool_stopped_anywhere_ends_the_same_byte_for_byte(tmp_path, maker, complete, digests, monkeypatch) -> None:
    expected = digests(complete(tmp_path / "whole", maker, TARGETS))
    real_write, writes = storage.write_bytes, 0

    def interrupted(path: Path, content: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == stop_at:
            raise KeyboardInterrupt
        real_write(path, content)

    for stop_at in range(1, 9):
        writes = 0
        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_bytes", interrupted)
            with pytest.raises(KeyboardInterrupt):
                complete(tmp_path / str(stop_at), maker, TARGETS)
        assert digests(complete(tmp_path / str(stop_at), maker, TARGETS)) == expected


def test_what_is_finished_is_not_computed_again(tmp_path, maker, monkeypatch) -> None:
    for _ in fill(tmp_path, maker, TARGETS):
        pass
    monkeypatch.setattr(ChunkMaker, "make", lambda *_: pytest.fail("computed again"))
    *_, last = fill(tmp_path, maker, TARGETS)
    assert (last.accepted, last.wanted) == (9, 9)


def test_attempts_are_bounded_and_the_shortfall_is_in_the_summary(tmp_path, maker, generator, complete) -> None:
    generator.denoiser.broken_below = np.inf
    pool = complete(tmp_path, maker, {"b": 8})
    assert storage.read_json(pool / "summary.json")["b"] == {
        "wanted": 8,
        "accepted": 0,
        "candidates": 64,
        "rejected": {"non-finite": 64},
    }
    assert Pool.open(pool).images().pixels.shape == (0, 5, 6, 1)


def test_a_larger_target_adds_and_changes_nothing(tmp_path, maker, complete, digests) -> None:
    first = complete(tmp_path, maker, TARGETS)
    before, rows = digests(first), Pool.open(first).manifest
    extended = digests(complete(tmp_path, maker, LARGER))
    assert images(before).items() <= images(extended).items()
    manifest = Pool.open(first).manifest.set_index("file")
    pd.testing.assert_frame_equal(manifest.loc[rows["file"]].reset_index(), rows[["file", *rows.columns.drop("file")]])
    at_once = complete(tmp_path / "at once", maker, LARGER)
    assert extended == digests(at_once)


def test_chunks_that_nobody_needs_change_nothing(tmp_path, maker, complete, digests) -> None:
    store = ChunkStore(tmp_path / "more" / "chunks")
    for class_index in range(3):
        for number in (0, 1, 7, 9):
            store.write(class_index, number, maker.make(class_index, number))
    assert digests(complete(tmp_path / "more", maker, TARGETS)) == digests(complete(tmp_path / "one", maker, TARGETS))


def test_shards_without_locks_then_a_merge(tmp_path, maker, complete, digests, monkeypatch) -> None:
    store = ChunkStore(tmp_path / "sharded" / "chunks")
    with monkeypatch.context() as patch:
        patch.setattr(ChunkStore, "claim", lambda *_: pytest.fail("a shard needs no claim"))
        for shard in (3, 1, 2):
            *_, last = fill_shard(store, maker, class_merges(maker, LARGER), shard=shard, shards=3)
            assert last.accepted == last.wanted == 2 + 6 + 1
    for class_index, number in ((c, j) for c in range(3) for j in store.finished(c)):
        assert store.read(class_index, number)["index"].iloc[0] == number * 4
    sharded = digests(complete(tmp_path / "sharded", maker, LARGER))
    assert sharded == digests(complete(tmp_path / "one", maker, LARGER))


def test_a_shard_computes_its_own_chunks_only(tmp_path, maker) -> None:
    store = ChunkStore(tmp_path)
    for _ in fill_shard(store, maker, class_merges(maker, LARGER), shard=2, shards=3):
        pass
    for class_index in range(3):
        assert all(number % 3 == 1 for number in store.finished(class_index))
    for shard, shards in ((0, 3), (4, 3)):
        with pytest.raises(UsageError, match="there is no shard"):
            next(fill_shard(store, maker, class_merges(maker, LARGER), shard=shard, shards=shards))


def test_one_process_computes_no_chunk_too_many(tmp_path, maker) -> None:
    for _ in fill(tmp_path, maker, LARGER):
        pass
    merges = class_merges(maker, LARGER)
    for merge in merges:
        merge.advance(ChunkStore(tmp_path), maker.judge)
        assert ChunkStore(tmp_path).finished(merge.class_index) == set(range(merge.decided))


class Crew:
    """Processes that fill one pool, some of them killed and replaced."""

    def __init__(self, work: Callable[..., object], *arguments: object) -> None:
        self._context = multiprocessing.get_context("fork")
        self._work, self._arguments = work, arguments
        self.processes: list[multiprocessing.process.BaseProcess] = []

    def hire(self, number: int) -> None:
        for _ in range(number):
            process = self._context.Process(target=self._work, args=self._arguments)
            process.start()
            self.processes.append(process)

    def kill_one(self, random: np.random.Generator) -> bool:
        alive = [process for process in self.processes if process.is_alive()]
        if not alive:
            return False
        victim = alive[random.integers(len(alive))]
        os.kill(victim.pid, signal.SIGKILL)  # type: ignore[arg-type]
        victim.join()
        return victim.exitcode == -signal.SIGKILL

    def join(self) -> None:
        for process in self.processes:
            process.join(120)
            assert process.exitcode in (0, -signal.SIGKILL)


def fill_with_kills(work, root: Path, maker: ChunkMaker, processes: int, kills: int, seed: int) -> int:
    random, crew = np.random.default_rng(seed), Crew(work, root, maker, LARGER)
    crew.hire(processes)
    done = 0
    for _ in range(kills):
        time.sleep(random.uniform(0, 0.15))
        killed = crew.kill_one(random)
        done += killed
        crew.hire(int(killed))
    crew.join()
    return done


@pytest.mark.parametrize(
    ("processes", "kills"),
    [(1, 2), (2, 1), (4, 2), *(pytest.param(n, 7, marks=pytest.mark.slow) for n in (1, 2, 4))],
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


def test_two_processes_share_the_work(tmp_path, maker, monkeypatch) -> None:
    def work(folder: Path, maker: ChunkMaker, targets: Mapping[str, int]) -> None:
        for _ in fill(folder, maker, targets):
            pass

    real = ChunkMaker.make

    def signed(self: ChunkMaker, class_index: int, number: int) -> pd.DataFrame:
        (tmp_path / f"made-{class_index}-{number}-{os.getpid()}").touch()
        time.sleep(0.02)
        return real(self, class_index, number)

    monkeypatch.setattr(ChunkMaker, "make", signed)
    crew = Crew(work, tmp_path / "chunks", maker, LARGER)
    crew.hire(2)
    crew.join()
    made = [path.name.split("-")[1:] for path in tmp_path.glob("made-*")]
    assert len({(c, j) for c, j, _ in made}) == len(made)
    assert len({process for *_, process in made}) == 2
