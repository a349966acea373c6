"""Chooses which synthetic images to add to which real arm, on images that neither classifier nor generator has seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffaug.evaluation.experiment.arms import Arm
from diffaug.evaluation.experiment.choice import MeasuredMix, Mix
from diffaug.evaluation.experiment.choosing.gains import Contest, choose_option
from diffaug.evaluation.experiment.choosing.real_arms import RealArms
from diffaug.evaluation.experiment.choosing.validation import (
    NO_SYNTHETIC,
    Option,
    Validation,
    cross_validation,
    on_judged_images,
)
from diffaug.evaluation.experiment.experiment import Experiment, PilotImages
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
    mix: Mix
    reason: str
    measured_mix: Mix | None = None
    mixtures: tuple[MeasuredMix, ...] = ()
    refinements: tuple[MeasuredMix, ...] = ()
    judged_images: int = 0


def choose_mix(trainings: Trainings, real: RealArms, fractions: Sequence[float]) -> ChosenMix:
    """Chooses by measurement, if there is a pilot and something to choose.

    1. Each base, see `bases`, is trained without and with the middle fraction of synthetic images.
    2. The base of the best of these mixtures is trained with the other fractions too.
    3. The one with the largest gain, see `Contest`, on a curve over the fractions is taken; see `choose_option` for
       what is taken if none gains.
    4. Classes that became worse get no synthetic images if that raises the score; nor are images on real backgrounds
       used if that does. A thorough evaluation also tries half the loss weight, and at most three synthetic images per
       real image of a class.
    5. Classes that are blind in the pilot only, and so had no synthetic images in all this, get theirs: the filters of
       the pool know them. Beside classes that are added to, one that is not falls behind.
    """
    experiment = trainings.experiment
    set_by_hand = experiment.settings.synthetic_fraction
    wanted = sorted(set(fractions) if set_by_hand is None else {set_by_hand})
    blind = _blind_classes(experiment) if set_by_hand is None else ()  # who sets the fraction decides about all classes
    adding = [Mix(one, excluded_classes=blind) for one in wanted if one]
    reason = _why_not_measured(experiment, real, adding)
    if reason or experiment.pilot is None:
        unmeasured = _as_in_pool(experiment, adding[0] if adding else NO_SYNTHETIC)
        is_usable = _can_add(experiment, unmeasured)
        return ChosenMix(real.best, unmeasured if is_usable else NO_SYNTHETIC, reason)
    contest = _contest(trainings, real, experiment.pilot)
    options = _options(contest, real, adding, quick=experiment.settings.quick)
    measured = contest.measured(options)
    best, judged = choose_option(measured, allow_none=0.0 in wanted), int(experiment.pilot.judged.sum())
    if options[best].mix.is_zero:  # another base alone is a real arm, and those were chosen by cross-validation
        return ChosenMix(real.best, NO_SYNTHETIC, _reason(measured[best], judged), None, measured, (), judged)
    refined = _refinements(contest.judged, options[best], experiment)
    refinements = contest.measured(refined)
    choices = [(measured[best], options[best]), *zip(refinements, refined, strict=True)]
    one, option = max(choices, key=lambda choice: choice[0].score_gain)
    added = {name for pool in experiment.pools for name in pool.classes if pool.counts_by_name[name]}
    late = tuple(name for name in blind if name in added and name not in experiment.blind_classes)
    mix = _as_in_pool(experiment, option.mix)
    return ChosenMix(option.arm, mix, _reason(one, judged, late), option.mix, measured, refinements, judged)


def _blind_classes(experiment: Experiment) -> tuple[str, ...]:
    """Classes on whose synthetic images nothing can be chosen, in the order of the classes."""
    blind = {*experiment.blind_classes, *(experiment.pilot.blind_classes if experiment.pilot else ())}
    return tuple(name for name in experiment.train.classes if name in blind)


def _as_in_pool(experiment: Experiment, mix: Mix) -> Mix:
    """The mix with the classes that are left out only because they are blind in the pilot."""
    late = {*(experiment.pilot.blind_classes if experiment.pilot else ())} - {*experiment.blind_classes}
    return replace(mix, excluded_classes=tuple(name for name in mix.excluded_classes if name not in late))


def _contest(trainings: Trainings, real: RealArms, pilot: PilotImages) -> Contest:
    quick = trainings.experiment.settings.quick
    folds = cross_validation(trainings) if real.num_folds and not quick else None
    return Contest(on_judged_images(trainings, pilot), folds and folds[0], bases(real, quick=quick))


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


def _options(contest: Contest, real: RealArms, adding: Sequence[Mix], *, quick: bool) -> list[Option]:
    """All that is compared: every base alone and with the middle fraction, and the best of them with the others."""
    found, middle = bases(real, quick=quick), adding[(len(adding) - 1) // 2]
    alone, mixed = [Option(arm) for arm in found], [Option(arm, middle) for arm in found]
    contest.judged.correct([*alone, *mixed])  # all at once, since they run in parallel
    base = contest.best(mixed).arm
    return [*alone, *mixed, *(Option(base, mix) for mix in adding if mix != middle)]


def _refinements(validation: Validation, chosen: Option, experiment: Experiment) -> list[Option]:
    mix, worse = chosen.mix, _worse_classes(validation, chosen, experiment.train.classes)
    without = tuple(name for name in experiment.train.classes if name in {*worse, *mix.excluded_classes})
    is_new = len(mix.excluded_classes) < len(without) < len(experiment.train.classes)
    mixes = [replace(mix, excluded_classes=without)] if is_new else []
    mixes += [replace(mix, excluded_origins=(origin,)) for origin in _on_backgrounds(experiment, mix)]
    if experiment.settings.thorough:
        mixes += [replace(mix, loss_weight=mix.loss_weight / 2), replace(mix, max_per_real=REFINED_MAX_PER_REAL)]
    return [Option(chosen.arm, one) for one in mixes]


def _on_backgrounds(experiment: Experiment, mix: Mix) -> list[str]:
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


def _can_add(experiment: Experiment, mix: Mix) -> bool:
    usable = set(experiment.train.classes) - set(mix.excluded_classes)
    return any(pool.counts_by_name[name] for pool in experiment.pools for name in usable)


def _why_not_measured(experiment: Experiment, real: RealArms, adding: Sequence[Mix]) -> str:
    """Why the mix is not chosen by measurement, in a sentence; empty if it is."""
    pilot = experiment.pilot
    first = adding[0] if adding else NO_SYNTHETIC
    has_images = pilot is not None and len(allowed_positions(experiment.train, pilot.images, first))
    reasons = {
        "There is no synthetic image.": not any(map(len, experiment.pools)),
        "The synthetic fraction was set by hand.": experiment.settings.synthetic_fraction is not None,
        "The grid holds no fraction but zero.": not adding,
        "Nothing shows that the synthetic images of any class belong to it.": not _can_add(
            experiment, _as_in_pool(experiment, first)
        ),
        "No arm uses synthetic images.": not any(arm.depends_on_mix for arm in experiment.arms),
        "Nothing shows that the pilot's images belong to their class, so the smallest fraction of the pool's is "
        "taken.": not _can_add(experiment, first),
        "A first answer takes the smallest fraction.": experiment.settings.quick and real.best.learner != "features",
        "No pilot could be trained on a part of the images, so the smallest fraction is taken.": pilot is None
        or not pilot.judged.any(),
        "The pilot has no image that can be used, so the smallest fraction is taken.": not has_images,
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def _reason(chosen: MeasuredMix, judged: int, late: Sequence[str] = ()) -> str:
    on = f"on {judged} training images that neither classifier nor generator had seen"
    gain = f"{100 * chosen.score_gain:+z.1f} points, standard error {100 * chosen.score_error:.1f}"
    if chosen.mix.is_zero:
        return f"No synthetic fraction did better than none {on}, and the smallest did worse."
    reason = f"Its gain {on}, in probability of the true class: {gain}."
    if chosen.score_gain <= 0:
        reason += " That does not rule a gain out, so the test decides."
    if late:
        reason += f" Measured without {', '.join(late)}, whose images are confirmed in the pool, not in the pilot's."
    return reason
