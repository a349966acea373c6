"""One training of the experiment as a piece of work that any process can do, and what came of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.fit import TrainingRecipe
from diffaug.classifiers.training import Classifier, TrainingSet
from diffaug.data.images import LabeledImages
from diffaug.errors import Interrupted
from diffaug.evaluation.experiment.arms import ARMS, NOTHING, Arm, Dose, resolved, training_set
from diffaug.files.storage import fingerprint
from diffaug.runtime.threads import one_thread_each

Stock = Mapping[str, LabeledImages]
"""All images of an experiment by name: for training, for testing, and of each pool."""

Train = Callable[[TrainingSet, NDArray[np.uint8], int], NDArray[Any]]
"""Trains from scratch on a set with a seed and says of pixels (N, H, W, C) the classes (N,) or probabilities (N, K)."""


@dataclass(frozen=True)
class Selection:
    """Images of one set.

    Attributes:
        name: The set's name in the stock.
        positions: Which of them, int64; none: all.
    """

    name: str
    positions: NDArray[np.int64] | None = None

    def of(self, stock: Stock) -> LabeledImages:
        """The images."""
        images = stock[self.name]
        return images if self.positions is None else images.select(self.positions)

    def identity(self, hashes: Mapping[str, str]) -> list[str]:
        """What it holds, given the hash of each set."""
        positions = b"all" if self.positions is None else self.positions.tobytes()
        return [hashes[self.name], hashlib.sha256(positions).hexdigest()]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, "positions": None if self.positions is None else self.positions.tolist()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        positions = content["positions"]
        return cls(content["name"], None if positions is None else np.array(positions, np.int64))


@dataclass(frozen=True)
class Task:
    """One training and what it is to predict.

    Attributes:
        arm: How to train.
        base: The real arm that an arm `on_best` builds on.
        dose: How much of the synthetic images.
        real: The real images to learn from.
        synthetic: The synthetic images to learn from; none: there are none.
        asked: The images whose classes are predicted.
        seed: Of the training.
    """

    arm: Arm
    base: Arm | None
    dose: Dose
    real: Selection
    synthetic: Selection | None
    asked: Selection
    seed: int

    def run(self, stock: Stock, train: Train) -> Outcome:
        """Does the work."""
        real = self.real.of(stock)
        synthetic = real.select(NOTHING) if self.synthetic is None else self.synthetic.of(stock)
        learnt_from = training_set(self.arm, real, synthetic, self.dose, self.base)
        started = time.perf_counter()
        answer = train(learnt_from, np.asarray(self.asked.of(stock).pixels), self.seed)
        return Outcome(answer, time.perf_counter() - started)

    def fingerprint(self, hashes: Mapping[str, str], context: Any) -> str:
        """A name for all that the outcome depends on: arms that come to the same training have the same.

        Args:
            hashes: Of each set in the stock.
            context: What else it depends on, JSON-like: classifier, recipe, device.
        """
        arm = resolved(self.arm, self.dose.share, self.base)
        way = {name: value for name, value in asdict(arm).items() if name not in ("name", "on_best")}
        synthetic = self.synthetic.identity(hashes) if arm.follows_dose and self.synthetic else None
        dose = self.dose.to_dict() if arm.follows_dose else None
        images = [self.real.identity(hashes), synthetic, self.asked.identity(hashes)]
        return fingerprint([way, dose, images, self.seed, context])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "arm": self.arm.name,
            "base": self.base and self.base.name,
            "dose": self.dose.to_dict(),
            "real": self.real.to_dict(),
            "synthetic": self.synthetic and self.synthetic.to_dict(),
            "asked": self.asked.to_dict(),
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        base, synthetic = content["base"], content["synthetic"]
        return cls(
            arm=ARMS[content["arm"]],
            base=base and ARMS[base],
            dose=Dose.from_dict(content["dose"]),
            real=Selection.from_dict(content["real"]),
            synthetic=synthetic and Selection.from_dict(synthetic),
            asked=Selection.from_dict(content["asked"]),
            seed=content["seed"],
        )


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        answer: Predicted classes, int (N,), or class probabilities, float (N, K).
        seconds: Time that training and prediction took.
    """

    answer: NDArray[Any]
    seconds: float

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Predicted classes (N,)."""
        return np.asarray(self.answer.argmax(axis=1) if self.answer.ndim == 2 else self.answer, np.int64)


def run_here(
    tasks: Mapping[str, Task], stock: Stock, train: Train, stop_requested: Callable[[], bool]
) -> Generator[tuple[str, Outcome]]:
    """Does tasks one after another in this process and yields each with its name.

    Raises:
        Interrupted: A stop was requested between two of them.
    """
    for name, task in tasks.items():
        require_no_stop(stop_requested)
        yield name, task.run(stock, train)


def require_no_stop(stop_requested: Callable[[], bool]) -> None:
    """Raises Interrupted when a stop was requested."""
    if stop_requested():
        raise Interrupted("the evaluation was stopped; every finished training is kept")


def training_of(classifier: Classifier, recipe: TrainingRecipe, device: str) -> Train:
    """Trains a classifier on one thread of the CPU, or a GPU: sums round the same way in whichever process."""

    def train(training: TrainingSet, pixels: NDArray[np.uint8], seed: int) -> NDArray[np.float32]:
        with one_thread_each():
            return classifier.fit_predict(training, pixels, recipe=recipe, seed=seed, device=device)

    return train
