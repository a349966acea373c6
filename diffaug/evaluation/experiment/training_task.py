"""One training of the experiment as a task for any process, and its outcome."""

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffaug.classifiers.training_set import TrainingSet
from diffaug.data.images import LabeledImages
from diffaug.data.labels import class_of
from diffaug.errors import UsageError
from diffaug.evaluation.experiment.arms import Arm, resolve_arm, training_set
from diffaug.evaluation.experiment.mix import SyntheticMix
from diffaug.files.storage import fingerprint

TrainFunction = Callable[[TrainingSet, NDArray[np.uint8], int], Any]
"""The user's own training: (training set, test pixels uint8 (N, H, W, C), seed) to labels (N,) or probabilities.

Labels are class names or positions in the training set's `images.classes`."""


@dataclass(frozen=True)
class Subset:
    """The images of one dataset, which has a hash, at some positions, int64; None: all."""

    dataset: LabeledImages
    dataset_hash: str
    positions: NDArray[np.int64] | None = None

    def images(self) -> LabeledImages:
        """The images at these positions."""
        return self.dataset if self.positions is None else self.dataset.select(self.positions)

    def identity(self) -> list[str]:
        """Identifies the content."""
        positions = b"all" if self.positions is None else self.positions.tobytes()
        return [self.dataset_hash, hashlib.sha256(positions).hexdigest()]


@dataclass(frozen=True)
class TrainingTask:
    """One training and the images to predict; `base` is the baseline that an arm `on_best` builds on."""

    arm: Arm
    base: Arm | None
    mix: SyntheticMix
    real: Subset
    synthetic: Subset | None
    eval_images: Subset
    seed: int

    def training_set(self) -> TrainingSet:
        """The training data."""
        real = self.real.images()
        synthetic = self.synthetic.images() if self.synthetic else real.select(np.empty(0, np.int64))
        return training_set(self.arm, real, synthetic, self.mix, self.base)

    def fingerprint(self, context: Any) -> str:
        """Identifies everything that the outcome depends on; arms with identical trainings share it.

        `context` is all that the task does not hold, JSON-like: classifier, recipe, device.
        """
        arm = asdict(resolve_arm(self.arm, self.mix.fraction, self.base))
        how = {name: value for name, value in arm.items() if name not in ("name", "on_best")}
        mix = asdict(self.mix) if how["synthetic"] != "none" or how["control"] != "none" else None
        synthetic = self.synthetic.identity() if mix and self.synthetic else None
        images = [self.real.identity(), synthetic, self.eval_images.identity()]
        return fingerprint([how, mix, images, self.seed, context])


@dataclass(frozen=True)
class Outcome:
    """Predicted classes, int (N,), or class probabilities, float (N, K), and how long it took to get them."""

    answer: NDArray[Any]
    seconds: float

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Predicted classes (N,)."""
        return np.asarray(self.answer.argmax(axis=1) if self.answer.ndim == 2 else self.answer, np.int64)


def perform(task: TrainingTask, train: Callable[..., Any], device: str, trained_by: str) -> Outcome:
    """Trains and predicts; on a GPU with an index, that GPU is torch's current one meanwhile.

    Raises:
        UsageError: What `train`, named by `trained_by`, returned is neither a label nor class probabilities per image.
    """
    training, started = task.training_set(), time.perf_counter()
    pixels = np.asarray(task.eval_images.images().pixels)
    with torch.cuda.device(device) if device.startswith("cuda:") else nullcontext():
        answer = train(training, pixels, seed=task.seed)
    return Outcome(_checked(answer, len(pixels), training.images.classes, trained_by), time.perf_counter() - started)


def call_train_function(training: TrainingSet, pixels: NDArray[np.uint8], *, seed: int, train_fn: TrainFunction) -> Any:
    """Calls the user's own training."""
    return train_fn(training, pixels, seed)


def _checked(answer: Any, count: int, classes: Sequence[str], trained_by: str) -> NDArray[Any]:
    """The answer as an array; UsageError if it is not one label or one row of probabilities per image."""
    try:
        array = _positions_of_names(np.asarray(answer), classes, trained_by)
        problem = _problem(array, count, len(classes))
    except (ValueError, TypeError, RuntimeError) as error:
        problem = f"no array ({error})"
    if problem:
        raise UsageError(
            f"the answer is {problem}",
            where=trained_by,
            fix=f"return labels, class names or their positions in training_set.images.classes, of shape ({count},), "
            f"or probabilities, floats of shape ({count}, {len(classes)})",
        )
    return array


def _positions_of_names(answer: NDArray[Any], classes: Sequence[str], trained_by: str) -> NDArray[Any]:
    """Labels given as class names as positions in `classes`; anything else as it is."""
    if answer.dtype.kind != "U" or answer.ndim != 1:
        return answer
    names, inverse = np.unique(answer, return_inverse=True)
    positions = [classes.index(class_of(name, classes, where=trained_by)) for name in names]
    return np.array(positions, np.int64)[inverse]


def _problem(answer: NDArray[Any], count: int, classes: int) -> str:
    if answer.shape == (count,) and answer.dtype.kind in "iu":
        wrong = answer[(answer < 0) | (answer >= classes)]
        return f"class {wrong[0]}, but classes are 0 to {classes - 1}" if len(wrong) else ""
    if answer.shape == (count, classes) and answer.dtype.kind == "f":
        valid = np.isfinite(answer).all() and (answer >= 0).all() and np.allclose(answer.sum(axis=1), 1, atol=1e-3)
        return "" if valid else "probabilities that are not finite, are negative or do not sum to 1"
    return f"{answer.dtype} of shape {answer.shape}"
