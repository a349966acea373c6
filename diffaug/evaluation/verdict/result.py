"""The result of an evaluation: each arm's metrics, the comparisons and the verdict; `result.json` holds one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import TypeAdapter

from diffaug.configuration.arms import Role
from diffaug.data.images import count_by_name
from diffaug.errors import DamagedError, QualityGateError, UsageError
from diffaug.evaluation.experiment.mix import MixChoice
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.statistics.comparison import Answers, Comparison, Control, compare, controls
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.statistics.metrics import METRICS, PRIMARY_METRIC, Group, class_groups, group_recall
from diffaug.evaluation.verdict.decide import Evidence, decide
from diffaug.evaluation.verdict.wording import Verdict, change_in_words, in_words, points
from diffaug.files.records import read_record, write_record


@dataclass(frozen=True)
class Spread:
    """A figure over seeds: mean and standard deviation; the latter is None with one seed."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of one value per seed."""
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


@dataclass(frozen=True)
class TrainingSummary:
    """How the classifiers were trained; the synthetic images came from the generators in turn for the seeds."""

    classifier: str
    max_steps: int
    batch_size: int
    num_generators: int
    device: str
    software: str


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds.

    Attributes:
        metrics: A metric that a training lacks is left out.
        recall: Per class, with 95 % intervals for other seeds and test images.
        group_recall: Mean recall per group of classes.
        confusion: Test images by true class (row) and predicted class (column), mean over seeds, (K, K).
    """

    name: str
    role: Role
    seeds: int
    metrics: dict[str, Spread]
    recall: dict[str, Estimate]
    group_recall: dict[Group, Spread]
    confusion: tuple[tuple[float, ...], ...]

    def mean(self) -> float:
        """Mean balanced accuracy over seeds."""
        return self.metrics[PRIMARY_METRIC].mean


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The result of an evaluation; all figures are fractions, not percent, but for the NLL.

    Attributes:
        train_counts: Real training images by class; empty if not known, like `synthetic_counts` and `groups`.
        training: None if not known, like `mix`.
        arms: In the order of training.
        controls: Where a gain comes from, as far as the arms for it were run; none for a mix of zero, with which they
            are all the same training.
    """

    schema_version: Literal[1] = 1
    classes: tuple[str, ...]
    train_counts: dict[str, int]
    synthetic_counts: dict[str, int]
    test_counts: dict[str, int]
    groups: dict[str, Group]
    training: TrainingSummary | None
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    controls: tuple[Control, ...]
    mix: MixChoice | None
    verdict: Verdict

    @property
    def compared(self) -> Comparison:
        """The comparison that the verdict is about."""
        return next(comparison for comparison in self.comparisons if comparison.arm == self.verdict.arm)

    def arm(self, name: str) -> ArmSummary:
        """The summary of an arm."""
        return next(arm for arm in self.arms if arm.name == name)

    def require_gain(self, fail_under: float) -> None:
        """Raises a QualityGateError unless the lower end of the verdict's interval reaches a fraction in [-1, 1]."""
        if not -1 <= fail_under <= 1:
            raise UsageError(f"a gain of {fail_under} is impossible", fix="give a fraction: 0.01 is one point")
        verdict, difference = self.verdict, self.compared.difference
        if not difference.low >= fail_under:
            raise QualityGateError(
                f"'{verdict.arm}' changed balanced accuracy by {change_in_words(difference)} points compared with "
                f"'{verdict.baseline}': the lower end is below the required {points(fail_under)}",
                fix=f"the verdict is '{verdict.decision}'; see the report for what would help",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings, as in `result.json`."""
        content: dict[str, Any] = _RESULT.dump_python(self, mode="json")
        return content

    def save(self, path: Path) -> None:
        """Writes the result as JSON."""
        write_record(path, _RESULT, self)

    @classmethod
    def load(cls, path: Path) -> EvaluationResult:
        """Reads what `save` wrote; anything else is a DamagedError."""
        try:
            return read_record(path, _RESULT)
        except (FileNotFoundError, DamagedError) as error:
            raise DamagedError(
                "the evaluation's result is damaged, or another version of diffaug wrote it",
                where=path,
                fix="evaluate again: diffaug evaluate STUDY --overwrite",
            ) from error

    def table(self) -> pd.DataFrame:
        """One row per arm, the highest balanced accuracy first.

        Columns: `arm`, `role`, `seeds`, each metric's mean, `balanced_accuracy_sd`, and for candidates `difference`,
        `difference_low`, `difference_high` to the best baseline and `p_value_holm`.
        """
        compared = {comparison.arm: comparison for comparison in self.comparisons}
        table = pd.DataFrame([_row(arm, compared.get(arm.name)) for arm in self.arms])
        return table.sort_values(PRIMARY_METRIC, ascending=False, kind="stable", ignore_index=True)


_RESULT = TypeAdapter(EvaluationResult)


def summarize(
    trials: Sequence[Trial],
    *,
    roles: Mapping[str, Role],
    train_counts: Mapping[str, int],
    synthetic_counts: Mapping[str, int],
    test_labels: NDArray[np.int64],
    classes: Sequence[str],
    num_generators: int = 1,
    mix: MixChoice | None = None,
    training: TrainingSummary | None = None,
) -> EvaluationResult:
    """Summarizes the trials finished so far; see `EvaluationResult` for what may be unknown.

    Only seeds that every arm has finished count, so that the comparison is paired. Test labels (N,) are in the order of
    the trials' predictions. Seed s was trained on images of generator s % num_generators.

    Raises:
        UsageError: No seed is finished for every arm, or there is no baseline, or no candidate.
    """
    paired = _paired_by_arm(trials, roles)
    groups = class_groups([train_counts[name] for name in classes]) if train_counts else ()
    seeds = [trial.seed for trial in next(iter(paired.values()))]
    answers = Answers(
        correct={arm: np.array([trial.predictions for trial in runs]) == test_labels for arm, runs in paired.items()},
        roles=roles,
        labels=test_labels,
        classes=tuple(classes),
        groups=dict(zip(classes, groups, strict=False)),
        generators=np.array(seeds) % num_generators,
    )
    comparisons, differences = compare(answers)
    evidence = Evidence(
        comparisons=comparisons,
        differences=differences,
        controls=() if mix is not None and mix.mix.is_zero else controls(answers),
        num_baselines=len(answers.with_role("baseline")),
        synthetic_images=sum(synthetic_counts.values()) if synthetic_counts else None,
        test_images=len(test_labels),
        seeds=len(seeds),
        mix=mix,
    )
    return EvaluationResult(
        classes=answers.classes,
        train_counts=dict(train_counts),
        synthetic_counts=dict(synthetic_counts),
        test_counts=count_by_name(test_labels, classes),
        groups=dict(answers.groups),
        training=training,
        arms=tuple(_summarize_arm(answers, arm, runs) for arm, runs in paired.items()),
        comparisons=comparisons,
        controls=evidence.controls,
        mix=mix,
        verdict=in_words(decide(evidence), evidence),
    )


def _paired_by_arm(trials: Sequence[Trial], roles: Mapping[str, Role]) -> dict[str, list[Trial]]:
    by_arm: dict[str, dict[int, Trial]] = {}
    for trial in trials:
        by_arm.setdefault(trial.arm, {})[trial.seed] = trial
    if not {"baseline", "candidate"} <= {roles[arm] for arm in by_arm}:
        raise UsageError(
            "nothing to compare: at least one baseline and one candidate are needed", where="evaluation.arms"
        )
    common = sorted(set.intersection(*(set(runs) for runs in by_arm.values())))
    if not common:
        raise UsageError(
            "no seed is finished for every arm", fix="run the evaluation again: it continues where it stopped"
        )
    return {arm: [runs[seed] for seed in common] for arm, runs in by_arm.items()}


def _summarize_arm(answers: Answers, name: str, runs: Sequence[Trial]) -> ArmSummary:
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
    )


def _row(arm: ArmSummary, comparison: Comparison | None) -> dict[str, Any]:
    nan = float("nan")
    sd = arm.metrics[PRIMARY_METRIC].sd
    difference = comparison.difference if comparison else Estimate(nan, nan, nan)
    return {
        "arm": arm.name,
        "role": arm.role,
        "seeds": arm.seeds,
        **{metric: values.mean for metric, values in arm.metrics.items()},
        f"{PRIMARY_METRIC}_sd": nan if sd is None else sd,
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p_value_holm": comparison.p_value_holm if comparison else nan,
    }
