"""How much the demo's synthetic images help, and how long the whole job takes.

    python benchmarks/demo.py [--quick] [--json FILE]

Runs the job of `diffaug demo` with several seeds, each with its own generator, pool and classifiers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import diffaug
from diffaug.data.demo import write_long_tailed_digits

from measuring import machine, versions


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 12 seconds of training")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_long_tailed_digits(Path(folder) / "images")
        for seed in range(1 if arguments.quick else 3):
            row = run(data, Path(folder) / f"study-{seed}", seed, minutes=0.2 if arguments.quick else 2.0)
            rows.append(row)
            print(json.dumps(row))
    summary = {
        "gain_over_best_real": statistics.mean(row["gain"] for row in rows),
        "balanced_accuracy": statistics.mean(row["best synthetic"] for row in rows),
        "seconds": statistics.median(row["seconds"] for row in rows),
    }
    print(json.dumps(summary, indent=2))
    if arguments.json:
        content = {"summary": summary, "rows": rows, "machine": machine(), "versions": versions()}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def run(data: Path, study: Path, seed: int, minutes: float) -> dict[str, Any]:
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
    return {
        "seed": seed,
        **{name: round(value, 4) for name, value in accuracy.items()},
        "best synthetic": accuracy[best.arm],
        "gain": best.difference.mean,
        "low": best.difference.low,
        "high": best.difference.high,
        "verdict": result.verdict.decision,
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    main()
