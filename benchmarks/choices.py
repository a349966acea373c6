"""How good the choices are: what was chosen on training images against the best of the same options on test images.

    python benchmarks/choices.py digits [fashion-lt=FOLDER] [flowers=FOLDER] [neu-lt=FOLDER] [--seeds 0 1 2]
                                 [--no-encoder] [--minutes M] [--work FOLDER] [--quick] [--json FILE]

For each set and seed the whole job is done as `gain.py` does it, and its studies are used again. Then every real arm,
tuned as it was, and every fraction of synthetic images on the bases that were considered is trained on all training
images and tested. Regret is the best of these test figures minus that of the chosen option; optimism is the chosen
option's validation figure minus its test figure. The test images decide nothing.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gain import add_job_options, generated
from sets import named_case

import diffaug
from diffaug.data.images import LabeledImages
from diffaug.evaluation.experiment.choice import Choice, Mix
from diffaug.evaluation.experiment.choosing.choose import choose_real
from diffaug.evaluation.experiment.choosing.mixes import bases
from diffaug.evaluation.experiment.choosing.validation import Option, mean_over_classes, task_of
from diffaug.evaluation.experiment.choosing.validation import Part as ValidationPart
from diffaug.evaluation.experiment.experiment import TEST, TRAIN, Experiment
from diffaug.evaluation.experiment.training_task import predicted_classes
from diffaug.evaluation.experiment.trainings import PURPOSE, Trainings
from diffaug.runtime.seeding import derive_seed
from diffaug.stages.evaluating.checks import require_unseen, seen_test_images
from diffaug.stages.evaluating.experiment import experiment_of, learners_of
from diffaug.synthesis.pool.pool import Pool

from measuring import write_report

TRAINED_SEEDS = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=named_case, metavar="SET[=FOLDER]", help="what to run on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add_job_options(parser)
    arguments = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for name, folder in arguments.sets:
        for seed in arguments.seeds:
            rows.append({"set": name, "seed": seed, **measure(name, folder, seed, arguments)})
            write_report(arguments.json, summarize(rows), rows)


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over sets and seeds, as fractions."""
    return {
        "regret_mean": statistics.mean(row["regret"] for row in rows),
        "regret_worst": max(row["regret"] for row in rows),
        "optimism_mean": statistics.mean(row["optimism"] for row in rows),
    }


def measure(name: str, folder: Path | None, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Regret and optimism of one study."""
    augmenter = generated(name, folder, None, seed, arguments)
    choice = augmenter.evaluate().choice
    assert choice is not None
    experiment = experiment_of_study(augmenter)
    options = considered(experiment, choice, augmenter.config.advanced.synthetic_fraction_grid)
    chosen = Option(choice.base_arm, choice.mix)
    figures = dict(zip(map(_name, options), test_figures(experiment, options), strict=True))
    best = max(figures, key=lambda one: figures[one])
    return {
        "chosen": _name(chosen),
        "best": best,
        "validation": validation_figure(choice),
        "test": figures[_name(chosen)],
        "regret": figures[best] - figures[_name(chosen)],
        "optimism": validation_figure(choice) - figures[_name(chosen)],
        "figures": figures,
    }


def experiment_of_study(augmenter: diffaug.DiffusionAugmenter) -> Experiment:
    """The experiment of a finished evaluation."""
    job, catalog = augmenter.job, augmenter.inspect()
    test = require_unseen(catalog.images("test"), seen_test_images(job, catalog), drop=True)
    pools, learners = [Pool.open(augmenter.study.pool)], learners_of(job, catalog, None, None)
    return experiment_of(job, catalog, test, pools, learners, stop_requested=lambda: False)


def considered(experiment: Experiment, choice: Choice, grid: Sequence[float]) -> list[Option]:
    """Every real arm, and every fraction on every base."""
    real = choose_real(Trainings(experiment))  # all of its trainings are on disk
    mixes = [Mix(fraction, excluded_classes=experiment.blind_classes) for fraction in sorted(set(grid)) if fraction]
    options = [Option(arm) for arm in real.arms] + [Option(arm, mix) for arm in bases(real) for mix in mixes]
    chosen = Option(choice.base_arm, choice.mix)
    return options if _name(chosen) in map(_name, options) else [*options, chosen]


def test_figures(experiment: Experiment, options: Sequence[Option]) -> list[float]:
    """Balanced accuracy of each option on the test images, mean over seeds."""
    parts = [
        ValidationPart(
            real=experiment.subset(TRAIN),
            judged=experiment.subset(TEST),
            synthetic=experiment.subset("pool-0"),
            seed=derive_seed(experiment.seed, PURPOSE, number),
        )
        for number in range(TRAINED_SEEDS)
    ]
    tasks = [task_of(option, part) for option in options for part in parts]
    answers = Trainings(experiment).answers(tasks)
    figures = [_accuracy(predicted_classes(one), experiment.test) for one in answers]
    means: list[float] = np.reshape(figures, (len(options), TRAINED_SEEDS)).mean(axis=1).tolist()
    return means


def validation_figure(choice: Choice) -> float:
    """What the choice was worth on training images left out."""
    for one in (*choice.refinements, *choice.mixtures):
        if choice.is_of(one):
            return one.mean
    return next(one.mean for one in choice.real if one.arm == choice.base)


def _accuracy(predicted: np.ndarray[Any, Any], test: LabeledImages) -> float:
    return mean_over_classes(predicted == test.labels, test.labels)


def _name(option: Option) -> str:
    mix = option.mix
    parts = [option.arm.name, option.arm.how, "" if mix.is_zero else f"{mix.fraction:.0%} synthetic"]
    parts += [f"loss weight {mix.loss_weight:g}"] * (mix.loss_weight != 1)
    parts += [f"without {', '.join(mix.excluded_classes)}"] * bool(mix.excluded_classes)
    return ", ".join(filter(None, parts))


if __name__ == "__main__":
    main()
