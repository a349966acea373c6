"""Whether the demo's answer depends on how long its generator may train, and how long the whole job takes.

    python benchmarks/demo.py [--budgets 40000 100000 200000 400000] [--seeds 0] [--work FOLDER] [--quick] [--json FILE]

Does the job of `diffaug demo` once per seed and budget, the most images that the generator and its pilot may see; first
with the two minutes of the demo itself. Each is a study in the work folder, and a later run goes on where this one
stopped. Copies are counted among all candidates of classes of ten or more images.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path
from typing import Any

import diffaug
from diffaug.data.demo import write_long_tailed_digits
from diffaug.diffusion.generator.files import read_record as read_generator
from diffaug.files.records import read_record
from diffaug.synthesis.audit.memorization import POOL_AUDIT
from diffaug.synthesis.pool.pool import AUDIT

from measuring import write_report

ENOUGH_IMAGES = 10


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="*", default=[40_000, 100_000, 200_000, 400_000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/demo-budgets"), help="where studies are kept")
    parser.add_argument("--quick", action="store_true", help="one budget of 600 images, 30 updates")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    budgets = [600] if arguments.quick else [None, *arguments.budgets]
    rows: list[dict[str, Any]] = []
    for seed, budget in product(arguments.seeds, budgets):
        rows.append(run(arguments.work, seed, budget, quick=arguments.quick))
        print(rows[-1], flush=True)
        write_report(arguments.json, summarize(rows), rows)


def run(work: Path, seed: int, budget: int | None, *, quick: bool) -> dict[str, Any]:
    """The whole job once."""
    began = time.monotonic()
    settings: dict[str, Any] = {"tracking.mlflow": False, "seed": seed, "diffusion.images_seen": budget}
    if quick:
        settings |= {"advanced.base_channels": 16, "evaluation.max_steps": 30}
    augmenter = diffaug.DiffusionAugmenter(
        study=work / f"{budget or 'default'}-{seed}", recipe="demo", settings=settings, verbose=False
    )
    result = augmenter.run(write_long_tailed_digits(work / "images"))
    training = read_generator(augmenter.study.generator).training
    compared = result.compared
    return {
        "budget": budget,
        "seed": seed,
        "images_seen": training["images seen"],
        "copies": _copy_share(augmenter),
        "best_real": result.arm(compared.baseline).mean(),
        "gain": compared.difference.mean,
        "ci_low": compared.difference.low,
        "ci_high": compared.difference.high,
        "verdict": result.verdict.decision,
        "seconds": round(time.monotonic() - began, 1),
    }


def _copy_share(augmenter: diffaug.DiffusionAugmenter) -> float:
    real = augmenter.inspect().images("train").counts_by_name
    audits = read_record(augmenter.study.pool_report / AUDIT, POOL_AUDIT).classes
    shares = [audit.copies for name, audit in audits.items() if real[name] >= ENOUGH_IMAGES]
    return sum(share.count for share in shares) / max(sum(share.total for share in shares), 1)


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst share of copies, the verdicts found, and the time of the demo as it is."""
    return {
        "verdicts": sorted({row["verdict"] for row in rows}),
        "copies": max(row["copies"] for row in rows),
        "gain_low": min(row["gain"] for row in rows),
        "gain_high": max(row["gain"] for row in rows),
        "seconds": next((row["seconds"] for row in rows if row["budget"] is None), None),
    }


if __name__ == "__main__":
    main()
