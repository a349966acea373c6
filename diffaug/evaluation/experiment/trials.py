"""A trial: one classifier of one arm and seed, with its predictions of the test images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from diffaug.errors import DamagedError
from diffaug.evaluation.statistics.metrics import class_recall, classification_metrics, confusion, probability_metrics
from diffaug.files import storage
from diffaug.files.records import read_signed_record, write_signed_record


@dataclass(frozen=True)
class Trial:
    """The outcome of one training."""

    arm: str
    seed: int  # number of the repetition, from 0; trials with the same number are paired
    # test metrics by name, fractions except `nll`; metrics of probabilities only if there were any
    metrics: dict[str, float]
    recall: tuple[float, ...]  # recall per class, in class order
    confusion: tuple[tuple[int, ...], ...]  # test images by true class (row) and predicted class (column)
    predictions: tuple[int, ...]  # predicted class of each test image
    seconds: float  # duration of training and prediction

    @classmethod
    def of(
        cls,
        arm: str,
        seed: int,
        *,
        predicted: NDArray[np.int64],
        labels: NDArray[np.int64],
        num_classes: int,
        seconds: float,
        probabilities: NDArray[np.floating] | None = None,
    ) -> Self:
        """Scores predicted classes (N,), and class probabilities (N, K) if there are any, against the true classes.

        A DataError if a class has no test image, or a probability is not finite.
        """
        of_probabilities = {} if probabilities is None else probability_metrics(labels, probabilities)
        counts = confusion(labels, predicted, num_classes)
        return cls(
            arm=arm,
            seed=seed,
            metrics=classification_metrics(labels, predicted, num_classes) | of_probabilities,
            recall=tuple(class_recall(counts).tolist()),
            confusion=tuple(map(tuple, counts.tolist())),
            predictions=tuple(predicted.tolist()),
            seconds=seconds,
        )


@dataclass(frozen=True)
class TrialRecord:
    """A trial on disk, with the fingerprint of everything that it depends on."""

    trial: Trial
    inputs: str
    schema: Literal[1] = 1


FOLDER = "trials"
_TRIAL_RECORD = TypeAdapter(TrialRecord)


def trial_file(directory: Path, arm: str, seed: int) -> Path:
    """The file of a trial."""
    return directory / FOLDER / f"{arm.replace(' + ', '+').replace(' ', '-')}.{seed}.json"


def write_trial(directory: Path, trial: Trial, inputs: str) -> None:
    """Writes a finished trial."""
    write_signed_record(trial_file(directory, trial.arm, trial.seed), _TRIAL_RECORD, TrialRecord(trial, inputs))


def read_trial(directory: Path, arm: str, seed: int, inputs: str) -> Trial | None:
    """The finished trial for these inputs; None if there is none, or its file was changed, so that it is done again."""
    path = trial_file(directory, arm, seed)
    if not path.exists():
        return None
    try:
        record = read_signed_record(path, _TRIAL_RECORD)
    except DamagedError:
        storage.discard_directory(path)
        return None
    return record.trial if record.inputs == inputs else None
