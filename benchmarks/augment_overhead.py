"""What synthetic images cost a training loop, as ratios within one run.

- An epoch of an `AugmentedDataset` against one of a `ConcatDataset` of two `ImageFolder`s over the same files.
- albumentations' `SyntheticReplace` against `CoarseDropout`, each applied to every image.
- Opening a pool of 100,000 images: seconds, and file calls, which strace counts.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import albumentations as A  # noqa: N812
import numpy as np
import pandas as pd
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import diffaug
from diffaug.files import storage
from diffaug.integrations.albumentations_transforms import SyntheticReplace
from diffaug.runtime import seeding
from diffaug.synthesis.pool.merging import manifest_columns
from diffaug.synthesis.pool.pool import IMAGES, MANIFEST

from measuring import alternate, write_report

CLASSES = ("dark", "bright")
EPOCH_SIZE, SIZES = 128, (32, 224)  # px
CALLS = "%file"
BEGIN, END = "/diffaug-begin", "/diffaug-end"  # looked for, so that strace shows when
OPENING = f"""
import os, sys
from diffaug.synthesis.pool.pool import Pool
import pandas, pyarrow.parquet
os.path.exists({BEGIN!r})
len(Pool.open(sys.argv[1]))
os.path.exists({END!r})
"""


def write_pool(root: Path, count: int, size: int) -> Path:
    """Writes a finished pool of `count` RGB images of smooth noise."""
    random, rows = seeding.numpy_generator(0, "augment overhead", size), []
    facts = {"classes": CLASSES, "image_size": [size, size], "channels": 3}
    noise = random.integers(0, 256, (16, size // 4, size // 4, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    contents = [storage.png_bytes(pixels) for pixels in noise]
    with storage.new_directory(root, facts) as staging:
        for number in range(count):
            label, content = CLASSES[number % 2], contents[number % len(contents)]
            file = f"{IMAGES}/{label}/{number:06d}.png"
            storage.write_unfinished(staging / file, content)
            row = dict.fromkeys(manifest_columns(()), "") | {"origin": "sampled", "index": number}
            rows.append(row | {"file": file, "label": label, "class_index": number % 2})
            rows[-1]["sha256"] = storage.sha256_bytes(content)
        storage.write_parquet(staging / MANIFEST, pd.DataFrame(rows))
    return root


def epoch_ratios(folder: Path, images: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of an epoch of half real, half synthetic images, by number of workers."""
    pool = write_pool(folder / "study" / "pool", images // 2, EPOCH_SIZE)
    shutil.copytree(pool / IMAGES, folder / "real")
    transform = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomResizedCrop(112, antialias=True), v2.PILToTensor()])
    real, synthetic = (ImageFolder(root, transform=transform) for root in (folder / "real", pool / IMAGES))
    datasets = {
        "AugmentedDataset": diffaug.AugmentedDataset(real, pool),
        "ImageFolders": ConcatDataset([real, synthetic]),
    }
    rows = []
    for workers in (0, 4):
        actions = {name: _epoch(dataset, workers) for name, dataset in datasets.items()}
        seconds = alternate(actions, "cpu", rounds=rounds, seconds=0)
        rows.append({"what": f"epoch, {workers} workers", **seconds})
        rows[-1]["ratio"] = seconds["AugmentedDataset"] / seconds["ImageFolders"]
    return rows


def _epoch(dataset: Dataset[Any], workers: int) -> Callable[[], object]:
    loader = DataLoader(dataset, batch_size=32, shuffle=True, num_workers=workers)

    def run() -> None:
        for _ in loader:
            pass

    return run


def replace_ratio(folder: Path, size: int, rounds: int) -> dict[str, Any]:
    """Microseconds per image of each transform."""
    pool = write_pool(folder / f"study{size}" / "pool", 256, size)
    image = np.zeros((size, size, 3), np.uint8)
    replace, dropout = SyntheticReplace(pool=pool, p=1.0), A.CoarseDropout(p=1.0)
    for _ in range(2000):  # reads each image of the pool
        replace(image=image, label="dark")
    actions = {
        "SyntheticReplace": lambda: replace(image=image, label="dark"),
        "CoarseDropout": lambda: dropout(image=image),
    }
    seconds = alternate(actions, "cpu", rounds=rounds, seconds=0.3)
    row: dict[str, Any] = {"what": f"replace, {size} px", **{name: 1e6 * one for name, one in seconds.items()}}
    return {**row, "ratio": seconds["SyntheticReplace"] / seconds["CoarseDropout"]}


def opening(folder: Path, images: int, rounds: int) -> dict[str, Any]:
    """Opening a pool and counting its images: median seconds, also of the CPU, and file calls; None without strace."""
    pool, times = write_pool(folder / "large" / "pool", images, 8), []
    time.sleep(3)  # file times younger than two seconds are not trusted
    for _ in range(rounds + 1):
        began = time.perf_counter(), time.process_time()
        len(diffaug.Pool.open(pool))
        times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    seconds, of_cpu = (statistics.median(one) for one in zip(*times[1:], strict=True))
    return {"open_s": seconds, "open_cpu_s": of_cpu, "open_calls": _file_calls(pool, folder / "calls.txt")}


def _file_calls(pool: Path, log: Path) -> int | None:
    if shutil.which("strace") is None:
        return None
    program = [sys.executable, "-c", OPENING, str(pool)]
    subprocess.run(["strace", "-f", "-e", f"trace={CALLS},read,pread64", "-o", str(log), *program], check=True)
    lines = log.read_text().splitlines()
    begin, end = (next(n for n, line in enumerate(lines) if mark in line) for mark in (BEGIN, END))
    return end - begin - 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures all three and prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and repetitions")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--images", type=int, help="in the pool that is opened  [default: 100000]")
    options = parser.parse_args(arguments)
    images = options.images or (2_000 if options.quick else 100_000)
    rounds = 2 if options.quick else 7
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = epoch_ratios(folder, 100 if options.quick else 1_000, rounds)
        replaced = {size: replace_ratio(folder, size, rounds) for size in SIZES}
        opened = opening(folder, images, rounds)
    summary = {
        "epoch_ratio": max(row["ratio"] for row in rows),
        "epoch_ratio_0_workers": rows[0]["ratio"],
        "epoch_ratio_4_workers": rows[1]["ratio"],
        "replace_ratio_224px": replaced[224]["ratio"],
        "replace_us_32px": replaced[32]["SyntheticReplace"],
        **opened,
        "open_images": images,
    }
    write_report(options.json, summary, [*rows, *replaced.values()])


if __name__ == "__main__":
    main()
