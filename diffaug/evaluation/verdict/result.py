"""What the experiment found: each arm's figures, the comparisons and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from diffaug.errors import UsageError
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.statistics.comparison import (
    Answers,
    Comparison,
    Control,
    Role,
    claim_differences,
    compare,
    controls,
)
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.statistics.metrics import METRICS, PRIMARY_METRIC, Group, class_groups, group_recall
from diffaug.evaluation.verdict.decide import Evidence, Verdict, decide, dose_is_zero

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 2

Spread = dict[str, float | None]
"""`mean` and `sd` over seeds; the latter is None with one seed."""


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds.

    Attributes:
        name: Name of the arm.
        role: What it is for: a real arm, a claim or a diagnosis.
        seeds: Number of trainings.
        metrics: `mean` and `sd` over seeds of each metric; a metric that a training lacks is left out.
        recall: Recall of each class over other seeds and test images, by class name.
        group_recall: `mean` and `sd` over seeds of the mean recall of each group of classes.
        confusion: Test images by true class (row) and predicted class (column), mean over seeds.
    """

    name: str
    role: Role
    seeds: int
    metrics: dict[str, Spread]
    recall: dict[str, Estimate]
    group_recall: dict[Group, Spread]
    confusion: list[list[float]]

    def mean(self, metric: str = PRIMARY_METRIC) -> float:
        """The metric's mean over seeds."""
        mean = self.metrics[metric]["mean"]
        assert mean is not None
        return mean


@dataclass(frozen=True)
class EvaluationResult:
    """The outcome of an evaluation; all figures are fractions, not percent.

    Attributes:
        classes: Class names.
        train_counts: Real training images by class; empty where not known.
        synthetic_counts: Synthetic images by class; empty where not known.
        test_counts: Test images by class.
        groups: `many`, `medium` or `few` by class; empty where the training images are not known.
        training: How the classifiers were trained; empty where not known.
        arms: One summary an arm, in the order they were trained.
        comparisons: One a claim, against the best real arm.
        controls: Where a gain comes from, as far as the arms that say so were run; none at a dose of zero, at which
            they all come to the same training.
        dose: How much synthetic was used, under `chosen`, and the `curve` that it was chosen from on validation; an
            empty one: it was set by hand; none: not known.
        verdict: The answer.
        schema_version: Of the dictionary.
    """

    classes: tuple[str, ...]
    train_counts: dict[str, int]
    synthetic_counts: dict[str, int]
    test_counts: dict[str, int]
    groups: dict[str, Group]
    training: dict[str, Any]
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    controls: tuple[Control, ...]
    dose: dict[str, Any] | None
    verdict: Verdict
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings, for JSON."""
        content = _plain(asdict(self))
        return {"schema_version": content.pop("schema_version"), **content}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            UsageError: Another version of diffaug wrote it.
        """
        if content.get("schema_version") != SCHEMA_VERSION:
            raise UsageError(
                f"the evaluation was written as version {content.get('schema_version', 1)} and this diffaug reads "
                f"version {SCHEMA_VERSION}",
                fix="evaluate again: diffaug evaluate <study> --overwrite",
            )
        return cls(
            **{
                **content,
                "classes": tuple(content["classes"]),
                "arms": tuple(map(_arm_from_dict, content["arms"])),
                "comparisons": tuple(map(_comparison_from_dict, content["comparisons"])),
                "controls": tuple(
                    Control(**{**c, "difference": Estimate(**c["difference"])}) for c in content["controls"]
                ),
                "verdict": Verdict(**content["verdict"]),
            }
        )

    def table(self) -> pd.DataFrame:
        """One row an arm, the highest balanced accuracy first.

        Columns: `arm`, `role`, `seeds`, each metric's mean, `balanced_accuracy_sd`, and for claims `difference`,
        `difference_low`, `difference_high` to the best real arm and `p_value_holm`.
        """
        import pandas as pd

        compared = {comparison.arm: comparison for comparison in self.comparisons}
        table = pd.DataFrame([_row(arm, compared.get(arm.name)) for arm in self.arms])
        return table.sort_values(PRIMARY_METRIC, ascending=False, kind="stable", ignore_index=True)


def summarize(
    trials: Sequence[Trial],
    *,
    roles: Mapping[str, Role],
    train_counts: Mapping[str, int],
    synthetic_counts: Mapping[str, int],
    test_labels: NDArray[np.int64],
    classes: Sequence[str],
    dose: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """Summarises finished trials.

    Only seeds that every arm has finished count, so that the comparison is paired.

    Args:
        trials: What was trained, whole or in part.
        roles: Role of each arm that has a trial.
        train_counts: Real training images by class; empty where not known.
        synthetic_counts: Synthetic images by class; empty where not known.
        test_labels: True classes (N,) of the test images, in the order of the trials' predictions.
        classes: Class names (K,).
        dose: How much synthetic was used, under `chosen`, and from what it was chosen; passed on.
        training: How the classifiers were trained; passed on, but for `generators`, G: seed s was trained on images of
            generator s % G.

    Raises:
        UsageError: There is no seed that every arm has finished, or no real arm, or no claim.
    """
    paired = _paired_by_arm(trials, roles)
    counts = np.bincount(test_labels, minlength=len(classes))
    groups = class_groups([train_counts[name] for name in classes]) if train_counts else ()
    seeds = [trial.seed for trial in next(iter(paired.values()))]
    answers = Answers(
        correct={arm: np.array([trial.predictions for trial in runs]) == test_labels for arm, runs in paired.items()},
        roles=roles,
        labels=test_labels,
        classes=tuple(classes),
        groups=dict(zip(classes, groups, strict=False)),
        generators=np.array(seeds) % int((training or {}).get("generators", 1)),
    )
    baseline = answers.best_real()
    differences = claim_differences(answers, baseline)
    evidence = Evidence(
        comparisons=compare(answers, baseline, differences),
        differences=differences,
        controls=() if dose_is_zero(dose) else controls(answers),
        real_arms=len(answers.named("real")),
        synthetic_images=sum(synthetic_counts.values()) if synthetic_counts else None,
        test_images=len(test_labels),
        seeds=len(seeds),
        dose=dose,
    )
    return EvaluationResult(
        classes=answers.classes,
        train_counts=dict(train_counts),
        synthetic_counts=dict(synthetic_counts),
        test_counts=dict(zip(classes, counts.tolist(), strict=True)),
        groups=dict(answers.groups),
        training=dict(training or {}),
        arms=tuple(_summarize_arm(answers, arm, runs) for arm, runs in paired.items()),
        comparisons=evidence.comparisons,
        controls=evidence.controls,
        dose=None if dose is None else dict(dose),
        verdict=decide(evidence),
    )


def _paired_by_arm(trials: Sequence[Trial], roles: Mapping[str, Role]) -> dict[str, list[Trial]]:
    by_arm: dict[str, dict[int, Trial]] = {}
    for trial in trials:
        by_arm.setdefault(trial.arm, {})[trial.seed] = trial
    if not {"real", "claim"} <= {roles[arm] for arm in by_arm}:
        raise UsageError(
            "nothing to compare: it takes an arm without synthetic images and one that claims a gain with them",
            where="evaluation.arms",
        )
    common = sorted(set.intersection(*(set(runs) for runs in by_arm.values())))
    if not common:
        raise UsageError(
            "no seed is finished for every arm", fix="run the evaluation again: it continues where it stopped"
        )
    return {arm: [runs[seed] for seed in common] for arm, runs in by_arm.items()}


def _summarize_arm(answers: Answers, name: str, runs: Sequence[Trial]) -> ArmSummary:
    shared = [metric for metric in METRICS if all(metric in trial.metrics for trial in runs)]
    by_seed = [_group_recall(trial, answers) for trial in runs]
    return ArmSummary(
        name=name,
        role=answers.roles[name],
        seeds=len(runs),
        metrics={metric: _spread([trial.metrics[metric] for trial in runs]) for metric in shared},
        recall=answers.recall(name),
        group_recall={group: _spread([recall[group] for recall in by_seed]) for group in by_seed[0]},
        confusion=np.mean([trial.confusion for trial in runs], axis=0).tolist(),
    )


def _group_recall(trial: Trial, answers: Answers) -> dict[Group, float]:
    groups = [answers.groups[name] for name in answers.classes] if answers.groups else []
    return group_recall(np.array(trial.recall), groups) if groups else {}


def _spread(values: Sequence[float]) -> Spread:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _plain(content: Any) -> Any:
    """Tuples become lists, as JSON would make them."""
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    return list(map(_plain, content)) if isinstance(content, list | tuple) else content


def _arm_from_dict(content: Mapping[str, Any]) -> ArmSummary:
    return ArmSummary(**{**content, "recall": _estimates(content["recall"])})


def _comparison_from_dict(content: Mapping[str, Any]) -> Comparison:
    seeds_only = content["seeds_only"]
    return Comparison(
        **{
            **content,
            "difference": Estimate(**content["difference"]),
            "seeds_only": None if seeds_only is None else Estimate(**seeds_only),
            "recall_gain": _estimates(content["recall_gain"]),
            "group_gain": _estimates(content["group_gain"]),
            "by_generator": tuple(content["by_generator"]),
        }
    )


def _estimates(content: Mapping[str, Mapping[str, float]]) -> dict[str, Estimate]:
    return {name: Estimate(**estimate) for name, estimate in content.items()}


def _row(arm: ArmSummary, comparison: Comparison | None) -> dict[str, Any]:
    nan = float("nan")
    sd = arm.metrics[PRIMARY_METRIC]["sd"]
    difference = comparison.difference if comparison else Estimate(nan, nan, nan)
    return {
        "arm": arm.name,
        "role": arm.role,
        "seeds": arm.seeds,
        **{metric: values["mean"] for metric, values in arm.metrics.items()},
        f"{PRIMARY_METRIC}_sd": nan if sd is None else sd,
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p_value_holm": comparison.p_value_holm if comparison else nan,
    }
