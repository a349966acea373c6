"""What a classifier gains from synthetic images, over the best that costs no generator.

    python benchmarks/gain.py digits [fashion-lt=FOLDER] [flowers=FOLDER] [neu-lt=FOLDER] [neu-lt-128=FOLDER]
                              [cifar10-lt=FOLDER] [--unlabeled WAY ...] [--no-encoder] [--minutes M]
                              [--thorough] [--seed S] [--work FOLDER] [--quick] [--json FILE]

Does the whole job on each set with default settings: a generator, a pool, the choices on training images, all arms with
paired seeds, the test images touched once. `--unlabeled` gives unlabeled images to the real arms and in one or more
ways, as of `diffusion.unlabeled`, to the generator: those of neu-lt, those of flowers that are in no split, half of
digits' test images, five sixths of the training images of other sets. `--no-encoder` compares networks that are trained
from scratch only. cifar10-lt is meant for CUDA: ResNet-32, 200 epochs by the recipe of the long-tail literature.

Each case is a study in the work folder, and a later run goes on where this one stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from sets import CASES, named_case, prepare

import diffaug
from diffaug.evaluation.verdict.result import EvaluationResult

from measuring import write_report

WAYS = ("auto", "ignore", "no label", "pseudo-labels")
PUBLISHED = {
    "cifar10-lt": {
        "cross-entropy": 70.4,
        "class-balanced sampling": 72.5,
        "mixup": 74.1,
        "balanced softmax": 77.5,
        "mixup, deferred reweighting": 82.1,
        "DiffuLT (synthetic), claimed, not confirmed": 84.7,
    }
}
"""Accuracy in percent at imbalance 100, ResNet-32: BagofTricks-LT, imbalanced-DL, and what DiffuLT is said to have."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    arguments = parse(argv)
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for (name, folder), way in product(arguments.sets, arguments.unlabeled or [None]):
        result = generated(name, folder, way, arguments.seed, arguments).evaluate()
        table = result.table()
        print(f"\n{name}\n{table.round(4).to_string(index=False)}\n{result.verdict.headline}", flush=True)
        for method, percent in PUBLISHED.get(name, {}).items():
            print(f"  published: {method} {percent}")
        key = ".".join([name, *_way_in_words(way), *["from-scratch"] * arguments.no_encoder])
        about = {"set": key, "verdict": result.verdict.decision}
        rows += [{**about, **{str(key): value for key, value in row.items()}} for row in table.to_dict("records")]
        summary |= {f"{key}.{figure}": value for figure, value in figures(result).items()}
        write_report(arguments.json, summary, rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=named_case, metavar="SET[=FOLDER]", help="what to run on")
    parser.add_argument("--unlabeled", nargs="+", choices=WAYS, help="with unlabeled images, used in these ways")
    parser.add_argument("--thorough", action="store_true", help="all arms, ten seeds, two generators")
    parser.add_argument("--seed", type=int, default=0)
    add_job_options(parser)
    return parser.parse_args(argv)


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Options of a job on a set, whatever is measured of it."""
    parser.add_argument("--no-encoder", action="store_true", help="without arms of a pretrained encoder")
    parser.add_argument("--minutes", type=float, help="most of generator training; digits 2, cifar10-lt 20, others 30")
    parser.add_argument("--work", type=Path, default=Path("runs/gain"), help="where studies are kept")
    parser.add_argument("--quick", action="store_true", help="600 images of generator training, 30 updates")
    parser.add_argument("--json", type=Path)


def _way_in_words(way: str | None) -> list[str]:
    return [] if way is None else ["unlabelled"] if way == "auto" else ["unlabelled", way.replace(" ", "-")]


def generated(
    name: str, folder: Path | None, way: str | None, seed: int, arguments: argparse.Namespace
) -> diffaug.DiffusionAugmenter:
    """A generator and a pool for one set, with unlabeled images used in one way, or without any."""
    data = prepare(name, folder, arguments.work, unlabeled=way is not None)
    study = [name, *_way_in_words(way), *["from-scratch"] * arguments.no_encoder, str(seed)]
    augmenter = diffaug.DiffusionAugmenter(
        study=arguments.work / "-".join(study),
        settings=settings_of(name, way, seed, arguments),
        verbose=not arguments.quick,
    ).fit(data)
    augmenter.generate()
    return augmenter


def settings_of(name: str, way: str | None, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of one job."""
    settings = {"tracking.mlflow": False, "seed": seed, "evaluation.drop_leaked": True, **CASES[name].settings}
    if way is not None:
        settings["diffusion.unlabeled"] = way
    if arguments.no_encoder:
        settings["encoder"] = "none"
    if getattr(arguments, "thorough", False):
        settings["evaluation.thorough"] = True
    if arguments.quick:
        return settings | {"diffusion.images_seen": 600, "advanced.base_channels": 16, "evaluation.max_steps": 30}
    return settings | {"diffusion.minutes": arguments.minutes or CASES[name].minutes}


def figures(result: EvaluationResult) -> dict[str, Any]:
    """The goal figures of one set, as fractions; of the comparison that the verdict is about."""
    compared, choice = result.compared, result.choice
    few = compared.group_gain.get("few")
    real = {arm.name: arm.mean() for arm in result.arms if arm.role == "baseline"}
    return {
        "best_real": real[compared.baseline],
        "best_real_arm": compared.baseline,
        "plain": real.get("real only"),
        "gain": compared.difference.mean,
        "gain_over_best_real": compared.difference.mean,
        "ci_low": compared.difference.low,
        "ci_high": compared.difference.high,
        "few_shot_gain": None if few is None else few.mean,
        "balanced_accuracy": result.arm(compared.arm).mean(),
        "verdict": result.verdict.decision,
        "base": choice and choice.base,
        "mix": choice and asdict(choice.mix),
        "class_gains": {name: gain.mean for name, gain in compared.recall_gain.items()},
    }


if __name__ == "__main__":
    main()
