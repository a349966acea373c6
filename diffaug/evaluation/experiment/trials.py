"""A trial: one classifier of one arm and seed, with what it predicted on the test images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from diffaug.evaluation.statistics.metrics import class_recall, classification_metrics, confusion, probability_metrics
from diffaug.files import storage

TRIAL_SCHEMA = 3


@dataclass(frozen=True)
class Trial:
    """The outcome of one training.

    Attributes:
        arm: Name of the arm.
        seed: Number of the repetition, from 0; the trials of one number are paired.
        metrics: Test metrics by name, fractions but for `nll`; those of probabilities only where there were some.
        recall: Recall of each class on the test images, in class order.
        confusion: Test images by true class (row) and predicted class (column).
        predictions: Predicted class of each test image.
        seconds: Time that training and prediction took.
    """

    arm: str
    seed: int
    metrics: dict[str, float]
    recall: tuple[float, ...]
    confusion: tuple[tuple[int, ...], ...]
    predictions: tuple[int, ...]
    seconds: float

    @classmethod
    def of(
        cls,
        arm: str,
        seed: int,
        *,
        labels: NDArray[np.int64],
        num_classes: int,
        seconds: float,
        probabilities: NDArray[np.floating] | None = None,
        predicted: NDArray[np.int64] | None = None,
    ) -> Self:
        """Scores predictions against the true classes.

        Args:
            arm: Name of the arm.
            seed: Number of the repetition.
            labels: True classes (N,), each of the K at least once.
            num_classes: K.
            seconds: Time that it took.
            probabilities: Of each class (N, K); rows sum to 1.
            predicted: Predicted classes (N,); none: the most probable ones.

        Raises:
            DataError: A class has no test image, or a probability is not finite.
            ValueError: Neither probabilities nor predictions were given.
        """
        if probabilities is None and predicted is None:
            raise ValueError("give probabilities, predicted or both")
        of_probabilities = {} if probabilities is None else probability_metrics(labels, probabilities)
        if predicted is None:
            assert probabilities is not None
            predicted = np.asarray(probabilities.argmax(axis=1), np.int64)
        counts = confusion(labels, predicted, num_classes)
        recall = class_recall(counts)
        return cls(
            arm=arm,
            seed=seed,
            metrics=classification_metrics(labels, predicted, num_classes) | of_probabilities,
            recall=tuple(recall.tolist()),
            confusion=tuple(map(tuple, counts.tolist())),
            predictions=tuple(predicted.tolist()),
            seconds=seconds,
        )


def trial_file(directory: Path, arm: str, seed: int) -> Path:
    """Where a trial is kept."""
    return directory / "trials" / f"{arm.replace(' + ', '+').replace(' ', '-')}.{seed}.json"


def write_trial(directory: Path, trial: Trial, inputs: str) -> None:
    """Writes a finished trial.

    Args:
        directory: Folder of the evaluation.
        trial: What to write.
        inputs: Fingerprint of all that the trial depends on.
    """
    record = {"schema": TRIAL_SCHEMA, "inputs": inputs, "trial": asdict(trial)}
    storage.write_json(trial_file(directory, trial.arm, trial.seed), record)


def read_trial(directory: Path, arm: str, seed: int, inputs: str) -> Trial | None:
    """The finished trial, or None when there is none for these inputs, or one of an older version with other figures.

    Raises:
        DamagedError: The file is not JSON.
    """
    path = trial_file(directory, arm, seed)
    if not path.is_file():
        return None
    record = storage.read_json(path)
    if not isinstance(record, dict) or (record.get("schema"), record.get("inputs")) != (TRIAL_SCHEMA, inputs):
        return None
    return _from_record(record["trial"])


def _from_record(record: dict[str, Any]) -> Trial:
    lists = {name: tuple(record[name]) for name in ("recall", "predictions")}
    return Trial(**{**record, **lists, "confusion": tuple(map(tuple, record["confusion"]))})
