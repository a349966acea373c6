"""Joins what was chosen into one record, and says how many trainings a choice and a test take."""

from __future__ import annotations

from collections.abc import Sequence

from diffaug.configuration.evaluation import EvaluationSettings
from diffaug.evaluation.experiment.arms import ARMS, Arm
from diffaug.evaluation.experiment.choice import Choice
from diffaug.evaluation.experiment.choosing.mixes import ChosenMix
from diffaug.evaluation.experiment.choosing.real_arms import DRAWS, RealArms, choose_real_arms, quick_arms, untuned_arms
from diffaug.evaluation.experiment.choosing.validation import JUDGED_SEEDS, Validation, cross_validation
from diffaug.evaluation.experiment.experiment import Experiment
from diffaug.evaluation.experiment.trainings import Trainings

TUNING = 14
"""Trainings of "tuned augmentation": 7, then 4, then 2 augmentations without plain ones, and 3 of other draws."""


def choose_real(trainings: Trainings) -> RealArms:
    """The real arms by cross-validation, or as they are if there is nothing to choose or nothing to choose on."""
    experiment = trainings.experiment
    folds = cross_validation(trainings) if needs_choice(experiment) else None
    if folds is None:
        return untuned_arms(experiment)
    validation, fold_of = folds
    if experiment.settings.quick:
        return quick_arms(experiment, Validation(trainings, validation.parts[:1]), fold_of)
    return choose_real_arms(experiment, validation, fold_of)


def needs_choice(experiment: Experiment) -> bool:
    """Whether an arm has to be tuned, or one of several be chosen to build on."""
    return _needs_choice(experiment.arms)


def _needs_choice(arms: Sequence[Arm]) -> bool:
    tuned = {"tuned augmentation", "pretrained features", "pseudo-labels"}
    names = {arm.name for arm in arms if arm.role == "baseline" and arm.control == "none"}
    return bool(tuned & names) or (len(names) > 1 and any(arm.on_best for arm in arms))


def choice_of(real: RealArms, chosen: ChosenMix, *, is_quick: bool = False) -> Choice:
    """The record of both choices."""
    by_name = {arm.name: arm for arm in real.arms}
    features, tuned = by_name.get("pretrained features"), by_name.get("tuned augmentation")
    return Choice(
        base=chosen.arm.name,
        mix=chosen.mix,
        real=real.measured,
        mixtures=chosen.mixtures,
        refinements=chosen.refinements,
        augmentation=str((tuned or ARMS["real only"]).augmentation),
        regularization=None if features is None else features.regularization,
        class_weighted=features is not None and features.draw == "classes",
        num_folds=real.num_folds,
        judged_images=chosen.judged_images,
        measured_mix=chosen.measured_mix,
        reason=chosen.reason,
        arms=tuple(arm for arm in real.arms if arm != ARMS[arm.name]),
        based_on=chosen.arm,
        is_quick=is_quick,
    )


def planned_trainings(experiment: Experiment) -> int:
    """About how many trainings of networks the choices and the test take; regressions on features count as none."""
    has_encoder, has_pilot = experiment.encoder_name is not None, experiment.pilot is not None
    return count_trainings(experiment.arms, experiment.settings, has_encoder=has_encoder, has_pilot=has_pilot)


def count_trainings(arms: Sequence[Arm], settings: EvaluationSettings, *, has_encoder: bool, has_pilot: bool) -> int:
    """See `planned_trainings`; of an experiment that compares these arms, perhaps with a pilot's pool to choose on."""
    names, networks = {arm.name for arm in arms}, _networks(arms)
    test = settings.repetitions * len(networks)
    if not _needs_choice(arms):
        return test
    tuned = {"tuned augmentation"} & names
    measured = {arm.name for arm in networks if arm.role == "baseline" and arm.control == "none"} - tuned
    if settings.quick:
        return test + (len(measured | tuned) if has_encoder else 0)
    folds = 3 * len(measured | set(DRAWS if tuned else ())) + TUNING * len(tuned)
    mixed = JUDGED_SEEDS * 7 if has_pilot and any(arm.depends_on_mix for arm in arms) else 0
    return folds + mixed + test


def _networks(arms: Sequence[Arm]) -> list[Arm]:
    return [arm for arm in arms if arm.learner != "features"]
