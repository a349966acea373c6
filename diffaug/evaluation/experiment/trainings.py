"""Every arm trained with the same seeds and tested on the same images; and the trainings that choices need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.pseudo_labels import pseudo_labels
from diffaug.data.splits import assign_folds
from diffaug.errors import DamagedError, UsageError
from diffaug.evaluation.experiment.arms import Arm
from diffaug.evaluation.experiment.choice import Choice
from diffaug.evaluation.experiment.experiment import TEST, TRAIN, UNLABELED, Experiment
from diffaug.evaluation.experiment.training_task import Outcome, PseudoLabeledSubset, Subset, TrainingTask
from diffaug.evaluation.experiment.trials import Trial, read_trial, write_trial
from diffaug.files import storage
from diffaug.runtime.seeding import derive_seed

FOLDER = "trainings"
Finished = Callable[[TrainingTask, Outcome | None], None]
"""Called after each training, and without an outcome for one that was finished before."""

PURPOSE, FEWER = "evaluation", "fewer real images"


def ignore(task: TrainingTask, outcome: Outcome | None) -> None:
    """Does nothing when a training is finished."""


class Trainings:
    """Does trainings, in several processes where possible, unless their answers are on disk."""

    def __init__(self, experiment: Experiment, finished: Finished = ignore) -> None:
        self.experiment = experiment
        self._finished = finished
        self._answers: dict[str, NDArray[Any]] = {}

    def answers(self, tasks: Sequence[TrainingTask]) -> list[NDArray[Any]]:
        """What each training answers for its images: classes (N,) or class probabilities (N, K)."""
        tasks = self.with_pseudo_labels(tasks)
        names = list(map(self.experiment.fingerprint, tasks))
        missing = {name: task for name, task in zip(names, tasks, strict=True) if not self._is_known(name, task)}
        with closing(self.experiment.run(missing)) as outcomes:
            for name, outcome in outcomes:
                storage.write_array(self._file(name), outcome.answer, signed=True)
                self._answers[name] = outcome.answer
                self._finished(missing[name], outcome)
        return [self._answers[name] for name in names]

    def with_pseudo_labels(self, tasks: Sequence[TrainingTask]) -> list[TrainingTask]:
        """The tasks, those that train on unlabeled images with labels by a teacher.

        The teacher is the same arm, trained on the same labeled images with the same seed, without unlabeled and
        synthetic ones.
        """
        if self.experiment.unlabeled is None:
            return list(tasks)
        images = self.experiment.subset(UNLABELED)
        learning = [task.resolved.pseudo_labeling is not None for task in tasks]
        if not any(learning):
            return list(tasks)
        teachers = [
            replace(task, arm=teacher_of(task.resolved), base=None, synthetic=None, eval_images=images)
            for task, learns in zip(tasks, learning, strict=True)
            if learns
        ]
        answers = iter(self.answers(teachers))
        return [
            _labeled(task, images, next(answers), self._likeness(task)) if learns else task
            for task, learns in zip(tasks, learning, strict=True)
        ]

    def _likeness(self, task: TrainingTask) -> NDArray[np.float64]:
        """How far each unlabeled image looks like the labeled ones; 0 if it belongs together with a judged one."""
        unlabeled, judged = self.experiment.unlabeled, task.eval_images
        assert unlabeled is not None
        if unlabeled.groups is None or judged.dataset is not self.experiment.train:
            return unlabeled.weights
        groups = self.experiment.groups if judged.positions is None else self.experiment.groups[judged.positions]
        return np.where(np.isin(unlabeled.groups, groups), 0.0, unlabeled.weights)

    def _is_known(self, name: str, task: TrainingTask) -> bool:
        if name not in self._answers and self._file(name).exists():
            try:
                self._answers[name] = storage.read_signed_array(self._file(name))
            except DamagedError:  # done again
                storage.discard_directory(self._file(name))
                return False
            self._finished(task, None)
        return name in self._answers

    def _file(self, name: str) -> Path:
        return self.experiment.directory / FOLDER / f"{name}.npy"


def teacher_of(arm: Arm) -> Arm:
    """The arm without unlabeled and synthetic images."""
    return replace(arm, pseudo_labeling=None, synthetic="none", control="none", on_best=False)


def _labeled(task: TrainingTask, images: Subset, answer: NDArray[Any], likeness: NDArray[np.float64]) -> TrainingTask:
    """The task with pseudo-labels, each weighed by how sure it is and by the likeness of its image."""
    labeling = task.resolved.pseudo_labeling
    if labeling is None or answer.ndim != 2:
        raise UsageError(
            "pseudo-labels need class probabilities, and this training returns classes",
            where="evaluation.arms",
            fix="remove the arm 'pseudo-labels', or return probabilities",
        )
    given = pseudo_labels(answer, labeling.threshold, labeling.class_balanced)
    return replace(task, pseudo=PseudoLabeledSubset(images, replace(given, weights=given.weights * likeness)))


def run_experiment(
    experiment: Experiment,
    choice: Choice,
    finished: Finished = ignore,
    expect: Callable[[int], None] = lambda left: None,
) -> Iterator[Trial]:
    """Trains every arm as chosen with every seed and yields each trial once it is on disk.

    Seeds are the outer loop, so everything finished is paired. All arms of a seed share initial weights, random draws
    and shifts. A trial on disk with the same fingerprint is read instead of trained. Arms with identical trainings, as
    all have at a mix of zero, are trained once, and what has no random draw is trained once for all seeds. `finished`
    is called after each training, and `expect` before the first one with the number of networks to train.
    """
    keys = [(number, arm.name) for number in range(experiment.settings.repetitions) for arm in experiment.arms]
    given = [_test_task(experiment, choice, *key) for key in keys]
    tasks = dict(zip(keys, Trainings(experiment, finished).with_pseudo_labels(given), strict=True))
    inputs = {key: experiment.fingerprint(task) for key, task in tasks.items()}
    read = {key: read_trial(experiment.directory, key[1], key[0], name) for key, name in inputs.items()}
    trials = {key: trial for key, trial in read.items() if trial is not None}
    missing = {inputs[key]: task for key, task in tasks.items() if key not in trials}
    expect(sum(task.resolved.learner != "features" for task in missing.values()))
    with closing(experiment.run(missing)) as outcomes:
        for key in tasks:
            while key not in trials:
                name, outcome = next(outcomes)
                for number, arm in (key for key in tasks if inputs[key] == name):
                    trials[number, arm] = _trial(experiment, outcome, arm, number)
                    write_trial(experiment.directory, trials[number, arm], name)
                finished(missing[name], outcome)
            yield trials[key]


def run_on_fewer_images(experiment: Experiment, choice: Choice, finished: Finished = ignore) -> list[Trial]:
    """The best real arm trained on two thirds of the real images, one trial per seed, to see what more images bring.

    The third that is left out takes turns over the seeds. Only where that costs next to nothing or the evaluation is
    thorough; otherwise there is no trial.
    """
    if not choice.real:
        return []
    arm = choice.arm(choice.real[0].arm)
    if arm.learner != "features" and not experiment.settings.thorough:
        return []
    folds = assign_folds(experiment.train.labels, experiment.groups, derive_seed(experiment.seed, FEWER))
    parts = [experiment.subset(TRAIN, np.flatnonzero(folds != left_out)) for left_out in range(max(folds) + 1)]
    numbers = range(experiment.settings.repetitions)
    tasks = [
        replace(_test_task(experiment, choice, number, arm.name), real=parts[number % len(parts)]) for number in numbers
    ]
    answers = Trainings(experiment, finished).answers(tasks)
    return [
        _trial(experiment, Outcome(answer, 0.0), arm.name, number)
        for number, answer in zip(numbers, answers, strict=True)
    ]


def _test_task(experiment: Experiment, choice: Choice, number: int, name: str) -> TrainingTask:
    arm = choice.arm(name)
    return TrainingTask(
        arm=arm,
        base=choice.base_arm,
        mix=choice.mix,
        real=experiment.subset(TRAIN),
        synthetic=experiment.synthetic_subset(arm, number),
        eval_images=experiment.subset(TEST),
        seed=derive_seed(experiment.seed, PURPOSE, number),
    )


def _trial(experiment: Experiment, outcome: Outcome, arm: str, number: int) -> Trial:
    return Trial.of(
        arm,
        number,
        predicted=outcome.predicted,
        labels=experiment.test.labels,
        num_classes=len(experiment.test.classes),
        seconds=outcome.seconds,
        probabilities=outcome.answer if outcome.answer.ndim == 2 else None,
        curve=outcome.curve,
    )
