"""How much the demo's synthetic images help, and how long the whole job takes.

    python benchmarks/demo.py [--quick] [--json FILE] [--picture FILE]

Runs the job of `diffaug demo` with several seeds, each with its own generator, pool and classifiers. `--picture` writes
the image that the README shows: real images on the left, synthetic ones on the right, in the order of the files.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import diffaug
from diffaug.data.demo import write_long_tailed_digits

from measuring import machine, versions

COLUMNS = 10
SCALE = 4
GAP = 4
MIDDLE = 24


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 12 seconds of training")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_long_tailed_digits(Path(folder) / "images")
        for seed in range(1 if arguments.quick else 3):
            augmenter, row = run(data, Path(folder) / f"study-{seed}", seed, minutes=0.2 if arguments.quick else 2.0)
            rows.append(row)
            print(json.dumps(row))
            if arguments.picture and seed == 0:
                picture(augmenter).save(arguments.picture)
    summary = {
        "gain_over_best_real": statistics.mean(row["gain"] for row in rows),
        "balanced_accuracy": statistics.mean(row["best synthetic"] for row in rows),
        "seconds": statistics.median(row["seconds"] for row in rows),
    }
    print(json.dumps(summary, indent=2))
    if arguments.json:
        content = {"summary": summary, "rows": rows, "machine": machine(), "versions": versions()}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def run(data: Path, study: Path, seed: int, minutes: float) -> tuple[diffaug.DiffusionAugmenter, dict[str, Any]]:
    """The whole job once; balanced accuracy of each arm, and the gain over the best real arm."""
    began = time.monotonic()
    settings = {"tracking.mlflow": False}
    augmenter = diffaug.DiffusionAugmenter(
        time_budget=minutes, study=study, seed=seed, settings=settings, verbose=False
    ).fit(data)
    augmenter.generate()
    result = augmenter.evaluate()
    accuracy = {arm.name: arm.mean() for arm in result.arms}
    best = max(result.comparisons, key=lambda comparison: comparison.difference.mean)
    row = {
        "seed": seed,
        **{name: round(value, 4) for name, value in accuracy.items()},
        "best synthetic": accuracy[best.arm],
        "gain": best.difference.mean,
        "low": best.difference.low,
        "high": best.difference.high,
        "verdict": result.verdict.decision,
        "seconds": round(time.monotonic() - began, 1),
    }
    return augmenter, row


def picture(augmenter: diffaug.DiffusionAugmenter) -> Image.Image:
    """Real and synthetic images side by side, a row for each class that has synthetic ones."""
    real = augmenter.inspect().images("train")
    synthetic = diffaug.Pool.open(augmenter.study.path).images()
    rows = []
    for index in np.flatnonzero(synthetic.class_counts >= COLUMNS):
        halves = [strip(images.pixels[images.labels == index]) for images in (real, synthetic)]
        rows.append(
            np.concatenate([halves[0], np.full((halves[0].shape[0], MIDDLE), 255, np.uint8), halves[1]], axis=1)
        )
    return Image.fromarray(np.concatenate(rows))


def strip(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The first images of uint8 (N, H, W, 1) in one row, enlarged, on white, which also parts them."""
    _, height, width, _ = pixels.shape
    tile_height, tile_width = height * SCALE + GAP, width * SCALE + GAP
    row = np.full((tile_height, COLUMNS * tile_width), 255, np.uint8)
    for position, image in enumerate(pixels[:COLUMNS, :, :, 0]):
        left = position * tile_width
        row[: height * SCALE, left : left + width * SCALE] = image.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    return row


if __name__ == "__main__":
    main()
