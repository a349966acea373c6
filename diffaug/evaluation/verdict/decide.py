"""The decision: use the synthetic images, do not, or what it would take to know. Numbers only, see `wording`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from diffaug.evaluation.experiment.mix import MixChoice
from diffaug.evaluation.statistics.comparison import Comparison, Control
from diffaug.evaluation.statistics.crossed import CrossedMean
from diffaug.evaluation.statistics.multiplicity import tail

RELEVANT_GAIN = 0.01
MAX_SEEDS = 200
"""A number of seeds above this is not realistic: each of them trains every arm."""
MAX_TEST_SET_GROWTH = 100
"""A test set that is more times as large as the present one is not realistic."""

Outcome = Literal["use", "do not use", "not decidable"]
Reason = Literal["gain", "no gain", "wide interval", "no synthetic images", "fraction set to zero", "no better mix"]


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on.

    Attributes:
        comparisons: One per candidate, at least one, all with the same baseline.
        differences: What the comparisons were made from, by candidate.
        synthetic_images: Size of the pool; None if not known, like the mix.
    """

    comparisons: tuple[Comparison, ...]
    differences: Mapping[str, CrossedMean]
    controls: tuple[Control, ...]
    num_baselines: int
    synthetic_images: int | None
    test_images: int
    seeds: int
    mix: MixChoice | None = None


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
    candidates are below a gain of one point, or no synthetic image is used at all. "not decidable": all else.
    """
    best = _best(evidence.comparisons)
    if evidence.synthetic_images == 0:
        return Decision("do not use", "no synthetic images", best)
    if evidence.mix is not None and evidence.mix.mix.is_zero:
        return Decision("do not use", "fraction set to zero" if evidence.mix.was_set else "no better mix", best)
    better = [c for c in evidence.comparisons if c.difference.low > 0]
    if better:
        return Decision("use", "gain", _best(better))
    undecided = [c for c in evidence.comparisons if c.difference.high >= RELEVANT_GAIN]
    if not undecided:
        return Decision("do not use", "no gain", best)
    comparison = _best(undecided)
    return Decision("not decidable", "wide interval", comparison, *_needed(evidence, comparison.arm))


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
            evidence.test_images,
            images,
            variance - max(seeds - noise, 0),
            MAX_TEST_SET_GROWTH * evidence.test_images,
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
