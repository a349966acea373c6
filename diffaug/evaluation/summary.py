"""What the experiment found: each arm's figures, the comparisons and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from diffaug.data.images import LabeledImages
from diffaug.errors import UsageError
from diffaug.evaluation.arms import ARMS
from diffaug.evaluation.comparison import Comparison, compare, paired_differences
from diffaug.evaluation.metrics import METRICS, PRIMARY_METRIC
from diffaug.evaluation.statistics import Estimate
from diffaug.evaluation.trials import Trial
from diffaug.evaluation.verdict import Verdict, decide

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds.

    Attributes:
        name: Name of the arm.
        uses_synthetic: Whether it trains on synthetic images.
        seeds: Number of trainings.
        metrics: `mean` and `sd` over seeds of each metric, fractions.
        recall: Mean recall of each class, by class name.
    """

    name: str
    uses_synthetic: bool
    seeds: int
    metrics: dict[str, dict[str, float]]
    recall: dict[str, float]


@dataclass(frozen=True)
class EvaluationResult:
    """The outcome of an evaluation; all figures are fractions, not percent.

    Attributes:
        classes: Class names.
        train_counts: Real training images by class.
        synthetic_counts: Synthetic images by class.
        test_counts: Test images by class.
        arms: One summary an arm, in the order they were trained.
        comparisons: One a synthetic arm, against the best real arm.
        verdict: The answer.
    """

    classes: tuple[str, ...]
    train_counts: dict[str, int]
    synthetic_counts: dict[str, int]
    test_counts: dict[str, int]
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings, for JSON."""
        content = asdict(self)
        return content | {name: list(content[name]) for name in ("classes", "arms", "comparisons")}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(
            **{
                **content,
                "classes": tuple(content["classes"]),
                "arms": tuple(ArmSummary(**arm) for arm in content["arms"]),
                "comparisons": tuple(map(_comparison_from_dict, content["comparisons"])),
                "verdict": Verdict(**content["verdict"]),
            }
        )

    def table(self) -> pd.DataFrame:
        """One row an arm, the highest balanced accuracy first.

        Columns: `arm`, `uses_synthetic`, `seeds`, each metric's mean, `balanced_accuracy_sd`, and for synthetic arms
        `difference`, `difference_low`, `difference_high` to the best real arm and `p_value_holm`.
        """
        import pandas as pd

        compared = {comparison.arm: comparison for comparison in self.comparisons}
        table = pd.DataFrame([_row(arm, compared.get(arm.name)) for arm in self.arms])
        return table.sort_values(PRIMARY_METRIC, ascending=False, kind="stable", ignore_index=True)


def summarize(
    trials: Sequence[Trial], *, train: LabeledImages, test: LabeledImages, synthetic: LabeledImages
) -> EvaluationResult:
    """Summarises finished trials.

    Only seeds that every arm has finished count, so that the comparison is paired.

    Args:
        trials: What `run_experiment` yielded, whole or in part.
        train: The real training images of the experiment.
        test: Its test images.
        synthetic: Its synthetic images.

    Raises:
        UsageError: There are no two seeds that every arm has finished, or no arm on one of the two sides.
    """
    paired = _paired_by_arm(trials)
    baseline = _best_real_arm(paired)
    correct = {arm: np.array([t.predictions for t in runs]) == test.labels for arm, runs in paired.items()}
    synthetic_arms = [arm for arm in paired if ARMS[arm].uses_synthetic]
    differences = paired_differences(correct, synthetic_arms, baseline, test.labels, len(test.classes))
    comparisons = compare(correct, differences, baseline, test.labels, test.classes)
    return EvaluationResult(
        classes=test.classes,
        train_counts=train.counts_by_name,
        synthetic_counts=synthetic.counts_by_name,
        test_counts=test.counts_by_name,
        arms=tuple(_summarize_arm(arm, runs, test.classes) for arm, runs in paired.items()),
        comparisons=comparisons,
        verdict=decide(comparisons, differences, synthetic_images=len(synthetic), test_images=len(test)),
    )


def _paired_by_arm(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    by_arm: dict[str, dict[int, Trial]] = {}
    for trial in trials:
        by_arm.setdefault(trial.arm, {})[trial.seed] = trial
    if {ARMS[arm].uses_synthetic for arm in by_arm} != {False, True}:
        raise UsageError(
            "nothing to compare: it takes an arm with and an arm without synthetic images", where="evaluation.arms"
        )
    common = sorted(set.intersection(*(set(runs) for runs in by_arm.values())))
    if len(common) < 2:
        raise UsageError(
            f"only {len(common)} seeds are finished for every arm; intervals need 2",
            fix="run the evaluation again: it continues where it stopped",
        )
    return {arm: [runs[seed] for seed in common] for arm, runs in by_arm.items()}


def _best_real_arm(paired: Mapping[str, Sequence[Trial]]) -> str:
    real = [arm for arm in paired if not ARMS[arm].uses_synthetic]
    return max(real, key=lambda arm: _values(paired[arm], PRIMARY_METRIC).mean())


def _values(runs: Sequence[Trial], metric: str) -> NDArray[np.float64]:
    return np.array([trial.metrics[metric] for trial in runs])


def _summarize_arm(name: str, runs: Sequence[Trial], classes: Sequence[str]) -> ArmSummary:
    values = {metric: _values(runs, metric) for metric in METRICS}
    recall = np.mean([trial.recall for trial in runs], axis=0)
    return ArmSummary(
        name=name,
        uses_synthetic=ARMS[name].uses_synthetic,
        seeds=len(runs),
        metrics={m: {"mean": float(v.mean()), "sd": float(v.std(ddof=1))} for m, v in values.items()},
        recall=dict(zip(classes, recall.tolist(), strict=True)),
    )


def _comparison_from_dict(content: Mapping[str, Any]) -> Comparison:
    estimates = {name: Estimate(**content[name]) for name in ("difference", "seeds_only")}
    recall_gain = {name: Estimate(**gain) for name, gain in content["recall_gain"].items()}
    return Comparison(**{**content, **estimates, "recall_gain": recall_gain})


def _row(arm: ArmSummary, comparison: Comparison | None) -> dict[str, Any]:
    nan = float("nan")
    difference = comparison.difference if comparison else Estimate(nan, nan, nan)
    return {
        "arm": arm.name,
        "uses_synthetic": arm.uses_synthetic,
        "seeds": arm.seeds,
        **{metric: arm.metrics[metric]["mean"] for metric in METRICS},
        f"{PRIMARY_METRIC}_sd": arm.metrics[PRIMARY_METRIC]["sd"],
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p_value_holm": comparison.p_value_holm if comparison else nan,
    }
