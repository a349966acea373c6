"""Arms against each other: the claims against the best real arm, and the controls that say where a gain comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffaug.evaluation.statistics.crossed import ClassMeans, CrossedMean, Estimate, recall_intervals
from diffaug.evaluation.statistics.metrics import GROUPS, Group
from diffaug.evaluation.statistics.multiplicity import holm, tail

Role = Literal["real", "claim", "diagnosis"]

CONTROLS = (
    ("new content", "real + synthetic", "replay"),
    ("more exposure", "replay", "prior"),
    ("shifted prior", "prior", "real only"),
    ("filters", "real + synthetic", "real + unfiltered synthetic"),
)
"""Question, arm and what it is compared with; the first three add up to "real + synthetic" over "real only"."""


@dataclass(frozen=True)
class Answers:
    """Right and wrong answers of every arm on the same test images, with the same seeds.

    Attributes:
        correct: Whether seed s was right on test image i, (S, N) by arm.
        roles: Role of each arm.
        labels: True classes (N,), each of the K at least once.
        classes: Class names.
        groups: Group of each class by class name; empty where the training images were not counted.
        generators: Number of the generator behind each seed (S,).
    """

    correct: Mapping[str, NDArray[np.bool_]]
    roles: Mapping[str, Role]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: Mapping[str, Group]
    generators: NDArray[np.int64]

    def named(self, role: Role) -> list[str]:
        """The arms of a role."""
        return [arm for arm in self.correct if self.roles[arm] == role]

    def difference(self, arm: str, baseline: str) -> ClassMeans:
        """Right answers of `arm` minus those of `baseline`, by class.

        Seeds that play no part, as every one of both arms answers alike, count as one.
        """
        first, second = self.correct[arm], self.correct[baseline]
        seeds = 1 if (first == first[0]).all() and (second == second[0]).all() else len(first)
        generators = self._generators(arm, baseline)
        return ClassMeans.of(
            first[:seeds].astype(np.int8) - second[:seeds],
            self.labels,
            len(self.classes),
            None if generators is None else generators[:seeds],
        )

    def recall(self, arm: str) -> dict[str, Estimate]:
        """Recall of each class, by class name."""
        intervals = recall_intervals(self.correct[arm], self.labels, len(self.classes), self._generators(arm))
        return dict(zip(self.classes, intervals, strict=True))

    def best_real(self) -> str:
        """The real arm of the highest balanced accuracy, the first of equals."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        weights = 1 / counts[self.labels]
        return max(self.named("real"), key=lambda arm: float(self.correct[arm].mean(axis=0) @ weights))

    def _generators(self, *arms: str) -> NDArray[np.int64] | None:
        """Arms without synthetic images know no generators."""
        return None if all(self.roles[arm] == "real" for arm in arms) else self.generators


@dataclass(frozen=True)
class Comparison:
    """A claim minus the baseline, in balanced accuracy.

    Attributes:
        arm: Name of the claim.
        baseline: Name of the best real arm.
        difference: With the interval for other seeds and another test set of the same size.
        seeds_only: With the interval for other seeds on this very test set; none with one seed.
        p_value: Two-sided, of no difference.
        p_value_holm: The same, corrected for the number of claims.
        recall_gain: Difference of each class's recall, by class name.
        group_gain: Difference of the mean recall of each group of classes.
        by_generator: The difference with each generator, where there are several.
    """

    arm: str
    baseline: str
    difference: Estimate
    seeds_only: Estimate | None
    p_value: float
    p_value_holm: float
    recall_gain: dict[str, Estimate]
    group_gain: dict[Group, Estimate]
    by_generator: tuple[float, ...] = ()


@dataclass(frozen=True)
class Control:
    """What a pair of arms says about where a gain comes from.

    Attributes:
        question: What the first arm has more than the second.
        arm: Name of the first arm.
        baseline: Name of the second arm.
        difference: Of their balanced accuracies.
    """

    question: str
    arm: str
    baseline: str
    difference: Estimate


def claim_differences(answers: Answers, baseline: str) -> dict[str, CrossedMean]:
    """Balanced accuracy of each claim minus that of the baseline, by claim."""
    return {arm: answers.difference(arm, baseline).balanced() for arm in answers.named("claim")}


def compare(answers: Answers, baseline: str, differences: Mapping[str, CrossedMean]) -> tuple[Comparison, ...]:
    """Everything that is reported about each claim.

    The interval knows that the baseline was the luckiest of the real arms: its upper end is moved up from three real
    arms on, its lower end down from three claims on (see `multiplicity.tail`). Without it, in simulations of four equal
    real arms, 92 to 93 % of the 95 % intervals covered the truth, and all misses were on that side.

    Args:
        answers: Of all arms.
        baseline: The best real arm.
        differences: What `claim_differences` returned.
    """
    corrected = holm([difference.p_value for difference in differences.values()])
    low_tail, high_tail = tail(len(differences)), tail(len(answers.named("real")))
    return tuple(
        Comparison(
            arm=arm,
            baseline=baseline,
            difference=difference.interval(low_tail, high_tail),
            seeds_only=difference.seeds_only_interval(),
            p_value=difference.p_value,
            p_value_holm=p_value_holm,
            recall_gain=_recall_gain(answers, arm, baseline),
            group_gain=_group_gain(answers, arm, baseline),
            by_generator=difference.by_generator,
        )
        for (arm, difference), p_value_holm in zip(differences.items(), corrected, strict=True)
    )


def controls(answers: Answers) -> tuple[Control, ...]:
    """The comparisons of `CONTROLS` whose two arms were both run."""
    return tuple(
        Control(question, arm, baseline, answers.difference(arm, baseline).balanced().interval())
        for question, arm, baseline in CONTROLS
        if {arm, baseline} <= answers.correct.keys()
    )


def _recall_gain(answers: Answers, arm: str, baseline: str) -> dict[str, Estimate]:
    gains = answers.difference(arm, baseline).each()
    return {name: gain.interval() for name, gain in zip(answers.classes, gains, strict=True)}


def _group_gain(answers: Answers, arm: str, baseline: str) -> dict[Group, Estimate]:
    means = answers.difference(arm, baseline)
    members = {group: np.array([answers.groups.get(name) == group for name in answers.classes]) for group in GROUPS}
    return {
        group: means.average(chosen.astype(np.float64)).interval() for group, chosen in members.items() if any(chosen)
    }
