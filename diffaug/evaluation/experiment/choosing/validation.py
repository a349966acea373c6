"""Options that are trained on a part of the training images and judged on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffaug.data.splits import assign_folds
from diffaug.evaluation.experiment.arms import Arm
from diffaug.evaluation.experiment.experiment import PILOT, TRAIN, PilotImages
from diffaug.evaluation.experiment.mix import SyntheticMix
from diffaug.evaluation.experiment.training_task import Subset, TrainingTask
from diffaug.evaluation.experiment.trainings import Trainings
from diffaug.evaluation.statistics.crossed import ClassMeans
from diffaug.runtime.seeding import derive_seed

FOLDS_PURPOSE, JUDGED_PURPOSE = "choice of real arms", "choice of the mix"
JUDGED_SEEDS = 3
NO_SYNTHETIC = SyntheticMix(0.0)


@dataclass(frozen=True)
class Option:
    """A real arm and what is added to it."""

    arm: Arm
    mix: SyntheticMix = NO_SYNTHETIC


@dataclass(frozen=True)
class Part:
    """What is trained on, what is judged, and the seed."""

    real: Subset
    judged: Subset
    synthetic: Subset | None
    seed: int


class Validation:
    """Measures options on the images that are left out of each part, the same ones for all options.

    Attributes:
        parts: Either folds that are left out in turn, or the same images with several seeds.
    """

    def __init__(self, trainings: Trainings, parts: Sequence[Part], *, same_images: bool = False) -> None:
        self.parts = tuple(parts)
        self._trainings = trainings
        self._same_images = same_images

    def correct(self, options: Sequence[Option], num_parts: int | None = None) -> list[list[NDArray[np.bool_]]]:
        """Which judged images each option gets right, by option and part; the first `num_parts` parts or all."""
        parts = self.parts[:num_parts]
        tasks = [task_of(option, part) for part in parts for option in options]
        predicted = self._trainings.predicted(tasks)
        right = [answer == task.eval_images.labels for answer, task in zip(predicted, tasks, strict=True)]
        return [right[number :: len(options)] for number in range(len(options))]

    def labels(self, num_parts: int | None = None) -> NDArray[np.int64]:
        """The classes of the judged images of all parts."""
        return np.concatenate([part.judged.labels for part in self.parts[:num_parts]])

    def scores(self, options: Sequence[Option], num_parts: int | None = None) -> list[float]:
        """Balanced accuracy of each option over the judged images of all parts together."""
        labels = self.labels(num_parts)
        return [balanced_accuracy(np.concatenate(one), labels) for one in self.correct(options, num_parts)]

    def spread(self, option: Option) -> float:
        """Standard deviation of the balanced accuracy over parts; 0 for a single one."""
        (correct,) = self.correct([option])
        values = [balanced_accuracy(one, part.judged.labels) for one, part in zip(correct, self.parts, strict=True)]
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    def differences(self, option: Option, reference: Option) -> ClassMeans:
        """Paired differences in recall, by class that occurs; seeds that all agree count as one."""
        first, second = self.correct([option, reference])
        if not self._same_images:
            values = _minus(np.concatenate(first), np.concatenate(second))[None]
            labels = self.labels()
        else:
            values, labels = _minus(np.array(first), np.array(second)), self.labels(1)
            agree = all((one == same[0]).all() for same in (first, second) for one in same)
            values = values[:1] if agree else values
        return ClassMeans.of(values, np.unique(labels, return_inverse=True)[1], np.zeros(len(values), np.int64))

    def best(self, options: Sequence[Option]) -> Option:
        """The first of the best."""
        scores = self.scores(options)
        return options[int(np.argmax(scores))]

    def best_by_halving(self, options: Sequence[Option]) -> Option:
        """The best by successive halving: each part sees the better half of those that the parts before saw.

        Jamieson and Talwalkar 2016 (arXiv 1502.07943), with parts of the images as the budget. Of equals the first
        stays.
        """
        left = list(options)
        for number in range(1, len(self.parts) + 1):
            scores = self.scores(left, number)
            kept = 1 if number == len(self.parts) else -(-len(left) // 2)
            order = np.argsort(-np.array(scores), kind="stable")[:kept]
            left = [left[position] for position in sorted(order.tolist())]
        return left[0]


def cross_validation(trainings: Trainings) -> tuple[Validation, NDArray[np.int64]] | None:
    """Folds with whole groups, and the fold of each training image; None if each class is one image or one group.

    Every class keeps an image in each training; where that is impossible, its images are in all of them.
    """
    experiment = trainings.experiment
    fold_of = assign_folds(experiment.train.labels, experiment.groups, derive_seed(experiment.seed, FOLDS_PURPOSE))
    numbers = np.unique(fold_of[fold_of >= 0])
    if len(numbers) < 2:
        return None
    parts = [
        Part(
            real=experiment.subset(TRAIN, np.flatnonzero(fold_of != value)),
            judged=experiment.subset(TRAIN, np.flatnonzero(fold_of == value)),
            synthetic=None,
            seed=derive_seed(experiment.seed, FOLDS_PURPOSE, number),
        )
        for number, value in enumerate(numbers)
    ]
    return Validation(trainings, parts), fold_of


def on_judged_images(trainings: Trainings, pilot: PilotImages) -> Validation:
    """Several seeds, each judged on the images that the pilot has not seen and trained on all others."""
    experiment = trainings.experiment
    rest, judged = np.flatnonzero(~pilot.judged), np.flatnonzero(pilot.judged)
    parts = [
        Part(
            real=experiment.subset(TRAIN, rest),
            judged=experiment.subset(TRAIN, judged),
            synthetic=experiment.subset(PILOT),
            seed=derive_seed(experiment.seed, JUDGED_PURPOSE, number),
        )
        for number in range(JUDGED_SEEDS)
    ]
    return Validation(trainings, parts, same_images=True)


def balanced_accuracy(correct: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    """Mean recall over the classes that occur."""
    return float(np.mean([correct[labels == label].mean() for label in np.unique(labels)]))


def _minus(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.int8]:
    return first.astype(np.int8) - second


def task_of(option: Option, part: Part) -> TrainingTask:
    """The training of an option on one part."""
    return TrainingTask(
        arm=option.arm if option.mix == NO_SYNTHETIC else replace(option.arm, synthetic="filtered"),
        base=None,
        mix=option.mix,
        real=part.real,
        synthetic=part.synthetic,
        eval_images=part.judged,
        seed=part.seed,
    )
