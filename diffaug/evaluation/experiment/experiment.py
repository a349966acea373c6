"""The experiment: every arm trained with the same seeds and the same number of updates, tested on the same images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.fit import TrainingRecipe
from diffaug.classifiers.training import Classifier, TrainingSet, classifier_of, identity_of, recipe_of
from diffaug.configuration.settings import EvaluationSettings
from diffaug.data.images import LabeledImages, hash_of
from diffaug.errors import DataError, UsageError
from diffaug.evaluation.experiment.arms import ARMS, Arm, concatenate
from diffaug.evaluation.experiment.crew import Crew, usable_workers
from diffaug.evaluation.experiment.portable import packed
from diffaug.evaluation.experiment.synthetic import SyntheticPool
from diffaug.evaluation.experiment.tasks import Outcome, Selection, Stock, Task, run_here, training_of
from diffaug.evaluation.experiment.trials import Trial, read_trial, write_trial
from diffaug.runtime.seeding import derive_seed

if TYPE_CHECKING:
    from diffaug.evaluation.experiment.dose import DoseChoice

TRAIN, TEST = "train", "test"
PURPOSE = "evaluation"

TrainFunction = Callable[[TrainingSet, NDArray[np.uint8], int], Any]
"""Trains the user's own way: (training set, test pixels uint8 (N, H, W, C), seed) to labels (N,) or probabilities."""


@dataclass(frozen=True)
class Experiment:
    """What is compared, and on what; use it in a `with` block, which ends its processes.

    Attributes:
        train: Real training images, at least one a class.
        test: Real test images, at least one a class, none of them seen by a generator.
        pools: Synthetic images, one pool a generator: the trainings of seed s use pool s modulo their number.
        settings: Arms, seeds, doses and classifier.
        seed: Where the randomness begins.
        device: `cpu` or `cuda`.
        directory: Folder of the evaluation.
        groups: int64 (N,), one a training image; images of one group or of equal pixels have the same number.
        unfiltered: What the generators made before any filter, one a pool; for the arm that asks for it.
        classifier: What is trained; none: what the settings say.
        train_fn: What is called instead, in this process.
        stop_requested: Asked between two trainings, and while processes work.

    Raises:
        DataError: A class has no training or no test image, or sets differ in classes or shape.
        UsageError: An arm lacks its images, or there are two ways to train.
    """

    train: LabeledImages
    test: LabeledImages
    pools: Sequence[SyntheticPool]
    settings: EvaluationSettings
    seed: int
    device: str
    directory: Path
    groups: NDArray[np.int64]
    unfiltered: Sequence[SyntheticPool] = ()
    classifier: Classifier | None = None
    train_fn: TrainFunction | None = None
    stop_requested: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        _require_every_class(self.train, "training")
        _require_every_class(self.test, "test")
        for other in (self.test, *(pool.images for pool in (*self.pools, *self.unfiltered))):
            concatenate(self.train.select(np.arange(1)), other.select(np.arange(min(1, len(other)))))
        if self.classifier and self.train_fn:
            raise UsageError("a classifier and a train_fn were given", fix="give one of them")
        if any(arm.synthetic == "unfiltered" for arm in self.arms) and len(self.unfiltered) != len(self.pools):
            raise UsageError(
                "the images before the filters were not given",
                where="real + unfiltered synthetic",
                fix="leave the arm out, or give them",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if "_crew" in vars(self):
            self._crew.close()
            del vars(self)["_crew"]

    @property
    def arms(self) -> tuple[Arm, ...]:
        """What is compared."""
        return tuple(map(ARMS.__getitem__, self.settings.compared_arms))

    @property
    def has_synthetic(self) -> bool:
        """Whether there is a synthetic image."""
        return any(map(len, self.pools))

    @cached_property
    def recipe(self) -> TrainingRecipe:
        """How every classifier is trained, those on a part of the training images too."""
        return recipe_of(self.settings, len(self.train))

    @cached_property
    def stock(self) -> Stock:
        """All images by the names that tasks use."""
        pools = {f"pool-{number}": pool.images for number, pool in enumerate(self.pools)}
        unfiltered = {f"unfiltered-{number}": pool.images for number, pool in enumerate(self.unfiltered)}
        return {TRAIN: self.train, TEST: self.test, **pools, **unfiltered}

    def fingerprint(self, task: Task) -> str:
        """A name for all that the outcome of a task depends on."""
        return task.fingerprint(self._hashes, self._context)

    def outcomes(self, tasks: Mapping[str, Task]) -> Generator[tuple[str, Outcome]]:
        """Does tasks and yields each with its name as it is finished.

        Raises:
            Interrupted: A stop was requested.
            DiffaugError: Processes died twice of the same task.
        """
        if self.train_fn is not None:
            return run_here(tasks, self.stock, partial(_checked, self.train_fn), self.stop_requested)
        workers = usable_workers(self.settings.workers, self.device)
        stays_here = self.classifier is not None and self._packed is None
        if stays_here or min(len(tasks), workers) < 2:
            train = training_of(self._trained, self.recipe, self.device)
            return run_here(tasks, self.stock, train, self.stop_requested)
        return self._crew.run(tasks)

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return {name: hash_of(images) for name, images in self.stock.items()}

    @cached_property
    def _context(self) -> Any:
        trained = identity_of(self.train_fn) if self.train_fn else self._trained.name
        return [trained, asdict(self.recipe), self.device]

    @cached_property
    def _trained(self) -> Classifier:
        return self.classifier or classifier_of(self.settings)

    @cached_property
    def _packed(self) -> bytes | None:
        """The classifier for other processes, which may import another than this program has changed: only if asked."""
        return packed(self.classifier) if self.classifier and self.settings.workers else None

    @cached_property
    def _crew(self) -> Crew:
        return Crew(
            self.directory,
            self.stock,
            self.settings,
            self.recipe,
            self._packed,
            device=self.device,
            size=usable_workers(self.settings.workers, self.device),
            stop_requested=self.stop_requested,
        )


def run_experiment(experiment: Experiment, choice: DoseChoice) -> Iterator[Trial]:
    """Trains every arm with every seed and yields each trial once it is on disk.

    Seeds are the outer loop, so whatever is finished is paired. All arms of a seed share initial weights, random
    draws and shifts. A trial that is on disk for the same images and settings is read and not trained again, and arms
    that come to the same training, as all do at a dose of zero, are trained once.

    Args:
        experiment: What to compare.
        choice: The dose and the real arm to build on, of `choose_dose`.

    Raises:
        Interrupted: A stop was requested; what is finished is on disk.
        DiffaugError: Processes died twice of the same training.
    """
    plan = [(number, arm) for number in range(experiment.settings.repetitions) for arm in experiment.arms]
    tasks = {key: _trial_task(experiment, choice, *key) for key in plan}
    inputs = {key: experiment.fingerprint(task) for key, task in tasks.items()}

    def finished(key: tuple[int, Arm]) -> Trial | None:
        return read_trial(experiment.directory, key[1].name, key[0], inputs[key])

    missing = {inputs[key]: task for key, task in tasks.items() if finished(key) is None}
    with closing(experiment.outcomes(missing)) as outcomes:
        for key in plan:
            while (trial := finished(key)) is None:
                name, outcome = next(outcomes)
                for number, arm in (key for key in plan if inputs[key] == name):
                    write_trial(experiment.directory, _trial(experiment, arm, number, outcome), name)
            yield trial


def _trial_task(experiment: Experiment, choice: DoseChoice, number: int, arm: Arm) -> Task:
    return Task(
        arm=arm,
        base=ARMS[choice.base],
        dose=choice.dose,
        real=Selection(TRAIN),
        synthetic=synthetic_selection(experiment, arm, number),
        asked=Selection(TEST),
        seed=derive_seed(experiment.seed, PURPOSE, number),
    )


def synthetic_selection(
    experiment: Experiment, arm: Arm, number: int, apart_from: Sequence[str] = ()
) -> Selection | None:
    """The synthetic images of repetition `number`, but for those that resemble or vary the training images named."""
    kind, pools = ("unfiltered", experiment.unfiltered) if arm.synthetic == "unfiltered" else ("pool", experiment.pools)
    if not pools:
        return None
    index = number % len(pools)
    return Selection(f"{kind}-{index}", pools[index].apart_from(apart_from) if apart_from else None)


def _trial(experiment: Experiment, arm: Arm, number: int, outcome: Outcome) -> Trial:
    test, answer = experiment.test, outcome.answer
    return Trial.of(
        arm.name,
        number,
        probabilities=answer if answer.ndim == 2 else None,
        predicted=outcome.predicted,
        labels=test.labels,
        num_classes=len(test.classes),
        seconds=outcome.seconds,
    )


def _checked(train_fn: TrainFunction, training: TrainingSet, pixels: NDArray[np.uint8], seed: int) -> NDArray[Any]:
    """What the user's function answers.

    Raises:
        UsageError: It is neither a label nor a probability of each class for each image.
    """
    answer = np.asarray(train_fn(training, pixels, seed))
    count, classes = len(pixels), len(training.images.classes)
    if answer.shape == (count,) and answer.dtype.kind in "iu":
        wrong = answer[(answer < 0) | (answer >= classes)]
        problem = f"class {wrong[0]}, and classes are 0 to {classes - 1}" if len(wrong) else ""
    elif answer.shape == (count, classes) and answer.dtype.kind == "f":
        fine = np.isfinite(answer).all() and (answer >= 0).all() and np.allclose(answer.sum(axis=1), 1, atol=1e-3)
        problem = "" if fine else "probabilities that are not finite, negative or don't sum to 1"
    else:
        problem = f"{answer.dtype} of shape {answer.shape}"
    if problem:
        raise UsageError(
            f"train_fn returned {problem}",
            where=getattr(train_fn, "__qualname__", type(train_fn).__name__),
            fix=f"return labels, integers of shape ({count},), or probabilities, floats of shape ({count}, {classes})",
        )
    return answer


def _require_every_class(images: LabeledImages, split: str) -> None:
    missing = [name for name, count in images.counts_by_name.items() if not count]
    if missing:
        raise DataError(
            f"no {split} image of class {', '.join(missing)}: its recall can't be measured",
            fix="add images of the class, take the class out, or let diffaug split the data",
        )
