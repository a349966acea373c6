"""What to do next, and about each class."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from diffaug.evaluation.experiment.choice import Mix
from diffaug.evaluation.statistics.comparison import Change
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.verdict.arm_summary import ArmSummary

Advice = Literal["use", "leave out", "open", "none used"]

Missing = Literal["encoder", "unlabeled images"]
"""What the study lacked and would have added an arm."""
Kind = Literal["real images", "lowest recall", "encoder", "unlabeled images"]
MAX_CLASSES = 3


@dataclass(frozen=True)
class ClassAdvice:
    """What to do with the synthetic images of one class."""

    name: str
    # `use`: recall rose. `leave out`: it fell. `open`: neither is certain. `none used`: the class had no synthetic
    # images, whatever happened to its recall
    advice: Advice
    gain: Estimate  # change in recall, with an interval that holds for all classes at once
    used: int | None  # synthetic images that were trained on; None if not known


def advise(recall_gain: Mapping[str, Estimate], used: Mapping[str, int]) -> tuple[ClassAdvice, ...]:
    """The advice for each class, by its gain and its number of synthetic images; `used` is empty if not known.

    Over all classes whose recall does not change, a wrong "use" or "leave out" occurs in at most 5 % of experiments,
    since the intervals hold for all classes at once.
    """
    return tuple(
        ClassAdvice(name, _advice(gain, used.get(name)), gain, used.get(name)) for name, gain in recall_gain.items()
    )


def _advice(gain: Estimate, used: int | None) -> Advice:
    if used == 0:
        return "none used"
    return "use" if gain.low > 0 else "leave out" if gain.high < 0 else "open"


def used_counts(available: Mapping[str, int], train: Mapping[str, int], mix: Mix) -> dict[str, int]:
    """Synthetic images per class that a mix trains on."""
    if mix.is_zero:
        return dict.fromkeys(available, 0)
    limit = np.inf if mix.max_per_real is None else mix.max_per_real
    return {
        name: 0 if name in mix.excluded_classes else int(min(count, np.floor(limit * train[name])))
        for name, count in available.items()
    }


@dataclass(frozen=True)
class ClassRecall:
    """The recall of a class with a real arm, and its training images if they are known."""

    name: str
    recall: float
    train_images: int | None


@dataclass(frozen=True)
class NextStep:
    """One thing that may help, in the order in which to try them."""

    kind: Kind
    arm: str = ""  # the real arm that it is about
    is_measured: bool = False  # whether its effect was measured; if not, the step claims none
    effect: Estimate | None = None  # what all real images have over a part of them, in balanced accuracy
    classes: tuple[ClassRecall, ...] = ()  # those of the lowest recall with the best real arm
    # the same in recall, of those classes in which it is certain, the largest first
    class_effects: dict[str, Estimate] = field(default_factory=dict)


def next_steps(
    best: ArmSummary, train_counts: Mapping[str, int], missing: Collection[Missing], more_images: Change | None
) -> tuple[NextStep, ...]:
    """The steps, those with a measured effect first.

    `train_counts` are empty if not known, `missing` is what the study lacked. `more_images` is a real arm minus the
    same arm trained on two thirds of the real images; None if not measured.
    """
    lowest = lowest_recall(best.recall, train_counts)
    lacking = tuple(NextStep(kind) for kind in get_args(Missing) if kind in missing)
    if more_images is None:
        return (*lacking, NextStep("lowest recall", best.name, classes=lowest)) if lowest else lacking
    helped = {name: gain for name, gain in more_images.recall_gain.items() if gain.low > 0}
    named = sorted(helped, key=lambda name: -helped[name].mean)[:MAX_CLASSES]
    step = NextStep(
        "real images",
        more_images.arm,
        is_measured=True,
        effect=more_images.difference,
        classes=lowest,
        class_effects={name: helped[name] for name in named},
    )
    return (step, *lacking) if more_images.difference.low > 0 or named else (*lacking, step)


def lowest_recall(recall: Mapping[str, Estimate], train_counts: Mapping[str, int]) -> tuple[ClassRecall, ...]:
    """The classes of the lowest recall, of those below the mean, the lowest first."""
    mean = sum(one.mean for one in recall.values()) / len(recall)
    worst = sorted((name for name in recall if recall[name].mean < mean), key=lambda name: recall[name].mean)
    return tuple(ClassRecall(name, recall[name].mean, train_counts.get(name)) for name in worst[:MAX_CLASSES])
