"""The dose: how much of each batch is synthetic, chosen without a look at the test images.

The training images are parted into folds. A real arm that goes well with synthetic images on the parts left out gets
them in a few doses; none at all, on whichever real arm is best alone, is one of the choices. The generator has seen
what is left out here, which flatters the synthetic images. What of it is plain copying is taken away: a synthetic image
that varies an image of the part left out, or is nearest to one, is not trained on. What remains is in the choice, not
in the verdict, since the test images are new to the generator.

Classes that were recognised less often with the chosen dose than without may get no synthetic images, and a thorough
evaluation halves the loss weight or the amounts of rare classes: that is tried last, and taken where it does better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.data.folds import assign_folds
from diffaug.errors import DataError
from diffaug.evaluation.experiment.arms import ARMS, Arm
from diffaug.evaluation.experiment.arms import Dose as Dose  # noqa: PLC0414  (this is where others look for it)
from diffaug.evaluation.experiment.experiment import TRAIN, Experiment, synthetic_selection
from diffaug.evaluation.experiment.tasks import Selection, Task
from diffaug.files import storage
from diffaug.runtime.seeding import derive_seed

PURPOSE = "dose"
PLAIN, ON_BEST = ARMS["real only"], ARMS["best real + synthetic"]
NOTHING_ADDED = Dose(0.0)
FOLDER = "dose"
FEWER_FOR_EACH_REAL = 3.0
SEEN = "the generator was trained on the validation parts; synthetic images nearest to them were left out"

Way = tuple[Arm, Dose]
"""An arm without synthetic images and what is added to it."""


@dataclass(frozen=True)
class Measured:
    """Balanced accuracy on the validation parts.

    Attributes:
        arm: Name of the real arm.
        dose: What was added to it.
        mean: Mean recall of the classes, of all images left out in turn.
        sd: Standard deviation of the folds' balanced accuracies.
    """

    arm: str
    dose: Dose
    mean: float
    sd: float


@dataclass(frozen=True)
class DoseChoice:
    """What was chosen, and from what.

    Attributes:
        base: Name of the real arm to build on.
        dose: What to add to it.
        folds: Validation parts; 0 where nothing was measured.
        real: The real arms without synthetic images.
        mixed: The real arms with the middle one of the doses.
        curve: The doses on the one of these arms that was chosen.
        finer: The dose that was chosen of these, without the classes it made worse, or with other weights or amounts.
    """

    base: str
    dose: Dose
    folds: int = 0
    real: tuple[Measured, ...] = ()
    mixed: tuple[Measured, ...] = ()
    curve: tuple[Measured, ...] = ()
    finer: tuple[Measured, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For the result. An unlimited `max_ratio` is None."""
        return {
            "base": self.base,
            "chosen": self.dose.to_dict(),
            "folds": self.folds,
            "remark": SEEN if self.folds else "not measured: the dose was set, or there was nothing to choose",
            "real": [_of_arm(one) for one in self.real],
            "mixed": [{**_of_arm(one), "share": one.dose.share} for one in self.mixed],
            "curve_base": self.curve[0].arm if self.curve else self.base,
            "curve": [_of_dose(one) for one in self.curve],
            "finer": [_of_dose(one) for one in self.finer],
        }


def _of_dose(measured: Measured) -> dict[str, Any]:
    return {**measured.dose.to_dict(), "mean": measured.mean, "sd": measured.sd}


def _of_arm(measured: Measured) -> dict[str, Any]:
    return {"arm": measured.arm, "balanced_accuracy": {"mean": measured.mean, "sd": measured.sd}}


def choose_dose(experiment: Experiment, progress: Callable[[int, int], None] | None = None) -> DoseChoice:
    """Chooses the real arm to build on and the dose, by balanced accuracy on three validation parts of train.

    Every real arm is trained alone and with a middle dose, since what is best alone need not go best with synthetic
    images; the one that does, see `base_of_the_good`, gets the other doses too. The best of all is taken; of equals the
    earlier arm and the smaller dose win, so zero wins ties. Images that the generator has seen flatter large doses, so
    of the doses within one standard error of the best the smallest is taken (Breiman et al. 1984, section 3.4.3). The
    classes that it made worse on the parts left out then get none, if all classes together do better so. A thorough
    evaluation also tries half the loss weight, and at most three synthetic images for each real one of a class.

    Every finished training is kept on disk and not done again. Where the share is set, or there is no synthetic image,
    only the arm is chosen; where there is nothing to choose, nothing is trained.

    Args:
        experiment: What is compared later. Its real arms but the controls may be built on; where no arm builds on the
            best one, it is plain training on real images.
        progress: Called with (trainings done, trainings in all); there are more in all if there is something finer to
            try.

    Raises:
        DataError: No class has two images, or groups, of which one could be left out.
        Interrupted: A stop was requested; what is finished is on disk.
    """
    arms, doses = _candidates(experiment), _doses(experiment)
    if len(arms) == len(doses) == 1:
        return DoseChoice(arms[0].name, doses[0])
    validation = _Validation(experiment, _folds(experiment), {})
    alone = [(arm, NOTHING_ADDED) for arm in arms if NOTHING_ADDED in doses]
    adding = [dose for dose in doses if dose != NOTHING_ADDED]
    mixed = [(arm, adding[(len(adding) - 1) // 2]) for arm in arms if adding]
    count = len(validation.folds)
    steps = count * (len(alone) + len(mixed) + max(0, len(adding) - 1))

    def measure(ways: Sequence[Way], more: int = 0) -> tuple[Measured, ...]:
        for done in validation.predict(ways):
            if progress:
                progress(done, steps + more)
        return tuple(validation.measured(way) for way in ways)

    real, with_some = measure(alone), measure(mixed)
    base = base_of_the_good(real, with_some, count).arm if with_some else _best(real).arm
    curve = measure([(ARMS[base], dose) for dose in doses]) if len(adding) > 1 or (alone and adding) else ()
    chosen = smallest_of_the_good(real, curve or [one for one in with_some if one.arm == base], count)
    ways = _finer(chosen, validation) if alone and chosen.dose != NOTHING_ADDED else []
    finer = measure(ways, more=count * len(ways))
    chosen = _best((chosen, *finer))
    return DoseChoice(chosen.arm, chosen.dose, count, real, with_some, curve, finer)


def _finer(chosen: Measured, validation: _Validation) -> list[Way]:
    """What is near the dose and was not measured yet."""
    dose, losers = chosen.dose, validation.losers(chosen)
    doses = [replace(dose, without=losers)] if losers else []
    if validation.experiment.settings.thorough:
        near = [replace(dose, weight=dose.weight / 2), replace(dose, max_ratio=FEWER_FOR_EACH_REAL)]
        doses += [one for one in near if one < dose and one not in _doses(validation.experiment)]
    return [(ARMS[chosen.arm], one) for one in doses]


def base_of_the_good(alone: Sequence[Measured], mixed: Sequence[Measured], folds: int) -> Measured:
    """The best mixture, or the first about as good whose real arm draws all classes equally often.

    The generator has seen what is left out, which makes it too easy to tell real arms apart. On test images of
    fashion-lt, oversampling went better with synthetic images than its rivals by a point; of digits, as well as they.
    """
    best = _best(mixed)
    equal = [one for one in _about_as_good(mixed, best, alone, folds) if ARMS[one.arm].draw == "classes"]
    return next(iter(equal), best)


def smallest_of_the_good(alone: Sequence[Measured], doses: Sequence[Measured], folds: int) -> Measured:
    """The best; where that adds synthetic images, the smallest dose within one standard error of it that helps too."""
    best = _best((*alone, *doses))
    good = _about_as_good([one for one in doses if one.dose != NOTHING_ADDED], best, alone, folds)
    return good[0] if best.dose != NOTHING_ADDED else best


def _about_as_good(
    mixed: Sequence[Measured], best: Measured, alone: Sequence[Measured], folds: int
) -> Sequence[Measured]:
    """Those within one standard error of the best, the folds taken for independent, and better than any arm alone."""
    limit = max([best.mean - best.sd / math.sqrt(folds), *(math.nextafter(one.mean, inf) for one in alone)])
    return [one for one in mixed if one.mean >= limit]


def _best(measured: Sequence[Measured]) -> Measured:
    """The first of the best."""
    return max(measured, key=lambda one: one.mean)


@dataclass(frozen=True)
class _Fold:
    """A part of the training images that is left out, and what is learnt from instead."""

    left_out: Selection
    kept: Selection
    synthetic: Selection | None
    labels: NDArray[np.int64]
    seed: int

    def task(self, way: Way) -> Task:
        base, dose = way
        return Task(ON_BEST, base, dose, self.kept, self.synthetic, self.left_out, self.seed)


@dataclass(frozen=True)
class _Validation:
    """Trainings on parts of the training images.

    Attributes:
        experiment: Whose training images.
        folds: The parts left out.
        correct: Whether each image left out of a fold was recognised, by fingerprint of the training.
    """

    experiment: Experiment
    folds: tuple[_Fold, ...]
    correct: dict[str, NDArray[np.bool_]]

    def predict(self, ways: Sequence[Way]) -> Iterator[int]:
        """Does every training that is not on disk; yields how many there are so far."""
        named = {self._name(way, fold): (fold, fold.task(way)) for way, fold in product(ways, self.folds)}
        for name, (fold, _) in named.items():
            if self._file(name).is_file():
                self.correct[name] = storage.read_json(self._file(name))["predicted"] == fold.labels
        yield len(self.correct)
        missing = {name: task for name, (_, task) in named.items() if name not in self.correct}
        with closing(self.experiment.outcomes(missing)) as outcomes:
            for name, outcome in outcomes:
                storage.write_json(self._file(name), {"predicted": outcome.predicted.tolist()})
                self.correct[name] = outcome.predicted == named[name][0].labels
                yield len(self.correct)

    def measured(self, way: Way) -> Measured:
        """How well the images left out were recognised."""
        correct = [self.correct[self._name(way, fold)] for fold in self.folds]
        labels = [fold.labels for fold in self.folds]
        by_fold = [_balanced(*one) for one in zip(correct, labels, strict=True)]
        together = _balanced(np.concatenate(correct), np.concatenate(labels))
        return Measured(way[0].name, way[1], together, float(np.std(by_fold, ddof=1)))

    def losers(self, chosen: Measured) -> tuple[str, ...]:
        """Classes of which the dose made fewer be recognised than none did; none where it is all of them."""
        arm, classes = ARMS[chosen.arm], self.experiment.train.classes
        labels = np.concatenate([fold.labels for fold in self.folds])
        without, with_dose = (
            np.bincount(labels, np.concatenate([self.correct[self._name((arm, dose), fold)] for fold in self.folds]))
            for dose in (NOTHING_ADDED, chosen.dose)
        )
        losers = tuple(classes[label] for label in np.flatnonzero(with_dose < without))
        return losers if len(losers) < len(classes) else ()

    def _name(self, way: Way, fold: _Fold) -> str:
        return self.experiment.fingerprint(fold.task(way))

    def _file(self, name: str) -> Path:
        return self.experiment.directory / FOLDER / f"{name}.json"


def _candidates(experiment: Experiment) -> list[Arm]:
    """The real arms that may be built on."""
    if not any(arm.on_best for arm in experiment.arms):
        return [PLAIN]
    return [arm for arm in experiment.arms if arm.role == "real" and arm.control == "none"] or [PLAIN]


def _doses(experiment: Experiment) -> list[Dose]:
    """What to choose from, the smallest first."""
    settings = experiment.settings
    if not experiment.has_synthetic:
        return [NOTHING_ADDED]
    ratios = [inf if ratio is None else ratio for ratio in settings.max_synthetic_ratios]
    if settings.synthetic_fraction is not None:
        return [Dose(settings.synthetic_fraction, settings.synthetic_loss_weights[0], ratios[0])]
    grid = map(
        Dose, *zip(*product(settings.synthetic_fraction_grid, settings.synthetic_loss_weights, ratios), strict=True)
    )
    return sorted({dose if dose.share else NOTHING_ADDED for dose in grid})


def _folds(experiment: Experiment) -> tuple[_Fold, ...]:
    """Parts of the training images, groups kept whole; every class keeps an image when a part is left out.

    Raises:
        DataError: There is no image that could be left out.
    """
    fold_of = assign_folds(experiment.train.labels, experiment.groups, derive_seed(experiment.seed, PURPOSE))
    parts = [np.flatnonzero(fold_of == number).astype(np.int64) for number in np.unique(fold_of[fold_of >= 0])]
    if len(parts) < 2:
        raise DataError(
            "no training image can be spared to choose the dose: each class is one image, or one group",
            fix="give the share, --set evaluation.synthetic_fraction=0.3, and only one real arm to build on",
        )
    return tuple(_fold(experiment, number, part) for number, part in enumerate(parts))


def _fold(experiment: Experiment, number: int, left_out: NDArray[np.int64]) -> _Fold:
    images = experiment.train
    kept = np.setdiff1d(np.arange(len(images)), left_out)
    ids = [images.ids[position] for position in left_out]
    return _Fold(
        left_out=Selection(TRAIN, left_out),
        kept=Selection(TRAIN, kept),
        synthetic=synthetic_selection(experiment, ON_BEST, number, apart_from=ids),
        labels=images.labels[left_out],
        seed=derive_seed(experiment.seed, PURPOSE, number),
    )


def _balanced(correct: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    """Mean recall of the classes that occur."""
    return float(np.mean([correct[labels == label].mean() for label in np.unique(labels)]))
