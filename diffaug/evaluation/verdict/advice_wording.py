"""The best real arm, the advice per class and the next steps in sentences."""

from collections.abc import Sequence

from diffaug.evaluation.statistics.comparison import Change
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.verdict.advice import ClassAdvice, ClassRecall, NextStep
from diffaug.evaluation.verdict.arm_summary import ArmSummary
from diffaug.evaluation.verdict.decide import Outcome
from diffaug.evaluation.verdict.wording import digits_of, ends_in_words, gain_in_words, interval_in_words, points
from diffaug.runtime.console import percent

MAX_NAMED_CLASSES = 3


def best_real_in_words(best: ArmSummary, plain: ArmSummary | None, lead: Change | None) -> str:
    """The best arm without synthetic images, and how far plain training is from it.

    `plain` is None if plain training was not run, `lead` also if it is the best.
    """
    found = f"Best without synthetic images: '{best.name}', {percent(best.mean())} balanced accuracy"
    if plain is None:
        return f"{found}."
    if lead is None:
        return f"{found}; this is plain training."
    size, certain = points(abs(lead.difference.mean), digits_of(lead.difference)).lstrip("+"), lead.difference.low > 0
    interval = f"95 % interval {ends_in_words(lead.difference)}"
    doubt = "" if certain else ", so the lead may be chance"
    return f"{found} (plain training: {percent(plain.mean())}, {size} points lower, {interval}{doubt})."


def advice_in_words(advice: Sequence[ClassAdvice], outcome: Outcome) -> list[str]:
    """What to do with the synthetic images of single classes; one sentence if no class changed."""
    if not advice:
        return []
    gained = [one for one in advice if one.advice == "use"]
    lost = [one for one in advice if one.advice == "leave out"]
    moved = [one for one in advice if one.advice == "none used" and (one.gain.low > 0 or one.gain.high < 0)]
    sentences = []
    if gained:
        sentences.append(f"{_changes(gained, 'gain')}{_how_to_use(gained, advice, outcome)}")
    if lost:
        them = "this class" if len(lost) == 1 else "these classes"
        sentences.append(f"{_changes(lost, 'lose')}: leave out the synthetic images of {them}.")
    if moved:
        them = "it has" if len(moved) == 1 else "they have"
        sentences.append(f"{_changes(moved, 'change')}, though {them} no synthetic images.")
    if not sentences:
        return ["No class gained or lost significantly."]
    return [*sentences, *(["These intervals hold for all classes at once."] if len(advice) > 1 else [])]


def _how_to_use(gained: Sequence[ClassAdvice], advice: Sequence[ClassAdvice], outcome: Outcome) -> str:
    if outcome == "use":
        return "."
    them = "it" if len(gained) == 1 else "them"
    others = [one for one in advice if one.advice in ("open", "leave out")]
    together = f" They were measured together with those of {_number(len(others), 'other class')}." if others else ""
    return f": use synthetic images for {them} alone.{together}"


def step_in_words(step: NextStep) -> str:
    """What may help, claiming no more than was measured."""
    if step.kind == "encoder":
        return (
            "A pretrained encoder was not compared: --encoder efficientnet-lite0 adds the arm 'pretrained features'. "
            "It needs the extra: pip install 'diffaug[encoder]'."
        )
    if step.kind == "unlabeled images":
        return (
            "Unlabeled images were not compared: if you have some, diffaug run DATA --unlabeled DIR --study NEW gives "
            "them to the generator and adds the arm 'pseudo-labels'."
        )
    lowest = f"the lowest recall is that of {_named([_recall(one) for one in step.classes])}."
    if step.effect is None:
        return f"With '{step.arm}' {lowest} Whether more real images of them help was not measured."
    worst = f" T{lowest[1:]}" if step.classes else ""
    effect = f"{points(step.effect.mean, digits_of(step.effect))} points {interval_in_words(step.effect)}"
    measured = f"from two thirds of the real images to all of them '{step.arm}' changed by {effect}"
    if step.class_effects:
        gains = _named([f"{name} {gain_in_words(gain)}" for name, gain in step.class_effects.items()])
        return f"More real images helped so far: {measured}. Classes that gained: {gains}."
    if step.effect.low > 0:
        return f"More real images helped so far: {measured}, in no single class significantly.{worst}"
    return f"Whether more real images help is open: {measured}.{worst}"


def _changes(advice: Sequence[ClassAdvice], verb: str) -> str:
    """Classes with their changes, the largest first: "Class 9 gains 2.4 points (0.4 to 4.4)"."""
    ordered = sorted(advice, key=lambda one: -abs(one.gain.mean))
    if len(ordered) > 1:
        return f"Classes that {verb}: {_named([f'{one.name} {gain_in_words(one.gain)}' for one in ordered])}"
    (one,) = ordered
    sign = -1 if verb == "lose" else 1
    low, high = sorted((sign * one.gain.low, sign * one.gain.high))
    turned = Estimate(sign * one.gain.mean, low, high)
    size = points(turned.mean, digits_of(turned))
    how = f"by {size}" if verb == "change" else size.lstrip("+")
    return f"Class {one.name} {verb}s {how} points ({ends_in_words(turned)})"


def _recall(one: ClassRecall) -> str:
    images = "" if one.train_images is None else f", {_number(one.train_images, 'training image')}"
    return f"{one.name} ({percent(one.recall, 0)}{images})"


def _named(parts: Sequence[str]) -> str:
    more = len(parts) - MAX_NAMED_CLASSES
    return ", ".join(parts[:MAX_NAMED_CLASSES]) + (f", {more} more" if more > 0 else "")


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")
