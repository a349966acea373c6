"""The experiment: every arm trained with the same seeds and number of updates, tested on the same images."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffaug.classifiers.by_name import classifier_by_name, recipe_from_settings
from diffaug.classifiers.identity import identity_of
from diffaug.classifiers.training_set import Classifier, TrainingRecipe
from diffaug.configuration.settings import EvaluationSettings
from diffaug.data.images import LabeledImages, hash_of
from diffaug.errors import DataError, UsageError
from diffaug.evaluation.experiment.arms import ARMS, Arm, require_same_form
from diffaug.evaluation.experiment.mix import SyntheticMix
from diffaug.evaluation.experiment.synthetic_pools import SyntheticPool
from diffaug.evaluation.experiment.training_task import (
    Outcome,
    Subset,
    TrainFunction,
    TrainingTask,
    call_train_function,
    perform,
)
from diffaug.evaluation.experiment.trials import Trial, read_trial, write_trial
from diffaug.runtime.parallel import run_unordered
from diffaug.runtime.seeding import derive_seed

TRAIN, TEST = "train", "test"
PURPOSE = "evaluation"


@dataclass(frozen=True)
class Experiment:
    """What is compared, and on which images.

    Attributes:
        pools: Synthetic images, one pool per generator: trainings with seed s use pool s modulo their number.
        groups: int64 (N,), one per training image; images of one group or with equal pixels share a number.
        unfiltered: The generators' images before any filter, one per pool; for the arm that needs them.
        classifier: What is trained. None: the classifier of the settings.
        train_fn: Called instead of a classifier, in this process.
        stop_requested: Polled between trainings, and during them in other processes.
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
        require_trainable(self.settings, self.classifier, self.train_fn)
        require_every_class(self.train.counts_by_name, "training")
        require_every_class(self.test.counts_by_name, "test")
        for other in (self.test, *(pool.images for pool in (*self.pools, *self.unfiltered))):
            require_same_form(self.train, other)
        if any(arm.synthetic == "unfiltered" for arm in self.arms) and len(self.unfiltered) != len(self.pools):
            raise UsageError(
                "the images before the filters are missing",
                where="real + unfiltered synthetic",
                fix="remove this arm, or provide them",
            )

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The compared arms."""
        return tuple(map(ARMS.__getitem__, self.settings.compared_arms))

    @property
    def trained(self) -> str:
        """Names what is trained."""
        return identity_of(self.train_fn) if self.train_fn else self._classifier.name

    @property
    def recipe(self) -> TrainingRecipe:
        """The recipe of every training, including those on a part of the training images."""
        return recipe_from_settings(self.settings, len(self.train))

    def subset(self, name: str, positions: NDArray[np.int64] | None = None) -> Subset:
        """The images `train`, `test`, `pool-0`, `unfiltered-0` and so on, at some positions or all."""
        images, digest = self._datasets[name]
        return Subset(images, digest, positions)

    def synthetic_subset(self, arm: Arm, number: int, unrelated_to: Sequence[str] = ()) -> Subset | None:
        """The synthetic images of repetition `number`, without those that resemble or vary these training images."""
        is_unfiltered = arm.synthetic == "unfiltered"
        kind, pools = ("unfiltered", self.unfiltered) if is_unfiltered else ("pool", self.pools)
        if not pools:
            return None
        index = number % len(pools)
        return self.subset(f"{kind}-{index}", pools[index].unrelated_to(unrelated_to) if unrelated_to else None)

    def fingerprint(self, task: TrainingTask) -> str:
        """Identifies everything that the outcome of a task depends on."""
        return task.fingerprint([self.trained, asdict(self.recipe), self.device])

    def run(self, tasks: Mapping[str, TrainingTask]) -> Generator[tuple[str, Outcome]]:
        """Runs tasks, in several processes where possible, and yields each outcome with its key as it is finished."""
        devices, workers = [self.device], self.settings.workers
        if self.device == "cuda":
            devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        if _runs_here(self.classifier, self.train_fn):
            workers = 1
        elif workers is None and self.device != "cpu":
            workers = len(devices)
        calls = {
            key: self._call(task, device if workers != 1 else self.device)
            for (key, task), device in zip(tasks.items(), cycle(devices), strict=False)
        }
        return run_unordered(calls, num_workers=workers, stop_requested=self.stop_requested)

    def _call(self, task: TrainingTask, device: str) -> Callable[[], Outcome]:
        if self.train_fn is not None:
            train: Callable[..., Any] = partial(call_train_function, train_fn=self.train_fn)
            function = getattr(self.train_fn, "__qualname__", type(self.train_fn).__name__)
            return partial(perform, task, train, device, f"train_fn {function}")
        train = partial(self._classifier.fit_predict, recipe=self.recipe, device=device)
        return partial(perform, task, train, device, f"classifier {self._classifier.name}")

    @cached_property
    def _datasets(self) -> dict[str, tuple[LabeledImages, str]]:
        pools = {f"pool-{number}": pool.images for number, pool in enumerate(self.pools)}
        unfiltered = {f"unfiltered-{number}": pool.images for number, pool in enumerate(self.unfiltered)}
        images = {TRAIN: self.train, TEST: self.test, **pools, **unfiltered}
        return {name: (one, hash_of(one)) for name, one in images.items()}

    @cached_property
    def _classifier(self) -> Classifier:
        return self.classifier or classifier_by_name(self.settings)


def _runs_here(classifier: Classifier | None, train_fn: TrainFunction | None) -> bool:
    """Whether trainings stay in this process: a train_fn, or an object of the user's own, which may have state."""
    return train_fn is not None or (classifier is not None and not getattr(classifier, "stateless", False))


def require_trainable(
    settings: EvaluationSettings, classifier: Classifier | None, train_fn: TrainFunction | None
) -> None:
    """Raises UsageError for two ways to train, or for several workers where training stays in this process."""
    if classifier and train_fn:
        raise UsageError("both classifier and train_fn were given", fix="give one of them")
    if settings.workers not in (None, 1) and _runs_here(classifier, train_fn):
        raise UsageError(
            f"a {'train_fn' if train_fn else 'classifier object'} of your own runs in this process, not in "
            f"{settings.workers} workers",
            where="evaluation.workers",
            fix="set evaluation.workers=1, or give a function that makes a network",
        )


def run_experiment(experiment: Experiment, base: Arm, mix: SyntheticMix) -> Iterator[Trial]:
    """Trains every arm with every seed and yields each trial once it is on disk.

    Seeds are the outer loop, so everything finished is paired. All arms of a seed share initial weights, random draws
    and shifts. A trial on disk with the same fingerprint is read instead of trained. Arms with identical trainings, as
    all have at a mix of zero, are trained once. Arms `on_best` build on the baseline `base`.
    """
    tasks = {
        (number, arm.name): TrainingTask(
            arm=arm,
            base=base,
            mix=mix,
            real=experiment.subset(TRAIN),
            synthetic=experiment.synthetic_subset(arm, number),
            eval_images=experiment.subset(TEST),
            seed=derive_seed(experiment.seed, PURPOSE, number),
        )
        for number in range(experiment.settings.repetitions)
        for arm in experiment.arms
    }
    inputs = {key: experiment.fingerprint(task) for key, task in tasks.items()}
    read = {key: read_trial(experiment.directory, key[1], key[0], name) for key, name in inputs.items()}
    trials = {key: trial for key, trial in read.items() if trial is not None}
    missing = {inputs[key]: task for key, task in tasks.items() if key not in trials}
    with closing(experiment.run(missing)) as outcomes:
        for key in tasks:
            while key not in trials:
                name, outcome = next(outcomes)
                for number, arm in (key for key in tasks if inputs[key] == name):
                    trials[number, arm] = Trial.of(
                        arm,
                        number,
                        predicted=outcome.predicted,
                        labels=experiment.test.labels,
                        num_classes=len(experiment.test.classes),
                        seconds=outcome.seconds,
                        probabilities=outcome.answer if outcome.answer.ndim == 2 else None,
                    )
                    write_trial(experiment.directory, trials[number, arm], name)
            yield trials[key]


def require_every_class(counts: Mapping[str, int], split: str, where: Path | None = None) -> None:
    """Raises DataError if a class has no image in a split, so that its recall can't be measured."""
    missing = [name for name, count in counts.items() if not count]
    if missing:
        raise DataError(
            f"no {split} image of: {', '.join(missing)}",
            where=where,
            fix="add images of these classes, remove the classes, or remove the test split so that diffaug makes one; "
            "if their images only look alike, as diffaug inspect says, set data.near_duplicates=false",
        )
