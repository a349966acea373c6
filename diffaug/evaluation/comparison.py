"""Synthetic arms against the best real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.evaluation.statistics import (
    Estimate,
    PairedDifference,
    holm,
    paired_difference,
    paired_recall_differences,
)


@dataclass(frozen=True)
class Comparison:
    """A synthetic arm minus the baseline, in balanced accuracy.

    Attributes:
        arm: Name of the synthetic arm.
        baseline: Name of the real arm.
        difference: With the interval for other seeds and another test set of the same size.
        seeds_only: With the interval for other seeds on this very test set.
        p_value: Two-sided, of no difference.
        p_value_holm: The same, corrected for the number of synthetic arms.
        recall_gain: Difference of each class's recall, by class name.
    """

    arm: str
    baseline: str
    difference: Estimate
    seeds_only: Estimate
    p_value: float
    p_value_holm: float
    recall_gain: dict[str, Estimate]


def paired_differences(
    correct: Mapping[str, NDArray[np.bool_]],
    arms: Sequence[str],
    baseline: str,
    labels: NDArray[np.int64],
    num_classes: int,
) -> dict[str, PairedDifference]:
    """Difference of each of `arms` to the baseline, by arm.

    Args:
        correct: Whether seed s was right on test image i, (S, N) by arm.
        arms: What to compare.
        baseline: What to compare with.
        labels: True classes (N,).
        num_classes: K.
    """
    return {arm: paired_difference(correct[arm], correct[baseline], labels, num_classes) for arm in arms}


def compare(
    correct: Mapping[str, NDArray[np.bool_]],
    differences: Mapping[str, PairedDifference],
    baseline: str,
    labels: NDArray[np.int64],
    classes: Sequence[str],
) -> tuple[Comparison, ...]:
    """Everything that is reported about each difference; arguments as `paired_differences`."""
    corrected = holm([difference.p_value for difference in differences.values()])
    return tuple(
        Comparison(
            arm=arm,
            baseline=baseline,
            difference=difference.interval(),
            seeds_only=difference.seeds_only_interval(),
            p_value=difference.p_value,
            p_value_holm=p_value_holm,
            recall_gain=_recall_gain(correct[arm], correct[baseline], labels, classes),
        )
        for (arm, difference), p_value_holm in zip(differences.items(), corrected, strict=True)
    )


def _recall_gain(
    arm: NDArray[np.bool_], baseline: NDArray[np.bool_], labels: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, Estimate]:
    gains = paired_recall_differences(arm, baseline, labels, len(classes))
    return {name: gain.interval() for name, gain in zip(classes, gains, strict=True)}
