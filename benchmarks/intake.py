"""How long it takes to read a data folder, beside a pass of torchvision's ImageFolder and DataLoader over it.

The first pass goes from the folder to the array at the working size, which is given: 32 px images as they are, photos
of 512 px at 64 px. The peer decodes and resizes the same files with one worker per core and keeps no pixels. Both take
turns, each in a process of its own. The search for near-duplicates is a row of its own. The second start opens the
catalog after looking at every file. Memory is the peak of the process and, added to it, that of its largest worker.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffaug.runtime import seeding

CLASSES = 10
SMALL, PHOTO = 32, 512  # px
WORKING_SIZE = {"small": 32, "photos": 64}
COUNTS = {"small": (10_000, 100_000), "photos": (5_000,)}
QUICK_COUNTS = {"small": (1_000, 4_000), "photos": (100,)}
FIRST_PASS, PEER, SECOND_START, COMPARING = "first pass", "ImageFolder", "second start", "near-duplicates"


def write_images(folder: Path, kind: str, count: int) -> None:
    """Writes class folders of PNGs of 32 px, or of JPEGs of smooth noise of 512 px."""

    def write(number: int) -> None:
        random = seeding.numpy_generator(0, "intake", kind, number)
        side, grain, suffix = (SMALL, 8, "png") if kind == "small" else (PHOTO, 32, "jpg")
        noise = Image.fromarray(random.integers(0, 256, (grain, grain, 3), dtype=np.uint8))
        noise.resize((side, side), Image.Resampling.BICUBIC).save(_file(folder, number, suffix), quality=90)

    for number in range(CLASSES):
        (folder / f"class{number}").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))


def _file(folder: Path, number: int, suffix: str) -> Path:
    return folder / f"class{number % CLASSES}" / f"{number:06d}.{suffix}"


def first_pass(root: Path, study: Path, side: int, *, compare: bool = False) -> None:
    """From the folder to the saved catalog."""
    from diffaug.configuration.settings import DataSettings
    from diffaug.data.building.build import build_catalog

    settings = DataSettings(image_size=side, near_duplicates=compare)
    build_catalog(root, settings, directory=study / "catalog", seed=0)


def second_start(root: Path, study: Path, side: int) -> None:
    """Opens a saved catalog and looks for files that changed."""
    from diffaug.configuration.settings import DataSettings
    from diffaug.data.building.changes import describe_changes
    from diffaug.data.catalog import Catalog

    catalog = Catalog.load(study / "catalog")
    changes = describe_changes(catalog, root, DataSettings(image_size=side), study / "catalog")
    assert not changes, changes
    assert len(catalog.images("train"))


def peer(root: Path, study: Path, side: int) -> None:
    """One pass over the files with torchvision."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, PILToTensor, Resize

    images = ImageFolder(root, Compose([Resize(side), PILToTensor()]))
    for _ in DataLoader(images, batch_size=256, num_workers=os.cpu_count() or 1):
        pass


def comparing(root: Path, study: Path, side: int) -> None:
    """The search for near-duplicates among the pictures of a saved catalog."""
    from diffaug.data.catalog import Catalog
    from diffaug.similarity.near_duplicates import near_duplicates

    near_duplicates(Catalog.load(study / "catalog").pictures.small())


STEPS: dict[str, Callable[[Path, Path, int], None]] = {
    FIRST_PASS: first_pass,
    PEER: peer,
    SECOND_START: second_start,
    COMPARING: comparing,
}


def run_step(step: str, root: Path, study: Path, side: int) -> dict[str, float]:
    """Runs one step in this process; returns its seconds, imports included, and its peak of memory in MB."""
    began = time.perf_counter()
    STEPS[step](root, study, side)
    seconds = time.perf_counter() - began
    own, workers = memory_peaks()
    return {"seconds": seconds, "peak_mb": own + max(workers, default=0)}


def memory_peaks() -> tuple[float, list[float]]:
    """The peak in MB of this process, and of each process that it started and that still runs; Linux only.

    What the system says of processes that ended counts the memory of the one that started them.
    """
    processes = [_status(file) for file in Path("/proc").glob("[0-9]*/status")]
    started = [process for process in processes if process.get("PPid") == str(os.getpid())]
    own, *workers = (
        float(process["VmHWM"].split()[0]) / 1024 for process in (_status(Path("/proc/self/status")), *started)
    )
    return own, workers


def _status(file: Path) -> dict[str, str]:
    try:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file.read_text().splitlines())}
    except OSError:  # it ended meanwhile
        return {}


def in_new_process(step: str, root: Path, study: Path, side: int) -> dict[str, float]:
    """Runs one step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, str(root), str(study), str(side)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure(folder: Path, kind: str, count: int, *, rounds: int, compare: bool) -> dict[str, Any]:
    """Measures all steps on one set in turn."""
    root, side = folder / f"{kind}-{count}", WORKING_SIZE[kind]
    write_images(root, kind, count)
    time.sleep(3)  # file times younger than two seconds are not trusted
    runs: dict[str, list[dict[str, float]]] = {FIRST_PASS: [], PEER: [], SECOND_START: []}
    for turn in range(rounds):
        study = folder / f"study-{kind}-{count}-{turn}"
        for step, measured in runs.items():
            measured.append(in_new_process(step, root, study, side))
    if compare:
        runs[COMPARING] = [in_new_process(COMPARING, root, folder / f"study-{kind}-{count}-0", side)]
    medians = {step: statistics.median(run["seconds"] for run in measured) for step, measured in runs.items()}
    return {
        "set": kind,
        "images": count,
        "first_pass_s": medians[FIRST_PASS],
        "imagefolder_s": medians[PEER],
        "ratio": medians[FIRST_PASS] / medians[PEER],
        "second_start_s": medians[SECOND_START],
        "near_duplicates_s": medians.get(COMPARING),
        "peak_mb": max(run["peak_mb"] for run in runs[FIRST_PASS]),
        "second_start_peak_mb": max(run["peak_mb"] for run in runs[SECOND_START]),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measures all sets and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and one turn")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, help="turns; the median counts  [default: 3]")
    parser.add_argument("--compared", type=int, default=20_000, help="the most images searched for near-duplicates")
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        step, root, study, side = options.step
        print(json.dumps(run_step(step, Path(root), Path(study), int(side))))
        return
    counts = QUICK_COUNTS if options.quick else COUNTS
    rounds = options.rounds or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(Path(folder), kind, count, rounds=rounds, compare=count <= options.compared)
            for kind, each in counts.items()
            for count in each
        ]
    summary = {
        "first_pass_ratio": max(row["ratio"] for row in rows),
        "second_start_s": max(row["second_start_s"] for row in rows),
        "peak_mb": max(row["peak_mb"] for row in rows),
    }
    from measuring import write_report  # imports torch, which the processes of the steps do without

    write_report(options.json, summary, rows)


if __name__ == "__main__":
    main()
