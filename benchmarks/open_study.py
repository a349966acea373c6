"""How long a command takes to open a study before its own work starts: settings, catalog and pool.

The study is real (a tiny generator is trained, a few images are generated); its pool is then filled up with noise
images on disk. Opening it must read records and must not hash the images.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import diffaug
from diffaug.files import storage
from diffaug.runtime import seeding
from diffaug.synthesis.pool.pool import MANIFEST

from measuring import write_report

CLASSES = ("dark", "bright")
IMAGE_SIZE = 32
SETTINGS = {
    "data.near_duplicates": False,
    "diffusion.images_seen": 32,
    "advanced.base_channels": 16,
    "diffusion.batch_size": 16,
    "synthesis.num_inference_steps": 1,
    "synthesis.filters": [],
    "tracking.mlflow": False,
}


def write_images(folder: Path, count: int) -> Path:
    """Writes `count` grey images of noise as PNG, `train/<class>/` and one of ten as `test/<class>/`."""
    random = seeding.numpy_generator(0, "open study", "images")
    for number in range(count):
        split = "test" if number % 10 < len(CLASSES) else "train"
        file = folder / split / CLASSES[number % 2] / f"{number:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(storage.png_bytes(random.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)))
    return folder


def fill_pool(pool: Path, count: int) -> None:
    """Fills a finished pool up to `count` images with noise and commits it again with what was recorded."""
    random = seeding.numpy_generator(0, "open study", "pool")
    recorded, manifest = storage.committed_metadata(pool), pd.read_parquet(pool / MANIFEST)
    rows = []
    for number in range(len(manifest), count):
        row = dict(manifest.iloc[number % len(manifest)])
        content = storage.png_bytes(random.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8))
        folder = Path(row["file"]).parent
        row |= {"file": (folder / f"noise-{number:06d}.png").as_posix(), "sha256": storage.sha256_bytes(content)}
        (pool / row["file"]).write_bytes(content)
        rows.append(row)
    storage.write_parquet(pool / MANIFEST, pd.concat([manifest, pd.DataFrame(rows)], ignore_index=True))
    storage.commit_directory(pool, recorded or {})


def make_study(folder: Path, *, real: int, synthetic: int) -> Path:
    """Makes a study of `real` images with a pool of `synthetic` images; returns its folder."""
    study = folder / "study"
    augmenter = diffaug.DiffusionAugmenter(study=study, settings=SETTINGS, verbose=False)
    augmenter.fit(write_images(folder / "images", real))
    augmenter.generate({"bright": real // 2 + 2})
    fill_pool(study / "pool", synthetic)
    return study


def open_once(study: Path) -> dict[str, float]:
    """Opens the study as `diffaug report` does; returns the seconds of each step."""
    seconds: dict[str, float] = {}
    augmenter = _timed("settings", lambda: diffaug.DiffusionAugmenter.open(study, verbose=False), seconds)
    _timed("catalog", augmenter.inspect, seconds)
    _timed("pool", lambda: diffaug.Pool.open(study), seconds)
    return {**seconds, "all": sum(seconds.values())}


def _timed(name: str, action: Callable[[], Any], seconds: dict[str, float]) -> Any:
    began = time.perf_counter()
    result = action()
    seconds[name] = time.perf_counter() - began
    return result


def main(arguments: list[str] | None = None) -> None:
    """Makes the study, opens it several times and prints the median seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small pool and few repetitions")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--synthetic", type=int, help="images in the pool  [default: 50000]")
    parser.add_argument("--real", type=int, help="real images  [default: 5000]")
    options = parser.parse_args(arguments)
    synthetic = options.synthetic or (300 if options.quick else 50_000)
    real = options.real or (60 if options.quick else 5_000)
    with tempfile.TemporaryDirectory() as folder:
        study = make_study(Path(folder), real=real, synthetic=synthetic)
        time.sleep(3)  # file times younger than two seconds are not trusted
        measured = [open_once(study) for _ in range(2 if options.quick else 5)]
    rows = [
        {"step": step, "median_seconds": statistics.median(one[step] for one in measured), "first": measured[0][step]}
        for step in measured[0]
    ]
    summary = {"open_study_seconds": rows[-1]["median_seconds"], "synthetic_images": synthetic, "real_images": real}
    write_report(options.json, summary, rows)


if __name__ == "__main__":
    main()
