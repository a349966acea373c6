"""The verdict: use the synthetic images, do not, or get what it takes to know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from diffaug.evaluation.comparison import Comparison
from diffaug.evaluation.statistics import CONFIDENCE, PairedDifference

WORTH_HAVING = 0.01
NAMED_CLASSES = 3

Decision = Literal["use", "do not use", "not decidable"]


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        decision: The answer in a word.
        text: The answer in sentences.
        arm: The synthetic arm that it is about.
        baseline: The best arm without synthetic images.
        test_images_needed: Where not decidable: about how many test images of the same class mix would decide it;
            none: more test images alone would not.
        seeds_needed: Where not decidable: about how many seeds would decide it; none: more seeds alone would not.
    """

    decision: Decision
    text: str
    arm: str
    baseline: str
    test_images_needed: int | None = None
    seeds_needed: int | None = None


def decide(
    comparisons: Sequence[Comparison],
    differences: Mapping[str, PairedDifference],
    *,
    synthetic_images: int,
    test_images: int,
) -> Verdict:
    """Reads the verdict off the comparisons.

    "use": a synthetic arm is better than the baseline at the 5 % level, Holm-corrected. "do not use": the 95 %
    intervals of all synthetic arms end below a gain of one point. Else "not decidable". The baseline is the real arm
    that did best on the same test images, so chance favours it a little.

    Args:
        comparisons: One a synthetic arm, at least one.
        differences: What the comparisons were made from, by arm.
        synthetic_images: Size of the pool.
        test_images: Size of the test set.
    """
    if not synthetic_images:
        return _nothing_to_use(comparisons[0])
    better = [c for c in comparisons if c.difference.mean > 0 and c.p_value_holm < 1 - CONFIDENCE]
    if better:
        return _use(_best(better), synthetic_images)
    open_questions = [c for c in comparisons if c.difference.high >= WORTH_HAVING]
    if not open_questions:
        return _do_not_use(_best(comparisons), synthetic_images)
    undecided = _best(open_questions)
    difference = differences[undecided.arm]
    target = _deciding_variance(difference, len(comparisons))
    return _not_decidable(
        undecided,
        synthetic_images,
        test_images,
        seeds=difference.seeds,
        images_needed=_images_needed(difference, test_images, target),
        seeds_needed=_seeds_needed(difference, target),
    )


def _best(comparisons: Sequence[Comparison]) -> Comparison:
    return max(comparisons, key=lambda comparison: comparison.difference.mean)


def _deciding_variance(difference: PairedDifference, num_arms: int) -> float:
    """Variance at which the same mean would be decided one way or the other, whichever is easier."""
    to_use = difference.mean / difference.quantile(1 - (1 - CONFIDENCE) / num_arms)
    to_refuse = (WORTH_HAVING - difference.mean) / difference.quantile()
    return max(to_use, to_refuse) ** 2


def _images_needed(difference: PairedDifference, test_images: int, target: float) -> int | None:
    room = target - max(difference.seed_variance - difference.noise_variance, 0)
    needed = test_images * difference.image_variance / room if room > 0 else math.inf
    return _two_figures_up(max(needed, test_images + 1)) if needed < math.inf else None


def _seeds_needed(difference: PairedDifference, target: float) -> int | None:
    room = target - max(difference.image_variance - difference.noise_variance, 0)
    needed = difference.seeds * difference.seed_variance / room if room > 0 else math.inf
    return _two_figures_up(max(needed, difference.seeds + 1)) if needed < math.inf else None


def _two_figures_up(number: float) -> int:
    unit = int(10 ** max(math.floor(math.log10(number)) - 1, 0))
    return math.ceil(number / unit) * unit


def _nothing_to_use(comparison: Comparison) -> Verdict:
    text = f"There is nothing to use: the pool holds no synthetic image. Train with '{comparison.baseline}'."
    return Verdict("do not use", text, comparison.arm, comparison.baseline)


def _use(best: Comparison, synthetic_images: int) -> Verdict:
    text = (
        f"Use it: adding {_images(synthetic_images)} ('{best.arm}') raised balanced accuracy by "
        f"{100 * best.difference.mean:.1f} points {_interval(best)} over the best real-only training "
        f"('{best.baseline}'). {_gains_and_losses(best)}"
    )
    return Verdict("use", text, best.arm, best.baseline)


def _do_not_use(best: Comparison, synthetic_images: int) -> Verdict:
    text = (
        f"Do not use it: {_change(best, synthetic_images)}, so a gain of {100 * WORTH_HAVING:.0f} point is ruled out. "
        f"Train with '{best.baseline}'. {_gains_and_losses(best)}"
    )
    return Verdict("do not use", text, best.arm, best.baseline)


def _not_decidable(
    undecided: Comparison,
    synthetic_images: int,
    test_images: int,
    *,
    seeds: int,
    images_needed: int | None,
    seeds_needed: int | None,
) -> Verdict:
    ways = []
    if images_needed is not None:
        ways.append(f"about {images_needed:,} test images of the same class mix (now {test_images:,})")
    if seeds_needed is not None:
        ways.append(f"about {seeds_needed:,} seeds (now {seeds})")
    outlook = (
        f"To decide it takes {' or '.join(ways)}" if ways else "To decide it takes more test images and more seeds"
    )
    text = (
        f"Not decidable with this test set: {_change(undecided, synthetic_images)}; corrected p-value "
        f"{undecided.p_value_holm:.2g}. {outlook}. Until then, train with '{undecided.baseline}'. "
        f"{_gains_and_losses(undecided)}"
    )
    return Verdict("not decidable", text, undecided.arm, undecided.baseline, images_needed, seeds_needed)


def _change(comparison: Comparison, synthetic_images: int) -> str:
    return (
        f"adding {_images(synthetic_images)} ('{comparison.arm}') changed balanced accuracy by "
        f"{100 * comparison.difference.mean:+.1f} points {_interval(comparison)} "
        f"against the best real-only training ('{comparison.baseline}')"
    )


def _images(count: int) -> str:
    return f"{count:,} synthetic image{'s' * (count != 1)}"


def _interval(comparison: Comparison) -> str:
    ends = 100 * comparison.difference.low, 100 * comparison.difference.high
    return f"(95 % interval {ends[0]:.1f} to {ends[1]:.1f})"


def _gains_and_losses(comparison: Comparison) -> str:
    """Names the classes whose change exceeds its interval, the largest first."""
    gained = {name: gain.mean for name, gain in comparison.recall_gain.items() if gain.low > 0}
    lost = {name: gain.mean for name, gain in comparison.recall_gain.items() if gain.high < 0}
    return f"Gained most: {_named(gained)}. Lost: {_named(lost)}."


def _named(changes: Mapping[str, float]) -> str:
    largest = sorted(changes, key=lambda name: -abs(changes[name]))
    named = [f"class {name} ({100 * changes[name]:+.1f})" for name in largest[:NAMED_CLASSES]]
    more = [f"{len(largest) - NAMED_CLASSES} more"] if len(largest) > NAMED_CLASSES else []
    return ", ".join(named + more) or "none"
