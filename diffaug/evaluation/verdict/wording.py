"""The verdict in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.choice import Choice, Mix
from diffaug.evaluation.statistics.comparison import Comparison, Control
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.verdict.decide import RELEVANT_GAIN, Decision, Evidence, Outcome
from diffaug.runtime.console import percent

ENOUGH_SEEDS = 3
MOST_DIGITS = 4
PARTS = {
    "new content": "new content",
    "more exposure": "rare classes shown more often",
    "shifted prior": "class-prior shift",
}
WHAT_TO_DO = (
    "Check that the labels fit the images: diffaug inspect. If they do, train the classifiers longer "
    "(--set evaluation.max_steps=N), use larger images (--set data.image_size=N), or collect more of them."
)

TEST_A_FRACTION = (
    "To test a fraction all the same: diffaug evaluate STUDY --set evaluation.synthetic_fraction=0.15 --overwrite."
)
FIRST_ANSWER = "This is a first answer, from few arms and short trainings. The same without --quick gives the full one."


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


def in_words(decision: Decision, evidence: Evidence, per_class: Sequence[str] = ()) -> Verdict:
    """The verdict that states a decision; `per_class` are sentences about single classes."""
    comparison = decision.comparison
    is_quick = evidence.choice is not None and evidence.choice.is_quick
    return Verdict(
        decision.outcome,
        _headline(decision, evidence),
        (*_details(decision, evidence, per_class), *([FIRST_ANSWER] if is_quick else [])),
        comparison.arm,
        comparison.baseline,
        decision.test_images_needed,
        decision.seeds_needed,
    )


def mix_in_words(mix: Mix) -> str:
    """A mix that is not zero."""
    parts = [f"{percent(mix.fraction, 0)} of each batch"]
    if mix.loss_weight != 1:
        parts.append(f"loss weight {mix.loss_weight:g}")
    if mix.max_per_real is not None:
        parts.append(f"at most {mix.max_per_real:g} per real image of a class")
    if mix.excluded_classes:
        parts.append(f"none for {', '.join(mix.excluded_classes)}")
    if mix.excluded_origins:
        parts.append(f"none of the origin {', '.join(mix.excluded_origins)}")
    return ", ".join(parts)


def points(fraction: float, digits: int = 1) -> str:
    """A difference of fractions in percentage points, with its sign unless it rounds to zero."""
    text = f"{100 * fraction:+.{digits}f}"
    return text if float(text) else text[1:]


def digits_of(difference: Estimate) -> int:
    """Decimals, 1 to 4, with which an interval in points looks as it was judged: on its side of 0 and of 1 point."""
    ends = (100 * difference.low, 100 * difference.high)
    limits = (0.0, 100 * RELEVANT_GAIN)
    return next((digits for digits in range(1, MOST_DIGITS) if _keeps_sides(ends, limits, digits)), MOST_DIGITS)


def _keeps_sides(values: Sequence[float], limits: Sequence[float], digits: int) -> bool:
    """Whether each value, rounded, is still above, below or at each limit."""
    return all(
        (round(value, digits) > limit, round(value, digits) < limit) == (value > limit, value < limit)
        for value in values
        for limit in limits
    )


def change_in_words(difference: Estimate) -> str:
    """The mean in points and its interval."""
    return f"{points(difference.mean, digits_of(difference))} {interval_in_words(difference)}"


def gain_in_words(difference: Estimate) -> str:
    """The mean in points and the ends of its interval, where it is clear that it is one."""
    return f"{points(difference.mean, digits_of(difference))} ({ends_in_words(difference)})"


def interval_in_words(difference: Estimate) -> str:
    """The ends of a 95 % interval in points."""
    return f"(95 % interval {ends_in_words(difference)})"


def ends_in_words(difference: Estimate) -> str:
    """The ends of an interval in points."""
    digits = digits_of(difference)
    return f"{100 * difference.low:z.{digits}f} to {100 * difference.high:z.{digits}f}"


def _headline(decision: Decision, evidence: Evidence) -> str:
    comparison, choice = decision.comparison, evidence.choice
    change = (
        f"{_images(evidence)} ({_arm(comparison.arm, choice)}) changed balanced accuracy by "
        f"{points(comparison.difference.mean, digits_of(comparison.difference))} points "
        f"{interval_in_words(comparison.difference)} compared with the "
        f"best baseline ('{comparison.baseline}')"
    )
    best = max(accuracy.mean for accuracy in evidence.accuracies.values())
    judged = f"{choice.judged_images:,} training images" if choice else "training images"
    return {
        "gain": f"Use them: {change}.",
        "no gain": f"Do not use them: {change}, so a gain of {100 * RELEVANT_GAIN:.0f} point is ruled out.",
        "wide interval": f"Not decidable with this test set: {change}.",
        "nothing learned": f"Not decidable: no arm learned the task. The best has {percent(best)} balanced accuracy, "
        f"and guessing has {percent(evidence.chance)}.",
        "no synthetic images": "Nothing to use: there are no synthetic images.",
        "none used": "Do not use them: no synthetic image was used.",
        "no better mix": f"Do not use them: on {judged} that the pilot generator had not seen, no synthetic "
        "fraction did better than none.",
        "few judged images": f"Not decidable: on {judged} that the pilot generator had not seen, no synthetic fraction "
        f"did better than none, but these are too few to rule out a gain of {100 * RELEVANT_GAIN:.0f} point.",
    }[decision.reason]


def _details(decision: Decision, evidence: Evidence, per_class: Sequence[str]) -> list[str]:
    comparison = decision.comparison
    train_with = f"Train with '{comparison.baseline}'."
    if decision.reason == "nothing learned":
        return [WHAT_TO_DO]
    if decision.reason == "few judged images":
        return [f"{TEST_A_FRACTION} Until then, train with '{comparison.baseline}'."]
    if decision.reason in ("no synthetic images", "none used", "no better mix"):
        why = evidence.choice.reason if evidence.choice and decision.reason == "none used" else ""
        return [*filter(None, [why]), train_with]
    advice = {
        "use": [],
        "do not use": [train_with],
        "not decidable": [f"{_needed(decision, evidence)} Until then, train with '{comparison.baseline}'."],
    }[decision.outcome]
    return [*advice, *per_class, *_sources(evidence.controls), *filter(None, [_limits(comparison, evidence)])]


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
    used, available = evidence.used_images, evidence.synthetic_images
    if used is None:
        return "synthetic images"
    return f"{used:,} synthetic image{'s' * (used != 1)}" + (f" of {available:,}" if available != used else "")


def _arm(arm: str, choice: Choice | None) -> str:
    """The arm, what it builds on, and the mix."""
    if choice is None:
        return f"'{arm}'"
    base = f" on '{choice.base}'" if arm in ARMS and ARMS[arm].on_best else ""
    return f"'{arm}'{base}, {mix_in_words(choice.mix)}{', not chosen by measurement' if choice.was_set else ''}"


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
