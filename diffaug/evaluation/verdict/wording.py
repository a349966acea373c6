"""The verdict in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.mix import MixChoice, SyntheticMix
from diffaug.evaluation.statistics.comparison import Comparison, Control
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.verdict.decide import RELEVANT_GAIN, Decision, Evidence, Outcome

MAX_NAMED_CLASSES = 3
ENOUGH_SEEDS = 3
PARTS = {
    "new content": "new content",
    "more exposure": "rare classes shown more often",
    "shifted prior": "class-prior shift",
}


@dataclass(frozen=True)
class Verdict:
    """The answer in a sentence, what it rests on, and the arms it is about; see `Decision` for the numbers."""

    decision: Outcome
    headline: str
    details: tuple[str, ...]
    arm: str
    baseline: str
    test_images_needed: int | None = None
    seeds_needed: int | None = None


def in_words(decision: Decision, evidence: Evidence) -> Verdict:
    """The verdict that states a decision."""
    comparison = decision.comparison
    return Verdict(
        decision.outcome,
        _headline(decision, evidence),
        tuple(_details(decision, evidence)),
        comparison.arm,
        comparison.baseline,
        decision.test_images_needed,
        decision.seeds_needed,
    )


def mix_in_words(mix: SyntheticMix) -> str:
    """A mix that is not zero."""
    parts = [f"{100 * mix.fraction:.0f} % of each batch"]
    if mix.loss_weight != 1:
        parts.append(f"loss weight {mix.loss_weight:g}")
    if mix.max_per_real is not None:
        parts.append(f"at most {mix.max_per_real:g} per real image of a class")
    if mix.excluded_classes:
        parts.append(f"none for {', '.join(mix.excluded_classes)}")
    return ", ".join(parts)


def points(fraction: float) -> str:
    """A difference of fractions in percentage points, with its sign unless it rounds to zero."""
    text = f"{100 * fraction:+.1f}"
    return text if float(text) else "0.0"


def change_in_words(difference: Estimate) -> str:
    """The mean in points and its interval."""
    return f"{points(difference.mean)} {_interval(difference)}"


def _headline(decision: Decision, evidence: Evidence) -> str:
    comparison = decision.comparison
    change = (
        f"{_images(evidence)} ({_arm(comparison.arm, evidence.mix)}) changed balanced accuracy by "
        f"{points(comparison.difference.mean)} points {_interval(comparison.difference)} compared with the best "
        f"baseline ('{comparison.baseline}')"
    )
    return {
        "gain": f"Use them: {change}.",
        "no gain": f"Do not use them: {change}, so a gain of {100 * RELEVANT_GAIN:.0f} point is ruled out.",
        "wide interval": f"Not decidable with this test set: {change}.",
        "no synthetic images": "Nothing to use: the pool holds no synthetic image.",
        "fraction set to zero": "Do not use them: no synthetic image was used, since the synthetic fraction was set "
        "to zero.",
        "no better mix": "Do not use them: on validation images no synthetic fraction did better than none.",
    }[decision.reason]


def _details(decision: Decision, evidence: Evidence) -> list[str]:
    comparison = decision.comparison
    advice = [f"Train with '{comparison.baseline}'."] if decision.outcome == "do not use" else []
    if decision.outcome == "not decidable":
        advice = [f"{_needed(decision, evidence)} Until then, train with '{comparison.baseline}'."]
    if decision.reason not in ("gain", "no gain", "wide interval"):
        return advice
    sentences = [_changed_classes(comparison), *_sources(evidence.controls), _limits(comparison, evidence)]
    return [*advice, *filter(None, sentences)]


def _needed(decision: Decision, evidence: Evidence) -> str:
    difference = evidence.differences[decision.comparison.arm]
    ways, too_many = [], []
    if decision.test_images_needed is not None:
        ways.append(f"{decision.test_images_needed:,} test images of the same class mix (now {evidence.test_images:,})")
    else:
        too_many.append("test images")
    if decision.seeds_needed is not None:
        generators = ", with more generators in proportion" if difference.by_generator else ""
        ways.append(f"{decision.seeds_needed:,} seeds (now {difference.seeds}{generators})")
    elif difference.seeds > 1:
        too_many.append("seeds")
    if not ways:
        return "More test images and more seeds would be needed to decide."
    alone = f" No realistic number of {too_many[0]} alone would be enough." if too_many else ""
    return f"About {' or '.join(ways)} would be needed to decide.{alone}"


def _images(evidence: Evidence) -> str:
    count = evidence.synthetic_images
    return "synthetic images" if count is None else f"{count:,} synthetic image{'s' * (count != 1)}"


def _arm(arm: str, choice: MixChoice | None) -> str:
    """The arm, what it builds on, and the mix."""
    if choice is None:
        return f"'{arm}'"
    base = f" on '{choice.base}'" if arm in ARMS and ARMS[arm].on_best else ""
    return f"'{arm}'{base}, {mix_in_words(choice.mix)}{', set by hand' if choice.was_set else ''}"


def _changed_classes(comparison: Comparison) -> str:
    """The classes whose interval excludes zero, the largest changes first."""
    gained = {name: gain.mean for name, gain in comparison.recall_gain.items() if gain.low > 0}
    lost = {name: gain.mean for name, gain in comparison.recall_gain.items() if gain.high < 0}
    if not gained and not lost:
        return "No class changed significantly."
    return f"Classes that gained significantly, each tested alone: {_named(gained)}; that lost: {_named(lost)}."


def _named(changes: Mapping[str, float]) -> str:
    largest = sorted(changes, key=lambda name: -abs(changes[name]))
    named = [f"{name} ({points(changes[name])})" for name in largest[:MAX_NAMED_CLASSES]]
    more = [f"{len(largest) - MAX_NAMED_CLASSES} more"] if len(largest) > MAX_NAMED_CLASSES else []
    return ", ".join(named + more) or "none"


def _sources(controls: Sequence[Control]) -> list[str]:
    """Where the gain comes from; in one sentence where all of its parts were measured."""
    parts = [control for control in controls if control.question in PARTS]
    if len(parts) < len(PARTS):
        return [_control(control) for control in controls]
    total = sum(control.difference.mean for control in parts)
    split = ", ".join(f"{PARTS[c.question]} {change_in_words(c.difference)}" for c in parts)
    whole = f"The {points(total)} points of 'real + synthetic' over 'real only' split into: {split}."
    return [whole, *(_control(control) for control in controls if control not in parts)]


def _control(control: Control) -> str:
    change = change_in_words(control.difference)
    return f"{control.question.capitalize()} ('{control.arm}' minus '{control.baseline}'): {change}."


def _limits(comparison: Comparison, evidence: Evidence) -> str:
    sentences = []
    candidates = len(evidence.comparisons)
    if candidates > 1:
        sentences.append(f"The lower end of the interval is adjusted for {candidates} candidates (Holm).")
    if comparison.seeds_only is None:
        reason = "With one seed" if evidence.seeds == 1 else "Since all seeds gave the same answers,"
        sentences.append(f"{reason} the interval covers other test images only.")
    if comparison.by_generator:
        sentences.append(f"By generator: {', '.join(map(points, comparison.by_generator))} points.")
    if evidence.seeds < ENOUGH_SEEDS:
        sentences.append(f"With fewer than {ENOUGH_SEEDS} seeds, training variance is barely measured.")
    return " ".join(sentences)


def _interval(difference: Estimate) -> str:
    return f"(95 % interval {100 * difference.low:z.1f} to {100 * difference.high:z.1f})"
