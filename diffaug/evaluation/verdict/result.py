"""The result of an evaluation: each arm's metrics, the comparisons and the verdict; `result.json` holds one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from pydantic import TypeAdapter

from diffaug.errors import QualityGateError, UsageError
from diffaug.evaluation.experiment.arms import ARMS, Arm, resolve_arm
from diffaug.evaluation.experiment.choice import Choice
from diffaug.evaluation.statistics.comparison import Change, Comparison, Control
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.statistics.metrics import PRIMARY_METRIC, Group
from diffaug.evaluation.verdict.advice import ClassAdvice, NextStep
from diffaug.evaluation.verdict.advice_wording import step_in_words
from diffaug.evaluation.verdict.arm_summary import ArmSummary
from diffaug.evaluation.verdict.showing import result_figure, result_html
from diffaug.evaluation.verdict.wording import Verdict, change_in_words, points
from diffaug.files.records import read_record, write_record

if TYPE_CHECKING:
    from diffaug.runtime.figures import NotebookFigure


@dataclass(frozen=True)
class TrainingSummary:
    """How the classifiers were trained; the synthetic images came from the generators in turn for the seeds."""

    classifier: str
    max_steps: int
    batch_size: int
    num_generators: int
    device: str
    software: str


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The result of an evaluation; all figures are fractions, not percent, but for the NLL.

    Attributes:
        train_counts: Real training images by class; empty if not known, like `groups`.
        synthetic_counts: Synthetic images in the pool by class, and `used_counts` those that were trained on; empty if
            not known.
        training: None if not known, like `choice`.
        encoder: Names the pretrained encoder of the arms that have one; None without such arms.
        arms: In the order of training.
        lead: The best baseline minus plain training; None if plain training is the best, or was not run.
        best_real: The best baseline, and how far plain training is from it, in a sentence.
        controls: Where a gain comes from, as far as the arms for it were run; none for a mix of zero, with which they
            are all the same training.
        class_advice: What to do with the synthetic images of each class; empty if none were used.
        more_images: A baseline minus the same arm with two thirds of the real images; None: not measured.
        next_steps: What may help, the most promising first.
    """

    schema_version: Literal[1] = 1
    classes: tuple[str, ...]
    train_counts: dict[str, int]
    synthetic_counts: dict[str, int]
    used_counts: dict[str, int]
    test_counts: dict[str, int]
    groups: dict[str, Group]
    training: TrainingSummary | None
    encoder: str | None
    arms: tuple[ArmSummary, ...]
    lead: Change | None
    best_real: str
    comparisons: tuple[Comparison, ...]
    controls: tuple[Control, ...]
    choice: Choice | None
    class_advice: tuple[ClassAdvice, ...]
    more_images: Change | None
    next_steps: tuple[NextStep, ...]
    verdict: Verdict

    @property
    def compared(self) -> Comparison:
        """The comparison that the verdict is about."""
        return next(comparison for comparison in self.comparisons if comparison.arm == self.verdict.arm)

    @property
    def has_synthetic(self) -> bool:
        """Whether a synthetic image was trained on; also true where that is not known."""
        return self.choice is None or any(self.used_counts.values())

    @property
    def has_no_pool(self) -> bool:
        """Whether there is no synthetic image at all."""
        return self.choice is not None and not any(self.synthetic_counts.values())

    @property
    def shown(self) -> Change | None:
        """What is shown per class: the verdict's comparison; without synthetic images the best baseline's lead."""
        return self.compared if self.has_synthetic else self.lead

    @property
    def advice(self) -> tuple[str, ...]:
        """The next steps in sentences."""
        return tuple(map(step_in_words, self.next_steps))

    def same_training(self, arm: ArmSummary) -> str:
        """The arm that is the same training under another name and shown in its place; empty if there is none.

        Of several, the arms of the verdict are shown.
        """
        if arm.same_as and not self.has_synthetic:
            return arm.same_as
        names = [one.name for one in self.arms]
        order = [name for name in (self.verdict.baseline, self.verdict.arm, *names) if name in names]
        first = next(name for name in order if self._trained(name) == self._trained(arm.name))
        return "" if first == arm.name else first

    def _trained(self, name: str) -> Arm | str:
        """The arm as it was trained, without its name; the name alone where that is not known."""
        if self.choice is None or name not in ARMS:
            return name
        chosen = self.choice.arm(name)
        resolved = resolve_arm(chosen, self.choice.mix.fraction, self.choice.base_arm)
        return replace(resolved, name="", on_best=False)

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
    def load(cls, path: str | Path) -> EvaluationResult:
        """Reads what `save` wrote, such as `runs/data/evaluation/result.json`; anything else is a DamagedError."""
        return read_record(Path(path), _RESULT)

    def plot(self) -> NotebookFigure:
        """A figure of each arm's balanced accuracy with its 95 % interval, under the verdict."""
        return result_figure(self.arms, self.verdict)

    def _repr_html_(self) -> str:
        return result_html(self.arms, self.comparisons, self.verdict)

    def table(self) -> pd.DataFrame:
        """One row per arm, the highest balanced accuracy first.

        Columns: `arm`, `role`, `seeds`, each metric's mean, `balanced_accuracy_sd`, and for candidates `difference`,
        `difference_low`, `difference_high` to the best baseline and `p_value_holm`.
        """
        compared = {comparison.arm: comparison for comparison in self.comparisons}
        table = pd.DataFrame([_row(arm, compared.get(arm.name)) for arm in self.arms])
        return table.sort_values(PRIMARY_METRIC, ascending=False, kind="stable", ignore_index=True)


_RESULT = TypeAdapter(EvaluationResult)


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
