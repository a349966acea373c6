"""Chooses which synthetic images to add to which real arm, on images that neither classifier nor generator has seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffaug.evaluation.experiment.arms import Arm
from diffaug.evaluation.experiment.choice import MeasuredMix, SyntheticMix
from diffaug.evaluation.experiment.choosing.real_arms import RealArms
from diffaug.evaluation.experiment.choosing.validation import NO_SYNTHETIC, Option, Validation, on_judged_images
from diffaug.evaluation.experiment.experiment import Experiment
from diffaug.evaluation.experiment.training_sets import allowed_positions
from diffaug.evaluation.experiment.trainings import Trainings
from diffaug.synthesis.pool.origins import CROSSED, TRANSPLANT

REFINED_MAX_PER_REAL = 3.0
HOPELESS = 0.05
"""A network this far below the best real arm is not tried: no published gain of synthetic images is as large."""


@dataclass(frozen=True)
class ChosenMix:
    """A real arm, the synthetic images to add to it, and the measurements, as in `Choice`."""

    arm: Arm
    mix: SyntheticMix
    reason: str
    mixtures: tuple[MeasuredMix, ...] = ()
    refinements: tuple[MeasuredMix, ...] = ()
    judged_images: int = 0


def choose_mix(trainings: Trainings, real: RealArms, fractions: Sequence[float]) -> ChosenMix:
    """Chooses by measurement, if there is a pilot and something to choose.

    1. Each base, see `bases`, is trained without and with the middle fraction of synthetic images.
    2. The base of the best of these mixtures is trained with the other fractions too.
    3. The one with the largest gain on a curve over the fractions is taken, see `choose_option`.
    4. Classes that became worse get no synthetic images if that raises the score; nor are images on real backgrounds
       used if that does. A thorough evaluation also tries half the loss weight, and at most three synthetic images per
       real image of a class.
    """
    experiment = trainings.experiment
    set_by_hand = experiment.settings.synthetic_fraction
    wanted = sorted(set(fractions) if set_by_hand is None else {set_by_hand})
    blind = experiment.blind_classes if set_by_hand is None else ()  # who sets the fraction decides about all classes
    mixes = [SyntheticMix(one, excluded_classes=blind) for one in wanted]
    adding = [mix for mix in mixes if not mix.is_zero]
    reason = _why_not_measured(experiment, real, adding)
    if reason or experiment.pilot is None:
        return ChosenMix(real.best, adding[0] if _can_add(experiment, adding) else NO_SYNTHETIC, reason)
    validation = on_judged_images(trainings, experiment.pilot)
    options = _options(validation, real, adding, quick=experiment.settings.quick)
    measured = measure(validation, options)
    best, judged = choose_option(measured, allow_none=0.0 in wanted), int(experiment.pilot.judged.sum())
    if options[best].mix.is_zero:  # another base alone is a real arm, and those were chosen by cross-validation
        return ChosenMix(real.best, NO_SYNTHETIC, _reason(measured[best], judged), measured, (), judged)
    refined = _refinements(validation, options[best], experiment)
    refinements = measure(validation, [*options, *refined])[len(options) :]
    choices = [(measured[best], options[best]), *zip(refinements, refined, strict=True)]
    one, option = max(choices, key=lambda choice: choice[0].score_gain)
    return ChosenMix(option.arm, option.mix, _reason(one, judged), measured, refinements, judged)


def bases(real: RealArms, *, quick: bool = False) -> tuple[Arm, ...]:
    """What synthetic images may be added to.

    The best real arm; the same with classes drawn equally often, where each class gets the same fraction of synthetic
    images; and, if the best learns on features and is not far ahead, the best that learns from pixels, which has more
    to gain from new pixels.
    """
    best = real.best
    found = [best]
    if best.draw == "images":
        found.append(replace(best, draw="classes", balanced_softmax=False))
    if best.learner == "features" and not quick:
        score = {one.arm: one.mean for one in real.measured}
        near = [arm for arm in real.arms if arm.learner != "features" and score[best.name] - score[arm.name] < HOPELESS]
        found += near[:1]
    return tuple(found)


def choose_option(measured: Sequence[MeasuredMix], *, allow_none: bool = True) -> int:
    """The position of the one with the largest gain on the curves of `smoothed_gains`; without any, the best alone."""
    gains = smoothed_gains(measured)
    adding = [number for number, one in enumerate(measured) if not one.mix.is_zero]
    best = max(adding, key=lambda number: (round(gains[number], 9), -measured[number].mix.fraction))
    alone = [number for number, one in enumerate(measured) if one.mix.is_zero]
    if allow_none and round(gains[best], 9) <= 0:
        return max(alone, key=lambda number: measured[number].score_gain)
    return best


def smoothed_gains(measured: Sequence[MeasuredMix]) -> list[float]:
    """The gain of each by the parabola over the fraction that fits those of its arm best, from the arm alone on.

    The gain of a fraction that is the best by chance falls, that of one between two good ones rises. On simulated gains
    with the errors of a few hundred images the choice by the curve costs less than the choice by the measured gains,
    and both cost less than the smallest fraction within one standard error of the best.
    """
    gains = [one.score_gain for one in measured]
    for arm, how in {(one.arm, one.how) for one in measured}:
        own = [number for number, one in enumerate(measured) if (one.arm, one.how) == (arm, how)]
        fractions = np.array([measured[number].mix.fraction for number in own])
        alone = max(gains[number] for number, fraction in zip(own, fractions, strict=True) if not fraction)
        powers = np.stack([fractions, fractions**2], axis=1)
        curve = alone + powers @ np.linalg.lstsq(powers, np.array([gains[n] for n in own]) - alone, rcond=None)[0]
        for number, gain in zip(own, curve.tolist(), strict=True):
            gains[number] = gain
    return gains


def measure(validation: Validation, options: Sequence[Option]) -> tuple[MeasuredMix, ...]:
    """Each option with its paired gain over the best one without synthetic images, which is among them."""
    accuracies = validation.accuracies(options)
    reference = validation.best([option for option in options if option.mix.is_zero])
    return tuple(
        _measured(validation, option, reference, accuracy) for option, accuracy in zip(options, accuracies, strict=True)
    )


def _measured(validation: Validation, option: Option, reference: Option, accuracy: float) -> MeasuredMix:
    one = MeasuredMix(option.arm.name, option.mix, accuracy, validation.spread(option), option.arm.how)
    if option == reference:
        return one
    recall = validation.recall_differences(option, reference).balanced()
    score = validation.score_differences(option, reference).balanced()
    return replace(
        one,
        gain=recall.mean,
        standard_error=math.sqrt(recall.variance),
        score_gain=score.mean,
        score_error=math.sqrt(score.variance),
    )


def _options(validation: Validation, real: RealArms, adding: Sequence[SyntheticMix], *, quick: bool) -> list[Option]:
    """All that is compared: every base alone and with the middle fraction, and the best of them with the others."""
    found, middle = bases(real, quick=quick), adding[(len(adding) - 1) // 2]
    alone, mixed = [Option(arm) for arm in found], [Option(arm, middle) for arm in found]
    validation.correct([*alone, *mixed])  # all at once, since they run in parallel
    base = validation.best(mixed).arm
    return [*alone, *mixed, *(Option(base, mix) for mix in adding if mix != middle)]


def _refinements(validation: Validation, chosen: Option, experiment: Experiment) -> list[Option]:
    mix, worse = chosen.mix, _worse_classes(validation, chosen, experiment.train.classes)
    without = tuple(name for name in experiment.train.classes if name in {*worse, *mix.excluded_classes})
    mixes = [replace(mix, excluded_classes=without)] if worse and len(without) < len(experiment.train.classes) else []
    mixes += [replace(mix, excluded_origins=(origin,)) for origin in _on_backgrounds(experiment, mix)]
    if experiment.settings.thorough:
        mixes += [replace(mix, loss_weight=mix.loss_weight / 2), replace(mix, max_per_real=REFINED_MAX_PER_REAL)]
    return [Option(chosen.arm, one) for one in mixes]


def _on_backgrounds(experiment: Experiment, mix: SyntheticMix) -> list[str]:
    """The origins on real backgrounds among those of the pilot's images that a mix uses, if there are others, too."""
    images = experiment.pilot.images if experiment.pilot else None
    if images is None or images.origins is None:
        return []
    used = {images.origins[position] for position in allowed_positions(experiment.train, images, mix).tolist()}
    return sorted(used & {TRANSPLANT, CROSSED}) if len(used) > 1 else []


def _worse_classes(validation: Validation, chosen: Option, classes: Sequence[str]) -> list[str]:
    """Classes whose score fell, compared with the same arm alone, by more than a standard error."""
    gains = validation.score_differences(chosen, Option(chosen.arm)).each()
    judged = np.unique(validation.parts[0].judged.labels).tolist()
    fell = [gain.mean < -math.sqrt(gain.variance) for gain in gains]
    return [classes[label] for label, falls in zip(judged, fell, strict=True) if falls]


def _can_add(experiment: Experiment, adding: Sequence[SyntheticMix]) -> bool:
    usable = set(experiment.train.classes) - set(adding[0].excluded_classes) if adding else set()
    return any(pool.counts_by_name[name] for pool in experiment.pools for name in usable)


def _why_not_measured(experiment: Experiment, real: RealArms, adding: Sequence[SyntheticMix]) -> str:
    """Why the mix is not chosen by measurement, in a sentence; empty if it is."""
    pilot = experiment.pilot
    is_useless = pilot is None or not pilot.judged.any() or not len(pilot.images)
    whose = "pilot's " if pilot is not None and set(experiment.train.classes) <= set(pilot.blind_classes) else ""
    reasons = {
        "There is no synthetic image.": not any(map(len, experiment.pools)),
        "The synthetic fraction was set by hand.": experiment.settings.synthetic_fraction is not None,
        "The grid holds no fraction but zero.": not adding,
        f"Nothing shows that the {whose}synthetic images of any class belong to it.": not _can_add(experiment, adding),
        "No arm uses synthetic images.": not any(arm.depends_on_mix for arm in experiment.arms),
        "A first answer takes the smallest fraction.": experiment.settings.quick and real.best.learner != "features",
        "No pilot could be trained on a part of the images, so the smallest fraction is taken.": is_useless,
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def _reason(chosen: MeasuredMix, judged: int) -> str:
    on = f"on {judged} training images that neither classifier nor generator had seen"
    if chosen.mix.is_zero:
        return f"No synthetic fraction did better than none {on}."
    gain = f"{100 * chosen.score_gain:+.1f} points, standard error {100 * chosen.score_error:.1f}"
    return f"The best fraction {on}, in probability of the true class: {gain}."
