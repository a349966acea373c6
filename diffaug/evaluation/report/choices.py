"""What was chosen on training images, beside what the test images said about it."""

from collections.abc import Iterator
from dataclasses import dataclass

from diffaug.configuration.arms import CANDIDATE
from diffaug.evaluation.experiment.choice import Choice, MeasuredMix
from diffaug.evaluation.verdict.result import EvaluationResult
from diffaug.evaluation.verdict.wording import mix_in_words


@dataclass(frozen=True)
class Chosen:
    """An arm, what was chosen in it, and its balanced accuracy on validation and on test images, if measured."""

    arm: str
    how: str
    validation: float | None
    test: float | None
    is_chosen: bool = False

    @property
    def optimism(self) -> float | None:
        """Validation minus test; None unless both were measured."""
        return None if self.validation is None or self.test is None else self.validation - self.test


def chosen_rows(result: EvaluationResult) -> list[Chosen]:
    """The real arms in the order of the cross-validation, then the one with synthetic images."""
    choice = result.choice
    if choice is None:
        return []
    tested = {arm.name: arm.mean() for arm in result.arms}
    rows = [Chosen(one.arm, one.how, one.mean, tested.get(one.arm), one.arm == choice.base) for one in choice.real]
    if CANDIDATE in tested and result.has_synthetic:
        how = f"{mix_in_words(choice.mix)}, on {choice.base}: {choice.base_arm.how}"
        rows.append(Chosen(CANDIDATE, how, _validated(choice), tested[CANDIDATE]))
    return rows


def mean_optimism(rows: list[Chosen]) -> float | None:
    """Validation minus test, mean over the arms that have both."""
    known = [row.optimism for row in rows if row.optimism is not None]
    return sum(known) / len(known) if known else None


def curves(choice: Choice) -> dict[tuple[str, str], list[MeasuredMix]]:
    """What was measured over the synthetic fraction, by real arm and how it is trained, the smallest fraction first.

    Mixes with other weights, amounts or classes are no part of a curve.
    """
    found: dict[tuple[str, str], list[MeasuredMix]] = {}
    for one in sorted(_on_curve(choice), key=lambda one: one.mix.fraction):
        found.setdefault((one.arm, one.how), []).append(one)
    return found


def _on_curve(choice: Choice) -> Iterator[MeasuredMix]:
    return (one for one in choice.mixtures if one.mix.loss_weight == 1 and one.mix.max_per_real is None)


def _validated(choice: Choice) -> float | None:
    return next((one.mean for one in (*choice.refinements, *choice.mixtures) if choice.is_of(one)), None)
