"""A trial: one classifier of one arm and seed, with what it predicted on the test images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from diffaug import storage
from diffaug.evaluation.metrics import class_recall, classification_metrics, confusion


@dataclass(frozen=True)
class Trial:
    """The outcome of one training.

    Attributes:
        arm: Name of the arm.
        seed: Number of the repetition, from 0; the trials of one number are paired.
        metrics: Test metrics by name, fractions.
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
        predicted: NDArray[np.int64],
        labels: NDArray[np.int64],
        num_classes: int,
        seconds: float,
    ) -> Self:
        """Scores predictions (N,) against the true classes (N,)."""
        counts = confusion(labels, predicted, num_classes)
        return cls(
            arm=arm,
            seed=seed,
            metrics=classification_metrics(labels, predicted, num_classes),
            recall=tuple(class_recall(counts).tolist()),
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
    storage.write_json(trial_file(directory, trial.arm, trial.seed), {"inputs": inputs, "trial": asdict(trial)})


def read_trial(directory: Path, arm: str, seed: int, inputs: str) -> Trial | None:
    """The finished trial, or None when there is none for these inputs.

    Raises:
        DamagedError: The file is not JSON.
    """
    path = trial_file(directory, arm, seed)
    if not path.is_file():
        return None
    record = storage.read_json(path)
    return _from_record(record["trial"]) if record["inputs"] == inputs else None


def _from_record(record: dict[str, Any]) -> Trial:
    lists = {name: tuple(record[name]) for name in ("recall", "predictions")}
    return Trial(**{**record, **lists, "confusion": tuple(map(tuple, record["confusion"]))})
