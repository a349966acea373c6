"""The rows of the report's tables of figures, from an evaluation's result."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.configuration.arms import Role
from diffaug.evaluation.report.charts import Row
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.statistics.metrics import GROUPS, PRIMARY_METRIC
from diffaug.evaluation.verdict.advice import Advice
from diffaug.evaluation.verdict.arm_summary import ArmSummary, Spread
from diffaug.evaluation.verdict.result import EvaluationResult

LABELS: dict[str, str] = {
    PRIMARY_METRIC: "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "worst_class_recall": "Worst class",
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "ece": "ECE",
    "nll": "NLL",
    **{group: f"Recall, {group}" for group in GROUPS},
}
ADVICE: dict[Advice, str] = {
    "use": "Use for",
    "leave out": "Leave out for",
    "open": "Not certain for",
    "none used": "None used for",
}
MAX_MATRIX_CLASSES = 20
MAX_MISTAKES = 8


@dataclass(frozen=True)
class Gain:
    """The gain in recall of a class, or in mean recall of a group, with the fewest and the most training images.

    Attributes:
        used: Synthetic images that were trained on, of `available` ones; None where that is not known.
    """

    name: str
    train: tuple[int, int]
    used: int | None
    available: int
    test: int
    before: float
    after: float
    gain: Estimate

    @property
    def row(self) -> Row:
        """As the chart draws it."""
        return Row(self.name, self.gain)


@dataclass(frozen=True)
class Mistake:
    """Test images of one class that were taken for another, as shares of the class, with two arms."""

    true: str
    predicted: str
    before: float
    after: float


def arm_rows(result: EvaluationResult) -> list[Row]:
    """Balanced accuracy of the arms and one standard deviation to both sides, within 0 and 1.

    Of arms that are the same training one is drawn. Without synthetic images a candidate is one on real images.
    """
    shown = [arm for arm in result.arms if not result.same_training(arm)]
    return [Row(arm.name, _deviation(arm), _drawn_role(result, arm)) for arm in shown]


def _deviation(arm: ArmSummary) -> Estimate:
    mean, sd = arm.mean(), arm.metrics[PRIMARY_METRIC].sd or 0.0
    return Estimate(mean, max(mean - sd, 0), min(mean + sd, 1))


def _drawn_role(result: EvaluationResult, arm: ArmSummary) -> Role:
    return "baseline" if arm.role == "candidate" and not result.has_synthetic else arm.role


def control_rows(result: EvaluationResult) -> list[Row]:
    """The differences of the controls."""
    return [Row(control.question, control.difference) for control in result.controls]


def figures(arm: ArmSummary) -> dict[str, Spread]:
    """Metrics and recall per group of an arm, by name."""
    return {**arm.metrics, **{str(group): recall for group, recall in arm.group_recall.items()}}


def columns(result: EvaluationResult) -> dict[str, str]:
    """Name and heading of every figure that some arm has."""
    measured = {name for arm in result.arms for name in figures(arm)}
    return {name: label for name, label in LABELS.items() if name in measured}


def class_gains(result: EvaluationResult) -> list[Gain]:
    """The gain in recall per class, the rarest class first."""
    if result.shown is None:
        return []
    before, after = (arm.recall for arm in shown_arms(result))
    gains = result.shown.recall_gain
    names = sorted(gains, key=lambda name: result.train_counts.get(name, 0))
    return [_gain(result, name, [name], (before[name].mean, after[name].mean, gains[name])) for name in names]


def advice_by_class(result: EvaluationResult) -> dict[str, str]:
    """The advice per class; empty if there is none."""
    return {one.name: one.advice for one in result.class_advice}


def classes_by_advice(result: EvaluationResult) -> dict[str, list[str]]:
    """Classes by what to do with their synthetic images, in words, the rarest class first; empty if all are open."""
    rarest = sorted(result.class_advice, key=lambda one: result.train_counts.get(one.name, 0))
    found = {label: [one.name for one in rarest if one.advice == advice] for advice, label in ADVICE.items()}
    found = {label: names for label, names in found.items() if names}
    return {} if list(found) == [ADVICE["open"]] else found


def group_gains(result: EvaluationResult) -> list[Gain]:
    """The gain in mean recall per group of classes, the rarest group first."""
    if result.shown is None:
        return []
    before, after = (arm.group_recall for arm in shown_arms(result))
    gains = result.shown.group_gain
    rows = []
    for group in reversed(GROUPS):
        names = [name for name, own in result.groups.items() if own == group]
        if names:
            recall = (before[group].mean, after[group].mean, gains[group])
            rows.append(_gain(result, f"{group} ({len(names)})", names, recall))
    return rows


def shown_arms(result: EvaluationResult) -> list[ArmSummary]:
    """The arms that are shown per class, the one that is compared with first; one where nothing is compared."""
    change = result.shown
    return [result.arm(name) for name in ((change.baseline, change.arm) if change else (result.verdict.baseline,))]


def _gain(result: EvaluationResult, name: str, classes: Sequence[str], recall: tuple[float, float, Estimate]) -> Gain:
    train = [result.train_counts.get(one, 0) for one in classes]
    used = sum(result.used_counts.get(one, 0) for one in classes) if result.used_counts else None
    available = sum(result.synthetic_counts.get(one, 0) for one in classes)
    test = sum(result.test_counts.get(one, 0) for one in classes)
    return Gain(name, (min(train), max(train)), used, available, test, *recall)


def confusion_matrices(result: EvaluationResult) -> dict[str, list[list[float]]]:
    """Shares (K, K) of each true class by predicted class, by arm, the baseline first; none for over 20 classes."""
    if len(result.classes) > MAX_MATRIX_CLASSES:
        return {}
    return {arm.name: _shares(arm).tolist() for arm in shown_arms(result)}


def common_mistakes(result: EvaluationResult) -> list[Mistake]:
    """The confusions that are most frequent with either of the arms shown, at most 8."""
    arms = shown_arms(result)
    before, after = _shares(arms[0]), _shares(arms[-1])
    worst = np.maximum(before, after)
    np.fill_diagonal(worst, 0)
    order = np.argsort(-worst, axis=None, kind="stable")[:MAX_MISTAKES]
    places = [divmod(int(place), len(worst)) for place in order]
    return [
        Mistake(result.classes[i], result.classes[j], float(before[i, j]), float(after[i, j]))
        for i, j in places
        if worst[i, j] > 0
    ]


def _shares(arm: ArmSummary) -> NDArray[np.float64]:
    counts = np.array(arm.confusion)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))
