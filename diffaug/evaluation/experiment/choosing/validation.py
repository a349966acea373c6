"""Options that are trained on a part of the training images and judged on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.data.splits import assign_folds
from diffaug.evaluation.experiment.arms import Arm
from diffaug.evaluation.experiment.choice import Mix
from diffaug.evaluation.experiment.experiment import PILOT, TRAIN, PilotImages
from diffaug.evaluation.experiment.training_task import Subset, TrainingTask, predicted_classes
from diffaug.evaluation.experiment.trainings import Trainings
from diffaug.evaluation.statistics.calibration import true_class_probabilities
from diffaug.evaluation.statistics.crossed import ClassMeans
from diffaug.runtime.seeding import derive_seed

FOLDS_PURPOSE, JUDGED_PURPOSE = "choice of real arms", "choice of the mix"
JUDGED_SEEDS = 3
NO_SYNTHETIC = Mix(0.0)


@dataclass(frozen=True)
class Option:
    """A real arm and what is added to it."""

    arm: Arm
    mix: Mix = NO_SYNTHETIC


@dataclass(frozen=True)
class Part:
    """What is trained on, what is judged, and the seed."""

    real: Subset
    judged: Subset
    synthetic: Subset | None
    seed: int


class Validation:
    """Measures options on the images that are left out of each part, the same ones for all options.

    What is better has a higher score: the probability of the true class, see `true_class_probabilities`, mean over the
    images of each class and then over classes.

    Attributes:
        parts: Either folds that are left out in turn, or the same images with several seeds.
    """

    def __init__(self, trainings: Trainings, parts: Sequence[Part], *, same_images: bool = False) -> None:
        self.parts = tuple(parts)
        self._trainings = trainings
        self._same_images = same_images

    def correct(self, options: Sequence[Option], num_parts: int | None = None) -> list[list[NDArray[np.bool_]]]:
        """Which judged images each option gets right, by option and part; the first `num_parts` parts or all."""
        labels = [part.judged.labels for part in self.parts[:num_parts]]
        return [
            [predicted_classes(answer) == true for answer, true in zip(answers, labels, strict=True)]
            for answers in self._answers(options, num_parts)
        ]

    def credits(self, options: Sequence[Option], num_parts: int | None = None) -> list[list[NDArray[np.float64]]]:
        """The probability of the true class of each judged image, by option and part; 1 or 0 if answers are classes."""
        labels = [part.judged.labels for part in self.parts[:num_parts]]
        answered = list(zip(self._answers(options, num_parts), self.correct(options, num_parts), strict=True))
        return [
            true_class_probabilities(answers, labels) if answers[0].ndim == 2 else [one.astype(float) for one in right]
            for answers, right in answered
        ]

    def labels(self, num_parts: int | None = None) -> NDArray[np.int64]:
        """The classes of the judged images of all parts."""
        return np.concatenate([part.judged.labels for part in self.parts[:num_parts]])

    def scores(self, options: Sequence[Option], num_parts: int | None = None) -> list[float]:
        """The score of each option over the judged images of all parts together."""
        labels = self.labels(num_parts)
        return [mean_over_classes(np.concatenate(one), labels) for one in self.credits(options, num_parts)]

    def accuracies(self, options: Sequence[Option]) -> list[float]:
        """Balanced accuracy of each option over the judged images of all parts together."""
        labels = self.labels()
        return [mean_over_classes(np.concatenate(one), labels) for one in self.correct(options)]

    def spread(self, option: Option) -> float:
        """Standard deviation of the balanced accuracy over parts; 0 for a single one."""
        (correct,) = self.correct([option])
        values = [mean_over_classes(one, part.judged.labels) for one, part in zip(correct, self.parts, strict=True)]
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    def recall_differences(self, option: Option, reference: Option) -> ClassMeans:
        """Paired differences in recall, by class that occurs; seeds that all agree count as one."""
        first, second = self.correct([option, reference])
        return self._paired([one.astype(float) for one in first], [one.astype(float) for one in second])

    def score_differences(self, option: Option, reference: Option) -> ClassMeans:
        """Paired differences in score, by class that occurs; seeds that all agree count as one."""
        return self._paired(*self.credits([option, reference]))

    def _paired(self, first: list[NDArray[np.float64]], second: list[NDArray[np.float64]]) -> ClassMeans:
        if not self._same_images:
            values, labels = (np.concatenate(first) - np.concatenate(second))[None], self.labels()
        else:
            values, labels = np.array(first) - np.array(second), self.labels(1)
            agree = all(np.array_equal(one, same[0]) for same in (first, second) for one in same)
            values = values[:1] if agree else values
        return ClassMeans.of(values, np.unique(labels, return_inverse=True)[1], np.zeros(len(values), np.int64))

    def _answers(self, options: Sequence[Option], num_parts: int | None) -> list[list[NDArray[Any]]]:
        tasks = [task_of(option, part) for part in self.parts[:num_parts] for option in options]
        answers = self._trainings.answers(tasks)
        return [answers[number :: len(options)] for number in range(len(options))]

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


def mean_over_classes(values: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Mean over the images of each class that occurs, then over classes: balanced accuracy for right answers."""
    return float(np.mean([values[labels == label].mean() for label in np.unique(labels)]))


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
