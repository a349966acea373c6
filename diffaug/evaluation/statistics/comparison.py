"""Arms against each other: candidates against the best baseline, and the controls that split a gain."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.configuration.arms import CONTROLS, PLAIN_ARM, Role
from diffaug.evaluation.statistics.crossed import (
    ClassMeans,
    CrossedMean,
    Estimate,
    holm,
    holm_tails,
    recall_intervals,
    shared,
    tail,
)
from diffaug.evaluation.statistics.metrics import GROUPS, Group


@dataclass(frozen=True)
class Answers:
    """Right and wrong answers of every arm on the same test images, with the same seeds."""

    correct: Mapping[str, NDArray[np.bool_]]  # whether seed s was right on test image i, (S, N) by arm
    roles: Mapping[str, Role]
    labels: NDArray[np.int64]  # True classes (N,), each of the K at least once
    classes: tuple[str, ...]
    groups: Mapping[str, Group]  # group of each class by class name; empty where the training images were not counted
    generators: NDArray[np.int64]  # number of the generator behind each seed (S,)

    def with_role(self, role: Role) -> list[str]:
        """The arms of a role."""
        return [arm for arm in self.correct if self.roles[arm] == role]

    def difference(self, arm: str, baseline: str) -> ClassMeans:
        """Right answers of `arm` minus those of `baseline`, by class.

        Seeds count as one where all of them give the same answers in both arms.
        """
        first, second = self.correct[arm], self.correct[baseline]
        seeds = 1 if (first == first[0]).all() and (second == second[0]).all() else len(first)
        values = first[:seeds].astype(np.int8) - second[:seeds]
        return ClassMeans.of(values, self.labels, self._generators(arm, baseline)[:seeds])

    def recall(self, arm: str) -> dict[str, Estimate]:
        """Recall of each class, by class name."""
        intervals = recall_intervals(self.correct[arm], self.labels, self._generators(arm))
        return dict(zip(self.classes, intervals, strict=True))

    def accuracy(self, arm: str) -> CrossedMean:
        """Balanced accuracy over seeds and test images."""
        correct = self.correct[arm]
        seeds = 1 if (correct == correct[0]).all() else len(correct)
        return ClassMeans.of(correct[:seeds].astype(np.int8), self.labels, self._generators(arm)[:seeds]).balanced()

    def best_baseline(self) -> str:
        """The baseline of the highest balanced accuracy, the first of equals."""
        weights = 1 / np.bincount(self.labels)[self.labels]
        return max(self.with_role("baseline"), key=lambda arm: float(self.correct[arm].mean(axis=0) @ weights))

    def _generators(self, *arms: str) -> NDArray[np.int64]:
        """All zero for baselines, which use no generator."""
        generated = any(self.roles[arm] != "baseline" for arm in arms)
        return self.generators if generated else np.zeros_like(self.generators)


@dataclass(frozen=True)
class Change:
    """The balanced accuracy of `arm` minus that of `baseline`."""

    arm: str
    baseline: str
    difference: Estimate  # with its interval, which is adjusted for what was compared
    recall_gain: dict[str, Estimate]  # by class, with intervals that hold for all classes at once
    group_gain: dict[Group, Estimate]  # by group of classes, with intervals that hold for all groups at once


@dataclass(frozen=True, kw_only=True)
class Comparison(Change):
    """A candidate minus the best baseline.

    Attributes:
        difference: With the interval that the verdict is read off, see `compare`.
        seeds_only: With the interval for other seeds on this very test set; None with one seed. With two or three seeds
            it may be the wider one: a variance of so few values is barely known, and the images steady the other.
        p_value: Two-sided, of no difference; `p_value_holm` is adjusted for the number of candidates.
        by_generator: The difference with each generator, where there are several.
    """

    seeds_only: Estimate | None
    p_value: float
    p_value_holm: float
    by_generator: tuple[float, ...] = ()


@dataclass(frozen=True)
class Control:
    """The balanced accuracy of `arm` minus that of `baseline`, with a 95 % interval that is not adjusted."""

    question: str
    arm: str
    baseline: str
    difference: Estimate


def compare(answers: Answers) -> tuple[tuple[Comparison, ...], dict[str, CrossedMean]]:
    """Compares each candidate with the best baseline; also returns the differences in balanced accuracy by candidate.

    Each interval covers the true difference, for other seeds and another test set of the same size and class mix, in at
    least 95 % of experiments. Its lower end is Holm-adjusted for the number of candidates: it has the level of the
    candidate's step (`holm_tails`), so over all candidates without any gain, one lower end above zero occurs in at most
    2.5 % of experiments. It is above zero exactly if the mean is and `p_value_holm` is below 0.05. Its upper end is
    adjusted for the number of baselines, of which the best was chosen on the same test images (`tail`).

    The intervals of the classes hold for all classes of a comparison at once, and their upper ends are adjusted in the
    same way. So in at most 5 % of experiments one of them excludes the truth.
    """
    baseline = answers.best_baseline()
    by_class = {arm: answers.difference(arm, baseline) for arm in answers.with_role("candidate")}
    differences = {arm: means.balanced() for arm, means in by_class.items()}
    p_values = [difference.p_value for difference in differences.values()]
    high_tail = tail(len(answers.with_role("baseline")))
    comparisons = []
    for arm, p_value_holm, low_tail in zip(by_class, holm(p_values), holm_tails(p_values), strict=True):
        difference = differences[arm]
        comparison = Comparison(
            arm=arm,
            baseline=baseline,
            difference=difference.interval(low_tail, high_tail),
            seeds_only=difference.seeds_only_interval(),
            p_value=difference.p_value,
            p_value_holm=p_value_holm,
            recall_gain=_class_gain(by_class[arm], answers, tail(), high_tail),
            group_gain=_group_gain(by_class[arm], answers, tail(), high_tail),
            by_generator=difference.by_generator,
        )
        comparisons.append(comparison)
    return tuple(comparisons), differences


def lead_of_best(answers: Answers) -> Change | None:
    """The best baseline minus plain training; None if plain training is the best, or was not run.

    The lower ends are adjusted for the number of other baselines, of which the best was chosen on the same test images.
    """
    best = answers.best_baseline()
    if best == PLAIN_ARM or answers.roles.get(PLAIN_ARM) != "baseline":
        return None
    low_tail = tail(len(answers.with_role("baseline")) - 1)
    return change(answers, best, PLAIN_ARM, low_tail)


def change(answers: Answers, arm: str, baseline: str, low_tail: float = tail(), high_tail: float = tail()) -> Change:
    """The change between two arms, with the probability that the truth lies below and above its interval."""
    means = answers.difference(arm, baseline)
    difference = means.balanced().interval(low_tail, high_tail)
    recall_gain = _class_gain(means, answers, low_tail, high_tail)
    return Change(arm, baseline, difference, recall_gain, _group_gain(means, answers, low_tail, high_tail))


def controls(answers: Answers) -> tuple[Control, ...]:
    """The comparisons of `CONTROLS` whose two arms were both run."""
    found = []
    for pair in CONTROLS:
        if {pair.arm, pair.baseline} <= answers.correct.keys():
            difference = answers.difference(pair.arm, pair.baseline).balanced().interval()
            found.append(Control(pair.question, pair.arm, pair.baseline, difference))
    return tuple(found)


def _class_gain(means: ClassMeans, answers: Answers, low_tail: float, high_tail: float) -> dict[str, Estimate]:
    low, high = (shared(one, len(answers.classes)) for one in (low_tail, high_tail))
    return {name: gain.interval(low, high) for name, gain in zip(answers.classes, means.each(), strict=True)}


def _group_gain(means: ClassMeans, answers: Answers, low_tail: float, high_tail: float) -> dict[Group, Estimate]:
    members = {group: np.array([answers.groups.get(name) == group for name in answers.classes]) for group in GROUPS}
    found = {group: means.average(chosen) for group, chosen in members.items() if chosen.any()}
    return {
        group: mean.interval(shared(low_tail, len(found)), shared(high_tail, len(found)))
        for group, mean in found.items()
    }
