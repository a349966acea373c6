"""Trainings whose answers are needed for a choice: each is done once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.pseudo_labels import pseudo_labels
from diffaug.errors import DamagedError, UsageError
from diffaug.evaluation.experiment.arms import Arm
from diffaug.evaluation.experiment.experiment import UNLABELED, Experiment
from diffaug.evaluation.experiment.training_task import Outcome, PseudoLabeledSubset, Subset, TrainingTask
from diffaug.files import storage

FOLDER = "trainings"
Finished = Callable[[TrainingTask, Outcome | None], None]
"""Called after each training, and without an outcome for one that was finished before."""


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
