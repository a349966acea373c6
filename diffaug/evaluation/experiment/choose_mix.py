"""Chooses the baseline to build on and the synthetic mix, by cross-validation on the training images.

The generator has seen the images that are left out here, which flatters synthetic images. Plain copies are removed: a
synthetic image that varies an image left out, or is nearest to one, is not trained on. The rest of this bias affects
the choice, not the verdict, because the test images are new to the generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from diffaug.data.splits import assign_folds
from diffaug.errors import DataError
from diffaug.evaluation.experiment.arms import ARMS, Arm
from diffaug.evaluation.experiment.experiment import TRAIN, Experiment
from diffaug.evaluation.experiment.mix import MeasuredMix, MixChoice, SyntheticMix
from diffaug.evaluation.experiment.training_task import TrainingTask
from diffaug.files.records import read_record, write_record
from diffaug.runtime.seeding import derive_seed

PURPOSE = "dose"  # seeds depend on it, so it stays
FOLDER = "mix"
PLAIN, ON_BEST = ARMS["real only"], ARMS["best real + synthetic"]
NO_SYNTHETIC = SyntheticMix(0.0)
REFINED_MAX_PER_REAL = 3.0
_PREDICTIONS = TypeAdapter(dict[str, tuple[int, ...]])

Option = tuple[Arm, SyntheticMix]
"""A baseline and what is added to it."""


def choose_mix(
    experiment: Experiment, fractions: Sequence[float], progress: Callable[[int, int], None] | None = None
) -> MixChoice:
    """Chooses a baseline and a mix by balanced accuracy on three validation folds of the training images.

    1. Every baseline is trained alone and with a middle fraction. The best mixture decides the baseline, see
       `choose_base`, because the best baseline alone need not be the best with synthetic images.
    2. This baseline is trained with the other fractions, and the best is taken, see `choose_option`.
    3. Classes whose recall fell get no synthetic images if that raises balanced accuracy. A thorough evaluation also
       tries half the loss weight, and at most three synthetic images per real image of a class.

    Finished trainings are kept on disk and reused. If the fraction is set, or there is no synthetic image, only the
    baseline is chosen. If there is nothing to choose, nothing is trained. `progress` is called with the numbers of
    finished and of all trainings, to which refinements are added. A DataError if no class has two images or groups.
    """
    bases, mixes = _bases(experiment), _mixes(experiment, fractions)
    if len(bases) == len(mixes) == 1:
        return MixChoice(bases[0].name, mixes[0])
    validation = _Validation(experiment, _folds(experiment), {})
    alone = [(base, NO_SYNTHETIC) for base in bases if NO_SYNTHETIC in mixes]
    adding = [mix for mix in mixes if mix != NO_SYNTHETIC]
    mixed = [(base, adding[(len(adding) - 1) // 2]) for base in bases if adding]
    num_folds = len(validation.folds)
    total = num_folds * (len(alone) + len(mixed) + max(0, len(adding) - 1))

    def measure(options: Sequence[Option], more: int = 0) -> tuple[MeasuredMix, ...]:
        for done in validation.predict(options):
            if progress:
                progress(done, total + more)
        return tuple(map(validation.measured, options))

    baselines, mixtures = measure(alone), measure(mixed)
    base = ARMS[choose_base(baselines, mixtures, num_folds).arm if mixtures else _best(baselines).arm]
    curve = measure([(base, mix) for mix in mixes]) if len(adding) > 1 or (alone and adding) else ()
    chosen = choose_option(baselines, curve or [one for one in mixtures if one.arm == base.name], num_folds)
    options = _refinements(chosen, validation) if alone and chosen.mix != NO_SYNTHETIC else []
    refinements = measure(options, more=num_folds * len(options))
    chosen = _best((chosen, *refinements))
    return MixChoice(chosen.arm, chosen.mix, baselines, mixtures, curve, refinements, num_folds)


def choose_base(baselines: Sequence[MeasuredMix], mixtures: Sequence[MeasuredMix], num_folds: int) -> MeasuredMix:
    """The best mixture, or the first within one standard error whose baseline draws classes equally often."""
    best = _best(mixtures)
    near = _near_best(mixtures, best, baselines, num_folds)
    return next((one for one in near if ARMS[one.arm].draw == "classes"), best)


def choose_option(baselines: Sequence[MeasuredMix], curve: Sequence[MeasuredMix], num_folds: int) -> MeasuredMix:
    """The best; among mixes within one standard error of it that beat every baseline alone, the smallest.

    Large fractions are flattered most, hence the rule of one standard error (Breiman et al. 1984, section 3.4.3).
    """
    best = _best((*baselines, *curve))
    if best.mix == NO_SYNTHETIC:
        return best
    return _near_best([one for one in curve if one.mix != NO_SYNTHETIC], best, baselines, num_folds)[0]


def _near_best(
    mixtures: Sequence[MeasuredMix], best: MeasuredMix, baselines: Sequence[MeasuredMix], num_folds: int
) -> list[MeasuredMix]:
    """Those within one standard error of the best, folds taken as independent, and better than any baseline alone."""
    standard_error = best.sd / math.sqrt(num_folds)
    limit = max([best.mean - standard_error, *(math.nextafter(one.mean, math.inf) for one in baselines)])
    return [one for one in mixtures if one.mean >= limit]


def _best(measured: Sequence[MeasuredMix]) -> MeasuredMix:
    """The first of the best."""
    return max(measured, key=lambda one: one.mean)


def _refinements(chosen: MeasuredMix, validation: _Validation) -> list[Option]:
    mix, worse = chosen.mix, validation.worse_classes(chosen)
    mixes = [replace(mix, excluded_classes=worse)] if worse else []
    if validation.experiment.settings.thorough:
        mixes += [replace(mix, loss_weight=mix.loss_weight / 2), replace(mix, max_per_real=REFINED_MAX_PER_REAL)]
    return [(ARMS[chosen.arm], one) for one in mixes]


def _bases(experiment: Experiment) -> list[Arm]:
    """The baselines that may be built on: all but controls, and plain training alone if no arm builds on the best."""
    arms = experiment.arms if any(arm.on_best for arm in experiment.arms) else ()
    return [arm for arm in arms if arm.role == "baseline" and arm.control == "none"] or [PLAIN]


def _mixes(experiment: Experiment, fractions: Sequence[float]) -> list[SyntheticMix]:
    """The mixes to choose from, the smallest first."""
    if not any(map(len, experiment.pools)):
        return [NO_SYNTHETIC]
    fraction = experiment.settings.synthetic_fraction
    return [SyntheticMix(one) for one in (sorted(set(fractions)) if fraction is None else [fraction])]


@dataclass(frozen=True)
class _Validation:
    """Trainings on parts of the training images.

    Attributes:
        folds: One per part that is left out; baseline and mix are replaced by those of an option.
        correct: Which images left out were predicted right, by fingerprint of the training.
    """

    experiment: Experiment
    folds: tuple[TrainingTask, ...]
    correct: dict[str, NDArray[np.bool_]]

    def predict(self, options: Sequence[Option]) -> Iterator[int]:
        """Trains what is not on disk; yields the number of finished trainings."""
        missing = {}
        for option, fold in product(options, self.folds):
            name, task = self._named(option, fold)
            if name not in self.correct and self._file(name).is_file():
                predicted = read_record(self._file(name), _PREDICTIONS)["predicted"]
                self.correct[name] = np.array(predicted) == self._labels(fold)
            if name not in self.correct:
                missing[name] = task
        yield len(self.correct)
        with closing(self.experiment.run(missing)) as outcomes:
            for name, outcome in outcomes:
                write_record(self._file(name), _PREDICTIONS, {"predicted": tuple(outcome.predicted.tolist())})
                self.correct[name] = outcome.predicted == self._labels(missing[name])
                yield len(self.correct)

    def measured(self, option: Option) -> MeasuredMix:
        """Balanced accuracy on all images left out."""
        correct, labels = self._correct(option), list(map(self._labels, self.folds))
        by_fold = list(map(_balanced_accuracy, correct, labels))
        mean = _balanced_accuracy(np.concatenate(correct), np.concatenate(labels))
        return MeasuredMix(option[0].name, option[1], mean, float(np.std(by_fold, ddof=1)))

    def worse_classes(self, chosen: MeasuredMix) -> tuple[str, ...]:
        """Classes with fewer right answers than without synthetic images; empty if that is all classes."""
        arm, classes = ARMS[chosen.arm], self.experiment.train.classes
        labels = np.concatenate(list(map(self._labels, self.folds)))
        before, after = (
            np.bincount(labels, np.concatenate(self._correct((arm, mix)))) for mix in (NO_SYNTHETIC, chosen.mix)
        )
        worse = tuple(classes[label] for label in np.flatnonzero(after < before))
        return worse if len(worse) < len(classes) else ()

    def _correct(self, option: Option) -> list[NDArray[np.bool_]]:
        return [self.correct[self._named(option, fold)[0]] for fold in self.folds]

    def _labels(self, fold: TrainingTask) -> NDArray[np.int64]:
        return self.experiment.train.labels[fold.eval_images.positions]

    def _named(self, option: Option, fold: TrainingTask) -> tuple[str, TrainingTask]:
        task = replace(fold, base=option[0], mix=option[1])
        return self.experiment.fingerprint(task), task

    def _file(self, name: str) -> Path:
        return self.experiment.directory / FOLDER / f"{name}.json"


def _folds(experiment: Experiment) -> tuple[TrainingTask, ...]:
    """Validation folds with whole groups; every class keeps an image in each training."""
    fold_of = assign_folds(experiment.train.labels, experiment.groups, derive_seed(experiment.seed, PURPOSE))
    numbers = np.unique(fold_of[fold_of >= 0])
    if len(numbers) < 2:
        raise DataError(
            "the synthetic fraction can't be chosen by cross-validation: each class is one image or one group",
            fix="set it, --set evaluation.synthetic_fraction=0.3, and compare a single baseline",
        )
    ids = np.array(experiment.train.ids)
    return tuple(
        TrainingTask(
            arm=ON_BEST,
            base=PLAIN,
            mix=NO_SYNTHETIC,
            real=experiment.subset(TRAIN, np.flatnonzero(fold_of != value)),
            synthetic=experiment.synthetic_subset(ON_BEST, number, unrelated_to=ids[fold_of == value].tolist()),
            eval_images=experiment.subset(TRAIN, np.flatnonzero(fold_of == value)),
            seed=derive_seed(experiment.seed, PURPOSE, number),
        )
        for number, value in enumerate(numbers)
    )


def _balanced_accuracy(correct: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    """Mean recall over the classes that occur."""
    return float(np.mean([correct[labels == label].mean() for label in np.unique(labels)]))
