"""The experiment: which images there are, which arms are compared, and how one of them is trained."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffaug.classifiers.encoders.encoder import Encoder
from diffaug.classifiers.encoders.fine_tuning import DEFAULT_UPDATES
from diffaug.classifiers.encoders.module import ModuleEncoder
from diffaug.classifiers.identity import identity_of
from diffaug.classifiers.library import classifier_by_name, recipe_from_settings
from diffaug.classifiers.training_set import Classifier, Images, TrainingRecipe
from diffaug.configuration.arms import Resources
from diffaug.configuration.evaluation import EvaluationSettings
from diffaug.data.images import LabeledImages, UnlabeledImages, hash_of
from diffaug.errors import DataError, UsageError
from diffaug.evaluation.experiment.arms import ARMS, Arm
from diffaug.evaluation.experiment.training_sets import require_same_form
from diffaug.evaluation.experiment.training_task import (
    Outcome,
    Subset,
    TrainFunction,
    TrainingTask,
    call_train_function,
    fine_tune,
    perform,
    train_network,
    train_regression,
)
from diffaug.runtime.parallel import run_unordered

TRAIN, TEST, PILOT, UNLABELED = "train", "test", "pilot", "unlabeled"


@dataclass(frozen=True)
class PilotImages:
    """Synthetic images of a generator that has not seen the judged ones, bool (N,), of the training images.

    Attributes:
        blind_classes: Classes of which nothing shows that these images belong to them.
    """

    images: LabeledImages
    judged: NDArray[np.bool_]
    blind_classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """What is compared, and on which images.

    Attributes:
        pools: Synthetic images, those of one generator each: trainings with seed s use pool s modulo their number.
        groups: int64 (N,), one per training image; images of one group or with equal pixels share a number.
        unfiltered: The generators' images before any filter, one set per pool; for the arm that needs them.
        pilot: What is used to choose the mix, and nothing else; None: the mix is not chosen by measurement.
        blind_classes: Classes that get no synthetic images unless the fraction is set, since nothing shows that theirs
            belong to them.
        unlabeled: Images without labels that an arm may train on.
        encoder: The pretrained encoder; None: no arm needs one.
        features: float32 (N, D) of each set of images, by its name, where an arm learns on them.
        pictures: The images of each set in more detail, by its name, where an arm looks at them.
        classifier: What is trained. None: the classifier of the settings.
        train_fn: Called instead of a classifier, in this process.
        stop_requested: Polled between trainings, and during them in other processes.
    """

    train: LabeledImages
    test: LabeledImages
    pools: Sequence[LabeledImages]
    settings: EvaluationSettings
    seed: int
    device: str
    directory: Path
    groups: NDArray[np.int64]
    unfiltered: Sequence[LabeledImages] = ()
    pilot: PilotImages | None = None
    blind_classes: tuple[str, ...] = ()
    unlabeled: UnlabeledImages | None = None
    encoder: Encoder | None = None
    features: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    pictures: Mapping[str, Images] = field(default_factory=dict)
    classifier: Classifier | None = None
    train_fn: TrainFunction | None = None
    stop_requested: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        require_trainable(self.settings, self.classifier, self.train_fn)
        require_every_class(self.train.counts_by_name, "training")
        require_every_class(self.test.counts_by_name, "test")
        for name, images in self._images.items():
            if name != TRAIN:
                require_same_form(self.train, images)
        if any(arm.synthetic == "unfiltered" for arm in self.arms) and len(self.unfiltered) != len(self.pools):
            raise UsageError(
                "the images before the filters are missing",
                where="real + unfiltered synthetic",
                fix="remove this arm, or provide them",
            )

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """The compared arms, before anything is chosen."""
        return tuple(map(ARMS.__getitem__, self.settings.compared_arms(self.resources)))

    @property
    def resources(self) -> Resources:
        """What decides which arms there can be."""
        return Resources(
            encoder=self.encoder_name is not None,
            fine_tuning=isinstance(self.encoder, ModuleEncoder) and self.encoder.size is not None,
            gpu=self.device != "cpu",
            unlabeled=self.unlabeled is not None and self.train_fn is None,
            pool=any(map(len, self.pools)),
            augmentable=not runs_here(self.classifier, self.train_fn),
        )

    @property
    def encoder_name(self) -> str | None:
        """Names the encoder behind the features."""
        return None if self.encoder is None else self.encoder.name

    @property
    def trained(self) -> str:
        """Names what is trained."""
        return identity_of(self.train_fn) if self.train_fn else self._classifier.name

    @property
    def recipe(self) -> TrainingRecipe:
        """The recipe of every training of a network, including those on a part of the training images."""
        return recipe_from_settings(self.settings, len(self.train))

    @property
    def num_workers(self) -> int | None:
        """Trainings at a time; None: one per core, or what a registered backend says."""
        if runs_here(self.classifier, self.train_fn):
            return 1
        if self.settings.workers is None and self.device != "cpu":
            return len(self._devices)
        return self.settings.workers

    def subset(self, name: str, positions: NDArray[np.int64] | None = None) -> Subset:
        """The images `train`, `test`, `pilot`, `unlabeled`, `pool-0`, `unfiltered-0` and so on, at some positions."""
        return Subset(self._images[name], self._hash(name), positions, self.features.get(name), self.pictures.get(name))

    def synthetic_subset(self, arm: Arm, number: int) -> Subset | None:
        """The synthetic images of repetition `number`."""
        kind, pools = ("unfiltered", self.unfiltered) if arm.synthetic == "unfiltered" else ("pool", self.pools)
        return self.subset(f"{kind}-{number % len(pools)}") if pools else None

    @property
    def synthetic_images(self) -> dict[str, LabeledImages]:
        """All sets of synthetic images, by the names that `subset` knows."""
        real = (TRAIN, TEST, UNLABELED)
        return {name: images for name, images in self._images.items() if name not in real}

    def fingerprint(self, task: TrainingTask) -> str:
        """Identifies everything that the outcome of a task depends on."""
        return task.fingerprint(
            {
                "network": [self.trained, asdict(self.recipe), self.device],
                "features": self.encoder_name,
                "fine-tuned": [self.encoder_name, self.fine_tuning_updates, self.device],
            }
        )

    @property
    def fine_tuning_updates(self) -> int:
        """Steps for which an encoder is trained further."""
        return self.settings.max_steps or DEFAULT_UPDATES

    def run(self, tasks: Mapping[str, TrainingTask]) -> Generator[tuple[str, Outcome]]:
        """Runs tasks, in several processes where possible, and yields each outcome with its key as it is finished."""
        workers = self.num_workers
        calls = {
            key: self._call(task, device if workers != 1 else self.device)
            for (key, task), device in zip(tasks.items(), cycle(self._devices), strict=False)
        }
        return run_unordered(calls, num_workers=workers, stop_requested=self.stop_requested)

    def _call(self, task: TrainingTask, device: str) -> Callable[[], Outcome]:
        arm = task.resolved
        train: Callable[..., Any]
        if arm.learner == "features":
            assert arm.regularization is not None, "the regression was not chosen"
            train, name = partial(train_regression, regularization=arm.regularization), f"features {self.encoder_name}"
        elif arm.learner == "fine-tuned":
            assert isinstance(self.encoder, ModuleEncoder), "there is nothing to fine-tune"
            train = partial(fine_tune, encoder=self.encoder, updates=self.fine_tuning_updates, device=device)
            name = f"fine-tuning {self.encoder_name}"
        elif self.train_fn is not None:
            train = partial(call_train_function, train_fn=self.train_fn)
            name = f"train_fn {getattr(self.train_fn, '__qualname__', type(self.train_fn).__name__)}"
        else:
            train = partial(train_network, classifier=self._classifier, recipe=self.recipe, device=device)
            name = f"classifier {self._classifier.name}"
        return partial(perform, task, train, device, name)

    @cached_property
    def _devices(self) -> list[str]:
        if self.device != "cuda":
            return [self.device]
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]

    @cached_property
    def _images(self) -> dict[str, LabeledImages]:
        pools = {f"pool-{number}": images for number, images in enumerate(self.pools)}
        unfiltered = {f"unfiltered-{number}": images for number, images in enumerate(self.unfiltered)}
        pilot = {PILOT: self.pilot.images} if self.pilot else {}
        found = {TRAIN: self.train, TEST: self.test, **pilot, **pools, **unfiltered}
        if self.unlabeled is not None:  # in the form of labeled ones; the labels say nothing
            no_labels = np.zeros(len(self.unlabeled), np.int64)
            found[UNLABELED] = LabeledImages(
                self.unlabeled.pixels, no_labels, self.train.classes, self.unlabeled.ids, self.unlabeled.boxes
            )
        return found

    def _hash(self, name: str) -> str:
        if name not in self._hashes:
            self._hashes[name] = hash_of(self._images[name])
        return self._hashes[name]

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return {}

    @cached_property
    def _classifier(self) -> Classifier:
        return self.classifier or classifier_by_name(self.settings)


def runs_here(classifier: Classifier | None, train_fn: TrainFunction | None) -> bool:
    """Whether trainings stay in this process: a train_fn, or an object of the user's own, which may have state."""
    return train_fn is not None or (classifier is not None and not getattr(classifier, "stateless", False))


def require_trainable(
    settings: EvaluationSettings, classifier: Classifier | None, train_fn: TrainFunction | None
) -> None:
    """Raises UsageError for two ways to train, or for several workers where training stays in this process."""
    if classifier and train_fn:
        raise UsageError("both classifier and train_fn were given", fix="give one of them")
    if settings.workers not in (None, 1) and runs_here(classifier, train_fn):
        raise UsageError(
            f"a {'train_fn' if train_fn else 'classifier object'} of your own runs in this process, not in "
            f"{settings.workers} workers",
            where="evaluation.workers",
            fix="set evaluation.workers=1, or give a function that makes a network",
        )


def require_every_class(counts: Mapping[str, int], split: str, where: Path | None = None) -> None:
    """Raises DataError if a class has no image in a split, so that its recall can't be measured."""
    missing = [name for name, count in counts.items() if not count]
    if missing:
        raise DataError(
            f"no {split} image of: {', '.join(missing)}",
            where=where,
            fix="add images of these classes that differ from those there are, or remove the classes from the data; if "
            "the data has a test split, removing it makes diffaug choose one; if images only look alike, as diffaug "
            "inspect says, --set data.near_duplicates=false",
        )
