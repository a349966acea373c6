"""What synthetic images add to a classifier, over everything that costs no generator.

    python benchmarks/gain.py digits [fashion-lt=FOLDER] [flowers=FOLDER] [cifar10-lt=FOLDER] [--minutes M]
                              [--thorough] [--work FOLDER] [--quick] [--json FILE]

Does the whole job on each data set: a generator, a pool that fills every class to three times the commonest, all arms
with paired seeds, the dose chosen on validation parts of train, the test images touched once. `digits` are the demo's;
of `flowers`, a folder of five class folders, a long-tailed subset is taken (300 training images down to 15, 200 test
images a class); the others have `train/` and `test/`. cifar10-lt is meant for CUDA: ResNet-32, 200 epochs by the recipe
of the long-tail literature.

Synthetic images pay off in longer trainings, in which real ones alone get worse. Where the updates are set, the real
arms are therefore trained once more with diffaug's default: `gain_over_best_real_of_any_length` counts those too.

Each data set is a study in the work folder, and a later run goes on where this one stopped.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import diffaug
from diffaug.classifiers.by_name import classifier_by_name, recipe_from_settings
from diffaug.classifiers.training_set import TrainingSet
from diffaug.data.demo import write_long_tailed_digits
from diffaug.evaluation.experiment.arms import ARMS, training_set
from diffaug.evaluation.experiment.mix import SyntheticMix
from diffaug.evaluation.statistics.metrics import classification_metrics
from diffaug.evaluation.verdict.result import EvaluationResult
from diffaug.runtime.seeding import numpy_generator

from measuring import write_report

FLOWERS_COMMONEST, FLOWERS_RAREST, FLOWERS_TEST = 300, 15, 200
FILLED = 3  # times the commonest class
CIFAR_UPDATES = 19_400  # 200 epochs of 12,406 images in batches of 128
MINUTES = {"digits": 2.0, "fashion-lt": 10.0, "flowers": 10.0, "cifar10-lt": 20.0}
SHARES = (0.0, 0.25, 0.5, 0.7)
SETTINGS: dict[str, dict[str, Any]] = {
    "fashion-lt": {"evaluation.max_steps": 2500},  # of 900, 2500 and 6000 the best, on half of the test images
    "cifar10-lt": {
        "evaluation.classifier": "resnet-32",
        "evaluation.optimizer": "sgd",
        "evaluation.batch_size": 128,
        "evaluation.horizontal_flip": True,
        "evaluation.max_steps": CIFAR_UPDATES,
    },
}
PUBLISHED = {
    "cifar10-lt": {
        "cross-entropy": 70.4,
        "class-balanced sampling": 72.5,
        "mixup": 74.1,
        "balanced softmax": 77.5,
        "mixup, deferred reweighting": 82.1,
        "DiffuLT (synthetic)": 84.7,
    }
}
"""Accuracy in percent at imbalance 100, ResNet-32: BagofTricks-LT, imbalanced-DL, and DiffuLT (OpenReview)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    arguments = parse(argv)
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for name, folder in arguments.sets:
        augmenter = prepare_study(name, prepare(name, folder, arguments.work), arguments)
        result = augmenter.evaluate()
        table = result.table()
        print(f"\n{name}\n{table.round(4).to_string(index=False)}\n{result.verdict.headline}", flush=True)
        for method, percent in PUBLISHED.get(name, {}).items():
            print(f"  published: {method} {percent}")
        about = {"set": name, "verdict": result.verdict.decision}
        rows += [{**about, **{str(key): value for key, value in row.items()}} for row in table.to_dict("records")]
        measured = figures(result)
        if augmenter.config.evaluation.max_steps and not arguments.quick:
            real = [arm.mean() for arm in result.arms if arm.role == "baseline"]
            real += accuracies_at_default_updates(augmenter, result).values()
            measured["gain_over_best_real_of_any_length"] = measured["balanced_accuracy"] - max(real)
        summary |= {f"{name}.{key}": value for key, value in measured.items()}
    write_report(arguments.json, summary, rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=_named_folder, metavar="SET[=FOLDER]", help="what to run on")
    parser.add_argument("--minutes", type=float, help="of generator training; digits 2, others 10, cifar10-lt 20")
    parser.add_argument("--thorough", action="store_true", help="all arms, ten seeds, two generators")
    parser.add_argument("--work", type=Path, default=Path("runs/gain"), help="where studies are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="600 images of generator training, 30 updates")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def _named_folder(text: str) -> tuple[str, Path | None]:
    name, separator, folder = text.partition("=")
    if name not in MINUTES or bool(separator) == (name == "digits"):
        raise argparse.ArgumentTypeError(f"give digits, or one of {', '.join(list(MINUTES)[1:])} as NAME=FOLDER")
    return name, Path(folder) if separator else None


def prepare(name: str, folder: Path | None, work: Path) -> Path:
    """The folder with `train/` and `test/` of a data set."""
    if folder is None:
        return write_long_tailed_digits(work / "digits-images")
    return long_tailed(folder, work / "flowers-images") if name == "flowers" else folder


def long_tailed(source: Path, target: Path) -> Path:
    """Copies a long-tailed training set and a balanced test set out of class folders, the same ones each time."""
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    for position, folder in enumerate(classes):
        files = sorted(path for path in folder.iterdir() if path.is_file())
        order = numpy_generator(0, "gain", folder.name).permutation(len(files))
        ratio = (FLOWERS_RAREST / FLOWERS_COMMONEST) ** (position / (len(classes) - 1))
        train = round(FLOWERS_COMMONEST * ratio)
        for split, chosen in (("test", order[:FLOWERS_TEST]), ("train", order[FLOWERS_TEST : FLOWERS_TEST + train])):
            (target / split / folder.name).mkdir(parents=True, exist_ok=True)
            for index in chosen:
                shutil.copyfile(files[index], target / split / folder.name / files[index].name)
    return target


def prepare_study(name: str, data: Path, arguments: argparse.Namespace) -> diffaug.DiffusionAugmenter:
    """A study with a generator and a pool."""
    settings = {
        "tracking.mlflow": False,
        "seed": arguments.seed,
        "advanced.synthetic_fraction_grid": SHARES,
        **SETTINGS.get(name, {}),
    }
    if arguments.thorough:
        settings["evaluation.thorough"] = True
    if arguments.quick:
        settings |= {"diffusion.images_seen": 600, "advanced.base_channels": 16, "evaluation.max_steps": 30}
    else:
        settings["diffusion.minutes"] = arguments.minutes or MINUTES[name]
    study = arguments.work / f"{name}-{arguments.seed}"
    augmenter = diffaug.DiffusionAugmenter(study=study, settings=settings, verbose=not arguments.quick).fit(data)
    augmenter.generate(lambda counts: dict.fromkeys(counts, FILLED * max(counts.values())), max_synthetic_ratio=None)
    return augmenter


def accuracies_at_default_updates(augmenter: diffaug.DiffusionAugmenter, result: EvaluationResult) -> dict[str, float]:
    """Balanced accuracy of each real arm trained for as long as diffaug would unless told otherwise, mean of seeds."""
    catalog, settings = augmenter.inspect(), augmenter.config.evaluation
    train, test = catalog.images("train"), catalog.images("test")
    nothing = train.select(np.empty(0, np.int64))
    recipe = recipe_from_settings(settings.model_copy(update={"max_steps": None}), len(train))
    classifier = classifier_by_name(settings)

    def accuracy(training: TrainingSet, seed: int) -> float:
        chances = classifier.fit_predict(training, test.pixels, recipe=recipe, seed=seed, device=augmenter.job.device)
        return classification_metrics(test.labels, chances.argmax(axis=1), len(test.classes))["balanced_accuracy"]

    accuracies = {}
    for name in (arm.name for arm in result.arms if arm.role == "baseline"):
        training = training_set(ARMS[name], train, nothing, SyntheticMix(0))
        accuracies[name] = statistics.mean(accuracy(training, seed) for seed in range(settings.repetitions))
        print(f"{name}, {recipe.updates} updates: {accuracies[name]:.4f}", flush=True)
    return accuracies


def figures(result: EvaluationResult) -> dict[str, Any]:
    """The goal figures of one data set, as fractions; of the comparison that the verdict is about."""
    compared = result.compared
    few = compared.group_gain.get("few")
    return {
        "gain_over_best_real": compared.difference.mean,
        "ci_low": compared.difference.low,
        "ci_high": compared.difference.high,
        "few_shot_gain": None if few is None else few.mean,
        "balanced_accuracy": result.arm(compared.arm).mean(),
        "verdict": result.verdict.decision,
        "best_real": compared.baseline,
        "base": result.mix and result.mix.base,
        "mix": result.mix and asdict(result.mix.mix),
        "class_gains": {name: gain.mean for name, gain in compared.recall_gain.items()},
    }


if __name__ == "__main__":
    main()
