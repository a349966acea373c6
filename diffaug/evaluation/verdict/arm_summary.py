"""One arm over its seeds, in figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from diffaug.configuration.arms import Role
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.statistics.comparison import Answers
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.statistics.metrics import METRICS, PRIMARY_METRIC, Group, group_recall


@dataclass(frozen=True)
class Spread:
    """A figure over seeds: mean and standard deviation; the latter is None with one seed."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """That of one value per seed."""
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds."""

    name: str
    role: Role
    seeds: int
    metrics: dict[str, Spread]  # A metric that a training lacks is left out
    recall: dict[str, Estimate]  # per class, with 95 % intervals for other seeds and test images
    group_recall: dict[Group, Spread]  # mean recall per group of classes
    # test images by true class (row) and predicted class (column), mean over seeds, (K, K)
    confusion: tuple[tuple[float, ...], ...]
    accuracy: Estimate  # balanced accuracy, with a 95 % interval for other seeds and test images
    same_as: str = ""  # the baseline that gave the same answers with every seed, as the same training does; empty: none

    def mean(self) -> float:
        """Mean balanced accuracy over seeds."""
        return self.metrics[PRIMARY_METRIC].mean


def summarize_arms(answers: Answers, runs: Mapping[str, Sequence[Trial]]) -> dict[str, ArmSummary]:
    """Summarizes the trials of each arm, which are paired."""
    predicted = {name: [trial.predictions for trial in of_arm] for name, of_arm in runs.items()}
    summaries = {}
    for name, of_arm in runs.items():
        others = [] if answers.roles[name] == "baseline" else answers.with_role("baseline")
        same_as = next((other for other in others if predicted[other] == predicted[name]), "")
        summaries[name] = _summarize(answers, name, of_arm, same_as)
    return summaries


def _summarize(answers: Answers, name: str, runs: Sequence[Trial], same_as: str) -> ArmSummary:
    shared = [metric for metric in METRICS if all(metric in trial.metrics for trial in runs)]
    groups = [answers.groups[label] for label in answers.classes] if answers.groups else []
    by_seed = [group_recall(trial.recall, groups) if groups else {} for trial in runs]
    return ArmSummary(
        name=name,
        role=answers.roles[name],
        seeds=len(runs),
        metrics={metric: Spread.of([trial.metrics[metric] for trial in runs]) for metric in shared},
        recall=answers.recall(name),
        group_recall={group: Spread.of([recall[group] for recall in by_seed]) for group in by_seed[0]},
        confusion=tuple(map(tuple, np.mean([trial.confusion for trial in runs], axis=0).tolist())),
        accuracy=answers.accuracy(name).interval(),
        same_as=same_as,
    )
