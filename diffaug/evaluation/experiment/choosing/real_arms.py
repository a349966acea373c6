"""Chooses the best real arm, and how each real arm trains, by cross-validation on the training images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.training_set import STRENGTHS, Augmentation
from diffaug.evaluation.experiment.arms import ARMS, Arm, PseudoLabeling
from diffaug.evaluation.experiment.choice import MeasuredArm
from diffaug.evaluation.experiment.choosing.validation import Option, Validation
from diffaug.evaluation.experiment.experiment import TRAIN, Experiment

DRAWS = ("real only", "oversampling", "balanced softmax")
AUGMENTATIONS = tuple(Augmentation(strength, mixup) for mixup, strength in product((False, True), STRENGTHS))
LABELINGS = tuple(PseudoLabeling(threshold, balanced) for balanced, threshold in product((False, True), (0.8, 0.95)))


@dataclass(frozen=True)
class RealArms:
    """The real arms as they are trained, the best by cross-validation first."""

    arms: tuple[Arm, ...]  # those that synthetic images may be added to
    measured: tuple[MeasuredArm, ...] = ()  # one per arm, in the same order; empty where nothing was measured
    num_folds: int = 0  # of the cross-validation

    @property
    def best(self) -> Arm:
        """The best of all."""
        return self.arms[0]


def choose_real_arms(experiment: Experiment, validation: Validation, fold_of: NDArray[np.int64]) -> RealArms:
    """Tunes the compared real arms and ranks them.

    1. The three ways to draw and to weigh classes are trained on every fold.
    2. "tuned augmentation" is the best of these with the augmentation that is best by successive halving; then classes
       are once more drawn the other way, since another way may be best with augmentation.
    3. "pretrained features" gets its regularization and class weights on the same folds.
    4. "pseudo-labels" is the best of all these, with the labeling that is best by successive halving.
    """
    names = {arm.name for arm in experiment.arms if arm.role == "baseline" and arm.control == "none"}
    arms = [ARMS[name] for name in (*DRAWS, "fine-tuned") if name in names]
    if "tuned augmentation" in names:
        arms.append(_tuned(validation))
    if "pretrained features" in names:
        arms.append(_regression(experiment, fold_of))
    if "pseudo-labels" in names:
        arms.append(_pseudo_labeled(validation, arms))
    return _ranked(validation, arms)


def untuned_arms(experiment: Experiment) -> RealArms:
    """The compared real arms without any training, features first and plain training last."""
    order = ("fine-tuned", "pretrained features", "balanced softmax", "tuned augmentation", "pseudo-labels")
    places = {name: place for place, name in enumerate(order)}
    arms = _compared(experiment) or [ARMS["real only"]]
    return RealArms(tuple(sorted(arms, key=lambda arm: places.get(arm.name, len(places)))))


def quick_arms(experiment: Experiment, validation: Validation, fold_of: NDArray[np.int64]) -> RealArms:
    """The compared real arms, ranked on the parts of the validation if one of them learns from features.

    Nothing is tuned but the regression on features, which takes seconds.
    """
    arms = [_regression(experiment, fold_of) if arm.learner == "features" else arm for arm in _compared(experiment)]
    is_open = any(arm.learner == "features" for arm in arms)
    return _ranked(validation, arms) if is_open else untuned_arms(experiment)


def _compared(experiment: Experiment) -> list[Arm]:
    return [arm for arm in experiment.arms if arm.role == "baseline" and arm.control == "none"]


def _tuned(validation: Validation) -> Arm:
    drawn = validation.best([Option(ARMS[name]) for name in DRAWS]).arm
    options = [Option(replace(drawn, name="tuned augmentation", augmentation=one)) for one in AUGMENTATIONS]
    tuned = validation.best_by_halving(options)
    other = ARMS["oversampling" if drawn.draw == "images" else "balanced softmax"]
    redrawn = Option(replace(other, name="tuned augmentation", augmentation=tuned.arm.augmentation))
    return validation.best([tuned, redrawn]).arm


def _regression(experiment: Experiment, fold_of: NDArray[np.int64]) -> Arm:
    from diffaug.classifiers.feature_regression import choose_regression  # scikit-learn takes a second to import

    train = experiment.subset(TRAIN).examples()
    assert train.features is not None
    chosen = choose_regression(train.features, train.images.labels, fold_of, len(train.images.classes))[0]
    arm = replace(ARMS["pretrained features"], regularization=chosen.regularization)
    return arm if chosen.class_weighted else replace(arm, draw="images", balanced_softmax=True)


def _pseudo_labeled(validation: Validation, arms: list[Arm]) -> Arm:
    best = validation.best([Option(arm) for arm in arms]).arm
    options = [Option(replace(best, name="pseudo-labels", pseudo_labeling=one)) for one in LABELINGS]
    return validation.best_by_halving(options).arm


def _ranked(validation: Validation, arms: list[Arm]) -> RealArms:
    """Sorts by score; an arm on features that is within one standard error of the best comes first.

    Such an arm is a linear model, the simplest of all, and its figure on a few similar images deceives least. So this
    is the one-standard-error rule (Breiman et al. 1984, section 3.4.3).
    """
    options = [Option(arm) for arm in arms]
    scores = validation.scores(options)
    order = np.argsort(-np.array(scores), kind="stable").tolist()
    linear = next((number for number in order if arms[number].learner == "features"), order[0])
    behind = validation.score_differences(options[order[0]], options[linear]).balanced()
    if behind.mean <= math.sqrt(behind.variance):
        order = [linear, *(number for number in order if number != linear)]
    accuracies = validation.accuracies(options)
    measured = [
        MeasuredArm(arms[n].name, arms[n].how, accuracies[n], validation.spread(options[n]), scores[n]) for n in order
    ]
    return RealArms(tuple(arms[number] for number in order), tuple(measured), len(validation.parts))
