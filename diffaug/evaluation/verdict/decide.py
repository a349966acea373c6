"""The verdict: use the synthetic images, do not, or get what it takes to know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from diffaug.errors import QualityGateError, UsageError
from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.statistics.comparison import Comparison, Control
from diffaug.evaluation.statistics.crossed import CrossedMean, Estimate
from diffaug.evaluation.statistics.multiplicity import CONFIDENCE, tail

if TYPE_CHECKING:
    from diffaug.evaluation.verdict.result import EvaluationResult

WORTH_HAVING = 0.01
NAMED_CLASSES = 3
FEWEST_SEEDS = 3
GAIN_PARTS = {"new content": "new content", "more exposure": "more exposure", "shifted prior": "a shifted prior"}

Decision = Literal["use", "do not use", "not decidable"]


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        decision: The answer in a word.
        text: The answer in sentences; what it rests on follows, a line each.
        arm: The claim that it is about.
        baseline: The best arm without synthetic images.
        test_images_needed: Where not decidable: about how many test images of the same class mix would decide it;
            none: more test images alone would not.
        seeds_needed: Where not decidable: about how many seeds would decide it; none: more seeds alone would not, or
            there was only one.
    """

    decision: Decision
    text: str
    arm: str
    baseline: str
    test_images_needed: int | None = None
    seeds_needed: int | None = None


@dataclass(frozen=True)
class Evidence:
    """What a verdict is read off.

    Attributes:
        comparisons: One a claim, at least one, all with the same baseline.
        differences: What the comparisons were made from, by claim.
        controls: Where a gain comes from, as far as it was measured.
        real_arms: Number of arms that the baseline is the best of.
        synthetic_images: Size of the pool; none: not known.
        test_images: Size of the test set.
        seeds: Paired repetitions of each arm.
        dose: How much synthetic was used, under `chosen`; without a `curve` it was set by hand; none: not known.
    """

    comparisons: tuple[Comparison, ...]
    differences: Mapping[str, CrossedMean]
    controls: tuple[Control, ...]
    real_arms: int
    synthetic_images: int | None
    test_images: int
    seeds: int
    dose: Mapping[str, Any] | None = None


def decide(evidence: Evidence) -> Verdict:
    """Reads the verdict off the evidence.

    "use": a claim is better than the baseline at the 5 % level, Holm-corrected. "do not use": the intervals of all
    claims end below a gain of one point, or the dose is zero. Else "not decidable". The baseline is the
    real arm that did best on the same test images, so chance favours it a little.
    """
    comparisons = evidence.comparisons
    if evidence.synthetic_images == 0:
        return _refuse(_best(comparisons), "There is nothing to use: the pool holds no synthetic image.")
    if dose_is_zero(evidence.dose):
        tried = "on validation no dose of synthetic images that was tried did better than none"
        untried = "synthetic images were not tried, since their share was set to zero"
        return _refuse(_best(comparisons), f"Do not use it: {untried if dose_is_set(evidence.dose) else tried}.")
    better = [c for c in comparisons if c.difference.low > 0 and c.p_value_holm < 1 - CONFIDENCE]
    if better:
        return _use(_best(better), evidence)
    open_questions = [c for c in comparisons if c.difference.high >= WORTH_HAVING]
    return _not_decidable(_best(open_questions), evidence) if open_questions else _do_not_use(evidence)


def dose_is_zero(dose: Mapping[str, Any] | None) -> bool:
    """Whether no synthetic image is used at this dose; False where it is not known."""
    return dose is not None and any(dose["chosen"].get(part) == 0 for part in ("share", "weight", "max_ratio"))


def dose_is_set(dose: Mapping[str, Any] | None) -> bool:
    """Whether the dose was set by hand: it has no curve to be chosen from. False where it is not known."""
    return dose is not None and not dose.get("curve")


def require_gain(result: EvaluationResult, fail_under: float) -> None:
    """Raises unless the interval of the verdict's comparison lies above a threshold, and the verdict is "use".

    A threshold below zero asks that little is lost: it does not take the verdict.

    Args:
        result: The evaluation.
        fail_under: Gain in balanced accuracy that the lower end must reach, a fraction: 0.01 is one point.

    Raises:
        QualityGateError: The lower end is below it, or a gain is asked for and not sure.
        UsageError: The threshold is not between -1 and 1.
    """
    if not -1 <= fail_under <= 1:
        raise UsageError(f"a gain of {fail_under} is impossible", fix="give a fraction: 0.01 is one point")
    verdict = result.verdict
    claim = next(c for c in result.comparisons if (c.arm, c.baseline) == (verdict.arm, verdict.baseline))
    if fail_under >= 0 and verdict.decision != "use" and claim.difference.low >= fail_under:
        raise QualityGateError(
            f"'{claim.arm}' gained {_change_in_points(claim.difference)} points over '{claim.baseline}', but the "
            f"verdict is '{verdict.decision}': {verdict.text}",
            fix="the report says what would help",
        )
    if not claim.difference.low >= fail_under:
        raise QualityGateError(
            f"'{claim.arm}' gained {_change_in_points(claim.difference)} points over '{claim.baseline}': "
            f"the lower end is below the {_points(fail_under)} that were asked for",
            fix=f"the verdict is '{verdict.decision}'; the report says what would help",
        )


def _best(comparisons: Sequence[Comparison]) -> Comparison:
    return max(comparisons, key=lambda comparison: comparison.difference.mean)


def _deciding_variance(difference: CrossedMean, evidence: Evidence) -> float:
    """Variance at which the same mean would be decided one way or the other, whichever is easier."""
    to_use = difference.mean / difference.quantile(tail() / len(evidence.comparisons))
    to_refuse = (WORTH_HAVING - difference.mean) / difference.quantile(tail(evidence.real_arms))
    return max(to_use, to_refuse) ** 2


def _images_needed(difference: CrossedMean, test_images: int, target: float) -> int | None:
    room = target - max(difference.seed_variance - difference.noise_variance, 0)
    needed = test_images * difference.image_variance / room if room > 0 else math.inf
    return _two_figures_up(max(needed, test_images + 1)) if needed < math.inf else None


def _seeds_needed(difference: CrossedMean, target: float) -> int | None:
    room = target - max(difference.image_variance - difference.noise_variance, 0)
    needed = difference.seeds * difference.seed_variance / room if room > 0 else math.inf
    return _two_figures_up(max(needed, difference.seeds + 1)) if 0 < needed < math.inf else None


def _two_figures_up(number: float) -> int:
    unit = int(10 ** max(math.floor(math.log10(number)) - 1, 0))
    return math.ceil(number / unit) * unit


def _refuse(best: Comparison, reason: str) -> Verdict:
    return Verdict("do not use", f"{reason} Train with '{best.baseline}'.", best.arm, best.baseline)


def _use(best: Comparison, evidence: Evidence) -> Verdict:
    text = (
        f"Use it: adding {_images(evidence)} ({_way(best.arm, evidence.dose)}) raised balanced accuracy by "
        f"{100 * best.difference.mean:.1f} points {_interval(best.difference)} over the best real-only training "
        f"('{best.baseline}').\n{_details(best, evidence)}"
    )
    return Verdict("use", text, best.arm, best.baseline)


def _do_not_use(evidence: Evidence) -> Verdict:
    best = _best(evidence.comparisons)
    text = (
        f"Do not use it: {_change(best, evidence)}, so a gain of {100 * WORTH_HAVING:.0f} point is ruled out. "
        f"Train with '{best.baseline}'.\n{_details(best, evidence)}"
    )
    return Verdict("do not use", text, best.arm, best.baseline)


def _not_decidable(undecided: Comparison, evidence: Evidence) -> Verdict:
    difference = evidence.differences[undecided.arm]
    target = _deciding_variance(difference, evidence)
    images_needed = _images_needed(difference, evidence.test_images, target)
    seeds_needed = _seeds_needed(difference, target)
    text = (
        f"Not decidable with this test set: {_change(undecided, evidence)}; corrected p-value "
        f"{undecided.p_value_holm:.2g}. {_outlook(difference, evidence.test_images, images_needed, seeds_needed)}. "
        f"Until then, train with '{undecided.baseline}'.\n{_details(undecided, evidence)}"
    )
    return Verdict("not decidable", text, undecided.arm, undecided.baseline, images_needed, seeds_needed)


def _outlook(difference: CrossedMean, test_images: int, images_needed: int | None, seeds_needed: int | None) -> str:
    ways = []
    if images_needed is not None:
        ways.append(f"about {images_needed:,} test images of the same class mix (now {test_images:,})")
    if seeds_needed is not None:
        others = ", with more generators in proportion" if difference.by_generator else ""
        ways.append(f"about {seeds_needed:,} seeds (now {difference.seeds}{others})")
    return f"To decide it takes {' or '.join(ways) or 'more test images and more seeds'}"


def _change(comparison: Comparison, evidence: Evidence) -> str:
    return (
        f"adding {_images(evidence)} ({_way(comparison.arm, evidence.dose)}) changed balanced accuracy by "
        f"{_points(comparison.difference.mean)} points {_interval(comparison.difference)} "
        f"against the best real-only training ('{comparison.baseline}')"
    )


def _images(evidence: Evidence) -> str:
    count = evidence.synthetic_images
    return "synthetic images" if count is None else f"{count:,} synthetic image{'s' * (count != 1)}"


def _way(arm: str, dose: Mapping[str, Any] | None) -> str:
    """The arm, what it builds on, and the dose."""
    name = f"'{arm}'"
    if dose is None:
        return name
    chosen, known_arm = dose["chosen"], ARMS.get(arm)
    ratio = chosen.get("max_ratio")
    base = [f"on '{dose['base']}'"] if known_arm and known_arm.on_best else []
    parts = [name, *base, f"{100 * chosen['share']:.0f} % of each batch", f"loss weight {chosen.get('weight', 1):g}"]
    if ratio is not None and math.isfinite(ratio):
        parts.append(f"at most {ratio:g} for each real image of a class")
    if chosen.get("without"):
        parts.append(f"none for {', '.join(chosen['without'])}")
    if dose_is_set(dose):
        parts.append("set by hand")
    return ", ".join(parts)


def _details(comparison: Comparison, evidence: Evidence) -> str:
    sentences = [_gains_and_losses(comparison), _sources(evidence.controls), _limits(comparison, evidence)]
    return "\n".join(filter(None, sentences))


def _sources(controls: Sequence[Control]) -> str:
    """Where the gain comes from; in one sentence where all of its parts were measured."""
    parts = [control for control in controls if control.question in GAIN_PARTS]
    if len(parts) < len(GAIN_PARTS):
        return "\n".join(map(_control, controls))
    total = sum(control.difference.mean for control in parts)
    *first, last = [f"{_change_in_points(c.difference)} from {GAIN_PARTS[c.question]}" for c in parts]
    whole = f"Of {_points(total)} points of 'real + synthetic' over 'real only' come {', '.join(first)} and {last}."
    return "\n".join([whole, *(_control(control) for control in controls if control not in parts)])


def _control(control: Control) -> str:
    change = _change_in_points(control.difference)
    return f"{control.question.capitalize()}, '{control.arm}' against '{control.baseline}': {change}."


def _limits(comparison: Comparison, evidence: Evidence) -> str:
    sentences = []
    if comparison.seeds_only is None:
        reason = "With one seed" if evidence.seeds == 1 else "All seeds answered alike, so"
        sentences.append(f"{reason} the interval is about other test images alone.")
    if comparison.by_generator:
        sentences.append(f"By generator: {', '.join(map(_points, comparison.by_generator))} points.")
    if evidence.seeds < FEWEST_SEEDS:
        sentences.append(f"Fewer than {FEWEST_SEEDS} seeds hardly tell anything about other trainings.")
    return " ".join(sentences)


def _points(fraction: float) -> str:
    points = f"{100 * fraction:+.1f}"
    return points if float(points) else "0.0"


def _change_in_points(difference: Estimate) -> str:
    return f"{_points(difference.mean)} {_interval(difference)}"


def _interval(difference: Estimate) -> str:
    return f"(95 % interval {100 * difference.low:z.1f} to {100 * difference.high:z.1f})"


def _gains_and_losses(comparison: Comparison) -> str:
    """Names the classes whose change exceeds its interval, the largest first."""
    gained = {name: gain.mean for name, gain in comparison.recall_gain.items() if gain.low > 0}
    lost = {name: gain.mean for name, gain in comparison.recall_gain.items() if gain.high < 0}
    if not gained and not lost:
        return "No class surely gained or lost."
    return f"Classes that gained most: {_named(gained)}. Classes that lost: {_named(lost)}."


def _named(changes: Mapping[str, float]) -> str:
    largest = sorted(changes, key=lambda name: -abs(changes[name]))
    named = [f"{name} ({_points(changes[name])})" for name in largest[:NAMED_CLASSES]]
    more = [f"{len(largest) - NAMED_CLASSES} more"] if len(largest) > NAMED_CLASSES else []
    return ", ".join(named + more) or "none"
