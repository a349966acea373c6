"""What more real images would bring, to hold against what synthetic ones bring.

    python benchmarks/more_real.py DATA [--updates 2500] [--seeds 0 1] [--json FILE]

DATA has class folders in `train/` and `test/`. Half of the test images of each class join the training images; the
other half is tested, with and without the new ones, by the classifiers of `diffaug evaluate`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import diffaug
from diffaug.classifiers.library import classifier_by_name, recipe_from_settings
from diffaug.configuration.evaluation import EvaluationSettings
from diffaug.data.images import LabeledImages
from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.choice import Mix
from diffaug.evaluation.experiment.training_sets import Examples, concatenate, training_set
from diffaug.evaluation.statistics.metrics import FEW, class_recall, confusion
from diffaug.runtime.parallel import one_thread_each
from diffaug.runtime.seeding import numpy_generator

from measuring import write_report

REAL_ARMS = ("oversampling", "balanced softmax")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--updates", type=int, default=2500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    train, test = read_images(arguments.data)
    moved = half_of_each_class(test.labels)
    more, tested = concatenate(train, test.select(np.flatnonzero(moved))), test.select(np.flatnonzero(~moved))
    few = np.flatnonzero(train.class_counts < FEW)
    rows = []
    for name, images in (("train", train), ("train and half of test", more)):
        for arm in REAL_ARMS:
            recalls = np.mean([recalls_of(arm, images, tested, arguments.updates, seed) for seed in arguments.seeds], 0)
            row = {"images": name, "count": len(images), "arm": arm, "balanced accuracy": float(recalls.mean())}
            rows.append(row | {"few": float(recalls[few].mean()) if len(few) else None})
            print(rows[-1], flush=True)
    write_report(arguments.json, summarise(rows), rows)


def read_images(data: Path) -> tuple[LabeledImages, LabeledImages]:
    """Training and test images, as a study sees them."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"tracking.mlflow": False}
        augmenter = diffaug.DiffusionAugmenter(study=Path(folder) / "study", settings=settings, verbose=False)
        catalog = augmenter.attach(data).inspect()
        return catalog.images("train"), catalog.images("test")


def half_of_each_class(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Marks half of the images of each class, rounded down, the same ones each time."""
    marked = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        positions = numpy_generator(0, "more real", str(label)).permutation(np.flatnonzero(labels == label))
        marked[positions[: len(positions) // 2]] = True
    return marked


def recalls_of(arm: str, images: LabeledImages, tested: LabeledImages, updates: int, seed: int) -> NDArray[np.float64]:
    """Recall of each class, after a training by one real arm."""
    settings = EvaluationSettings(max_steps=updates)
    training = training_set(ARMS[arm], Examples(images), Examples(images.select(np.empty(0, np.int64))), Mix(0))
    recipe = recipe_from_settings(settings, len(images))
    with one_thread_each():  # as an evaluation trains
        chances = classifier_by_name(settings).fit_predict(
            training, tested.pixels, recipe=recipe, seed=seed, device="cpu"
        )
    return class_recall(confusion(tested.labels, chances.argmax(axis=1), len(tested.classes)))


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best arm without and with the new images; none where no class is rare."""
    figures: dict[str, Any] = {}
    for name, images in (("now", "train"), ("more_real", "train and half of test")):
        best = max((row for row in rows if row["images"] == images), key=lambda row: row["balanced accuracy"])
        figures |= {f"{name}.{key.replace(' ', '_')}": best[key] for key in ("arm", "balanced accuracy", "few")}
    return figures


if __name__ == "__main__":
    main()
