"""The decision: use the synthetic images, do not, or what it would take to know. Numbers only, see `wording`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from diffaug.evaluation.experiment.choice import Choice
from diffaug.evaluation.statistics.comparison import Comparison, Control
from diffaug.evaluation.statistics.crossed import CrossedMean, Estimate, tail

RELEVANT_GAIN = 0.01
LEARNED_SHARE = 0.05
"""An arm learned the task if it may have come further than this part of the way from guessing to no error."""
RULE_OF_THREE, NORMAL_QUANTILE = 3, 1.96
MAX_SEEDS = 200
"""A number of seeds above this is not realistic: each of them trains every arm."""
MAX_TEST_SET_GROWTH = 100
"""A test set that is more times as large as the present one is not realistic."""

Outcome = Literal["use", "do not use", "not decidable"]
Reason = Literal[
    "gain",
    "no gain",
    "wide interval",
    "nothing learned",
    "no synthetic images",
    "none used",
    "no better mix",
    "few judged images",
]


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on."""

    comparisons: tuple[Comparison, ...]  # one per candidate, at least one, all with the same baseline
    differences: Mapping[str, CrossedMean]  # what the comparisons were made from, by candidate
    controls: tuple[Control, ...]
    num_baselines: int
    synthetic_images: int | None  # those in the pool; None if not known, like `used_images` and the choice
    used_images: int | None  # those of them that were trained on
    test_images: int
    seeds: int
    num_classes: int
    accuracies: Mapping[str, Estimate]  # balanced accuracy of each arm, with 95 % intervals
    choice: Choice | None = None

    @property
    def chance(self) -> float:
        """Balanced accuracy of guessing."""
        return 1 / self.num_classes

    @property
    def is_without_synthetic(self) -> bool:
        """Whether no synthetic image was trained on, as far as is known."""
        return (
            self.synthetic_images == 0 or self.used_images == 0 or (self.choice is not None and self.choice.mix.is_zero)
        )


@dataclass(frozen=True)
class Decision:
    """The outcome and what it was decided by.

    Attributes:
        test_images_needed: Only for "not decidable": about how many test images of the same class mix would decide;
            None where no realistic number of test images alone would.
        seeds_needed: The same of seeds; also None where there was only one.
    """

    outcome: Outcome
    reason: Reason
    comparison: Comparison
    test_images_needed: int | None = None
    seeds_needed: int | None = None


def decide(evidence: Evidence) -> Decision:
    """Reads the decision off the intervals of the candidates.

    "use": the lower end of a candidate's interval, Holm-adjusted, is above zero. "do not use": the upper ends of all
    candidates are below a gain of one point, or no synthetic image is used, unless too few images were judged to know
    that none gains. "not decidable": all else, and whatever was found if no arm does better than guessing.
    """
    best = _best(evidence.comparisons)
    if evidence.synthetic_images == 0:
        return Decision("do not use", "no synthetic images", best)
    if not learned(evidence):
        return Decision("not decidable", "nothing learned", best)
    if evidence.is_without_synthetic:
        return _without_synthetic(evidence.choice, best)
    better = [c for c in evidence.comparisons if c.difference.low > 0]
    if better:
        return Decision("use", "gain", _best(better))
    undecided = [c for c in evidence.comparisons if c.difference.high >= RELEVANT_GAIN]
    if not undecided:
        return Decision("do not use", "no gain", best)
    comparison = _best(undecided)
    return Decision("not decidable", "wide interval", comparison, *_needed(evidence, comparison.arm))


def _without_synthetic(choice: Choice | None, best: Comparison) -> Decision:
    """The decision where no synthetic image was trained on, so that the test says nothing about them."""
    if choice is None or choice.was_set:
        return Decision("do not use", "none used", best)
    if rules_out_a_gain(choice):
        return Decision("do not use", "no better mix", best)
    return Decision("not decidable", "few judged images", best)


def rules_out_a_gain(choice: Choice) -> bool:
    """Whether the judged images show of each mix that it does not gain a point.

    The upper end of a 95 % interval has to be below that. Where all answers are the same, that is 3 / n for n images
    (the rule of three, Hanley and Lippman-Hand 1983).
    """
    unseen = RULE_OF_THREE / choice.judged_images
    gains = (one for one in choice.mixtures if not one.mix.is_zero)
    return all(one.gain + max(NORMAL_QUANTILE * one.standard_error, unseen) < RELEVANT_GAIN for one in gains)


def learned(evidence: Evidence) -> bool:
    """Whether some arm may be better than guessing by more than a trace, as far as its interval says."""
    trace = evidence.chance + LEARNED_SHARE * (1 - evidence.chance)
    return any(accuracy.high > trace for accuracy in evidence.accuracies.values())


def _best(comparisons: Sequence[Comparison]) -> Comparison:
    return max(comparisons, key=lambda comparison: comparison.difference.mean)


def _needed(evidence: Evidence, arm: str) -> tuple[int | None, int | None]:
    """Test images and seeds with which the same mean would be decided one way or the other, whichever is easier."""
    difference = evidence.differences[arm]
    to_use = difference.mean / difference.quantile(tail() / len(evidence.comparisons))
    to_refuse = (RELEVANT_GAIN - difference.mean) / difference.quantile(tail(evidence.num_baselines))
    variance = max(to_use, to_refuse) ** 2
    images, seeds, noise = difference.image_variance, difference.seed_variance, difference.noise_variance
    return (
        _scaled_up(
            evidence.test_images, images, variance - max(seeds - noise, 0), MAX_TEST_SET_GROWTH * evidence.test_images
        ),
        _scaled_up(difference.seeds, seeds, variance - max(images - noise, 0), MAX_SEEDS),
    )


def _scaled_up(number: int, variance: float, room: float, limit: int) -> int | None:
    """A larger number with which the variance fits into the room, rounded up to two figures; None above the limit."""
    needed = number * variance / room if room > 0 else math.inf
    if not 0 < needed <= limit:
        return None
    needed = max(needed, number + 1)
    unit = int(10 ** max(math.floor(math.log10(needed)) - 1, 0))
    return math.ceil(needed / unit) * unit
