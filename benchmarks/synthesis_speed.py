"""How much of filling a pool is sampling, and what a second process adds.

    python benchmarks/synthesis_speed.py [--quick] [--json FILE] [--sizes 28 32]

A generator with random weights of the size that diffaug plans fills a pool of two classes: sampling, filters, PNG and
merge. All scores of the filters are computed; none rejects, so that every run is equally long. `network_share` is the
time inside the generator over the time of the whole, from the first chunk to the committed pool; beside it stand the
shares of the filters and of the rest. `two_process_ratio` compares one process with two that share the pool, one thread
each; it needs two idle cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffaug.configuration.advanced import AdvancedSettings
from diffaug.configuration.settings import DiffusionSettings, SynthesisSettings
from diffaug.diffusion.generator.network_files import for_inference
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.planning.planning import make_plan
from diffaug.diffusion.training.batches import TrainingData
from diffaug.files import locks, storage
from diffaug.synthesis.filters.preparing import prepare_filters
from diffaug.synthesis.pool.chunks import ChunkStore
from diffaug.synthesis.pool.filling import class_merges, fill_pool
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.merging import write_pool

from measuring import CHANNELS, print_table, random_images, write_report

TARGETS = {"0": 256, "1": 256}
QUICK_TARGETS = {"0": 64, "1": 64}


class Timed:
    """Something that adds up the time spent in it: in calls of itself, and of what is named.

    Args:
        target: What is timed.
        methods: Names of its methods that are timed as well.
    """

    def __init__(self, target: Any, *methods: str) -> None:
        self.target, self.methods, self.seconds = target, methods, 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        return partial(self._timed, value) if name in self.methods else value

    def __call__(self, *arguments: Any) -> Any:
        """As the target, timed."""
        return self._timed(self.target, *arguments)

    def _timed(self, call: Any, *arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        result = call(*arguments, **options)
        self.seconds += time.perf_counter() - began
        return result


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small pool, once")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", choices=CHANNELS, default=[28, 32], help="pixels")
    parser.add_argument("--rounds", type=int, help="turns; the median counts")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [measure(size, arguments) for size in arguments.sizes]
    summary = {key: min(row[key] for row in rows) for key in ("network_share", "two_process_ratio")}
    write_report(arguments.json, summary, rows)


def measure(size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: share of the network, and one process against two, in turn."""
    targets, rounds = (QUICK_TARGETS, 1) if arguments.quick else (TARGETS, 3)
    shares, filter_shares, alone, together = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        maker = make_maker(size, Path(folder) / "filters")
        complete(Path(folder) / "warm-up", maker, {"0": 1})
        for turn in range(arguments.rounds or rounds):
            network: Any = Timed(maker.generator, "draw")
            filters: Any = Timed(maker.filters, "duplicates")
            watched = replace(maker, generator=network, filters=filters)
            seconds = run(1, Path(folder) / f"one-{turn}", watched, targets, in_process=True)
            shares.append(network.seconds / seconds)
            filter_shares.append(filters.seconds / seconds)
            alone.append(run(1, Path(folder) / f"alone-{turn}", maker, targets))
            together.append(run(2, Path(folder) / f"two-{turn}", maker, targets))
    one, two = statistics.median(alone), statistics.median(together)
    row = {
        "size": size,
        "images": sum(targets.values()),
        "network_share": statistics.median(shares),
        "filters": statistics.median(filter_shares),
        "PNG, files, merge": 1 - statistics.median(shares) - statistics.median(filter_shares),
        "images/s, one process": sum(targets.values()) / one,
        "images/s, two processes": sum(targets.values()) / two,
        "two_process_ratio": one / two,
    }
    print_table([row])
    return row


def make_maker(size: int, folder: Path) -> ChunkMaker:
    """A generator with random weights, planned for images of `size` px, and everything else that chunks take."""
    images = random_images(size)
    plan = make_plan(images, DiffusionSettings(minutes=10), "cpu")
    data = TrainingData.of(images, "cpu")
    generator = PixelGenerator(
        classes=images.classes,
        weights_sha256="0" * 64,
        denoiser=for_inference(Denoiser(plan.network), "cpu"),
        normalization=data.normalization,
    )
    settings, groups = SynthesisSettings(filters=()), np.arange(len(images))
    filters = prepare_filters(folder, images, groups, settings=settings, seed=0, device="cpu", max_steps=20)
    return ChunkMaker(generator, filters, images, settings, AdvancedSettings().chunk_size, seed=0)


def run(processes: int, root: Path, maker: ChunkMaker, targets: dict[str, int], *, in_process: bool = False) -> float:
    """Seconds until the pool is committed; each process begins when all are ready."""
    if in_process:
        began = time.perf_counter()
        complete(root, maker, targets)
        return time.perf_counter() - began
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(processes + 1)
    workers = [context.Process(target=_work, args=(ready, root, maker, targets)) for _ in range(processes)]
    for process in workers:
        process.start()
    ready.wait()
    began = time.perf_counter()
    for process in workers:
        process.join()
    if any(process.exitcode for process in workers):
        raise RuntimeError("a process that fills the pool failed")
    return time.perf_counter() - began


def _work(ready: Any, root: Path, maker: ChunkMaker, targets: dict[str, int]) -> None:
    torch.set_num_threads(1)
    ready.wait()
    complete(root, maker, targets)


def complete(root: Path, maker: ChunkMaker, targets: dict[str, int]) -> None:
    """Fills the pool together with all others that do the same; the first one commits it."""
    store, merges = ChunkStore(root / "chunks"), class_merges(maker, targets)
    for _ in fill_pool(store, maker, merges):
        pass
    with locks.waiting_lock(root / ".turn.lock"):
        if storage.committed_metadata(root / "pool") is None:
            with storage.new_directory(root / "pool", {}) as staging:
                classes = maker.generator.classes
                write_pool(staging, merges, store, classes=classes, score_names=maker.filters.score_names)


if __name__ == "__main__":
    main()
