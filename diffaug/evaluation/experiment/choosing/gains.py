"""What real arms with synthetic images gain over the best of these arms alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from diffaug.evaluation.experiment.arms import Arm
from diffaug.evaluation.experiment.choice import MeasuredMix
from diffaug.evaluation.experiment.choosing.validation import Option, Validation
from diffaug.evaluation.statistics.crossed import ClassMeans, CrossedMean

CLEARLY_WORSE = 0.5
"""Standard errors. In simulations with gains of 0.3 points (SD 1) on average, the regret is 0.01 points larger than by
choosing none where the noise is 0.85 points, and 0.02 smaller where it is 3. One standard error costs twice as much."""


class Contest:
    """Compares real arms with synthetic images, the bases, with the best base alone.

    A gain is a sum of two paired differences. What images add to a base is measured on the images that the generator
    has not seen. What the base alone is ahead of the best one is measured by cross-validation, since it needs no
    generator, and all images measure it more exactly than the few judged ones.

    Attributes:
        judged: Options on the images that the generator has not seen.
        reference: The best base, alone.
    """

    def __init__(self, judged: Validation, folds: Validation | None, bases: Sequence[Arm]) -> None:
        """Without folds of a cross-validation the bases are compared on the judged images, too."""
        self.judged, self._of_bases = judged, folds or judged
        self.reference = self._of_bases.best([Option(arm) for arm in bases])

    def measured(self, options: Sequence[Option]) -> tuple[MeasuredMix, ...]:
        """The gain of each option, and the balanced accuracy to expect of it: that of the best base and the gain."""
        self.judged.correct(options)  # all at once, since they run in parallel
        (reference,) = self._of_bases.accuracies([self.reference])
        return tuple(self._measured(option, reference) for option in options)

    def best(self, options: Sequence[Option]) -> Option:
        """The first of those with the largest gain."""
        return options[int(np.argmax([one.score_gain for one in self.measured(options)]))]

    def _measured(self, option: Option, reference: float) -> MeasuredMix:
        alone = Option(option.arm)
        pairs = [(self._of_bases, alone, self.reference), (self.judged, option, alone)]
        pairs = [pair for pair in pairs if pair[1] != pair[2]]
        recall = [where.recall_differences(one, other) for where, one, other in pairs]
        score = [where.score_differences(one, other) for where, one, other in pairs]
        (gain, standard_error), (score_gain, score_error) = _sum(recall), _sum(score)
        return MeasuredMix(
            arm=option.arm.name,
            mix=option.mix,
            mean=min(reference + gain, 1.0),
            sd=self.judged.spread(option),
            how=option.arm.how,
            gain=gain,
            standard_error=standard_error,
            score_gain=score_gain,
            score_error=score_error,
        )


def _sum(differences: Sequence[ClassMeans]) -> tuple[float, float]:
    """The sum of balanced differences that are measured apart, and its standard error."""
    parts: list[CrossedMean] = [one.balanced() for one in differences]
    return sum(part.mean for part in parts), math.sqrt(sum(part.variance for part in parts))


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


def choose_option(measured: Sequence[MeasuredMix], *, allow_none: bool = True) -> int:
    """The position of the one to test.

    It is the one with the largest gain on the curves of `smoothed_gains`. If none of them gains, it is the smallest
    fraction, unless that is clearly worse than none: few images seldom rule a gain out, and the test says more. Else it
    is the best alone.
    """
    gains = smoothed_gains(measured)
    adding = [number for number, one in enumerate(measured) if not one.mix.is_zero]
    best = max(adding, key=lambda number: (round(gains[number], 9), -measured[number].mix.fraction))
    if not allow_none or round(gains[best], 9) > 0:
        return best
    smallest = min(adding, key=lambda number: (measured[number].mix.fraction, -measured[number].score_gain))
    if round(measured[smallest].score_gain + CLEARLY_WORSE * measured[smallest].score_error, 9) >= 0:
        return smallest
    alone = [number for number, one in enumerate(measured) if one.mix.is_zero]
    return max(alone, key=lambda number: measured[number].score_gain)
