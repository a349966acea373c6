"""Trials become a result: who was best, by how much, what follows for each class, and what to try next."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from diffaug.configuration.arms import PLAIN_ARM, Role
from diffaug.data.images import count_by_name
from diffaug.errors import UsageError
from diffaug.evaluation.experiment.choice import Choice
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.statistics.comparison import Answers, Change, change, compare, controls, lead_of_best
from diffaug.evaluation.statistics.metrics import class_groups
from diffaug.evaluation.verdict.advice import Missing, advise, next_steps, used_counts
from diffaug.evaluation.verdict.advice_wording import advice_in_words, best_real_in_words
from diffaug.evaluation.verdict.arm_summary import ArmSummary, summarize_arms
from diffaug.evaluation.verdict.decide import Evidence, decide
from diffaug.evaluation.verdict.result import EvaluationResult, TrainingSummary
from diffaug.evaluation.verdict.wording import in_words

FEWER_IMAGES = "two thirds of the real images"


def summarize(
    trials: Sequence[Trial],
    *,
    roles: Mapping[str, Role],
    train_counts: Mapping[str, int],
    synthetic_counts: Mapping[str, int],
    usable_counts: Mapping[str, int] | None = None,
    test_labels: NDArray[np.int64],
    classes: Sequence[str],
    num_generators: int = 1,
    choice: Choice | None = None,
    training: TrainingSummary | None = None,
    encoder: str | None = None,
    missing: Collection[Missing] = (),
    fewer_images: Sequence[Trial] = (),
) -> EvaluationResult:
    """Summarizes the trials finished so far; see `EvaluationResult` for what may be unknown.

    `usable_counts` are the synthetic images of origins that the mix does not exclude, by default all of them.
    Only seeds that every arm has finished count, so that the comparison is paired. Test labels (N,) are in the order of
    the trials' predictions. Seed s was trained on images of generator s % num_generators. `missing` is what the study
    lacked for further arms. `fewer_images` are trials of one baseline on two thirds of the real images, under its name.

    Raises:
        UsageError: No seed is finished for every arm, or there is no baseline, or no candidate.
    """
    runs = _paired_by_arm(trials, roles)
    groups = class_groups([train_counts[name] for name in classes]) if train_counts else ()
    answers = Answers(
        correct={arm: np.array([trial.predictions for trial in of_arm]) == test_labels for arm, of_arm in runs.items()},
        roles=roles,
        labels=test_labels,
        classes=tuple(classes),
        groups=dict(zip(classes, groups, strict=False)),
        generators=np.array([trial.seed for trial in next(iter(runs.values()))]) % num_generators,
    )
    arms = summarize_arms(answers, runs)
    used = used_counts(usable_counts or synthetic_counts, train_counts, choice.mix) if choice else {}
    evidence = _evidence(answers, arms, choice, synthetic_counts, used)
    decision = decide(evidence)
    best, plain, lead = arms[decision.comparison.baseline], arms.get(PLAIN_ARM), lead_of_best(answers)
    advice = () if evidence.is_without_synthetic else advise(decision.comparison.recall_gain, used)
    more_images = _more_images(answers, runs, fewer_images)
    return EvaluationResult(
        classes=answers.classes,
        train_counts=dict(train_counts),
        synthetic_counts=dict(synthetic_counts),
        used_counts=used,
        test_counts=count_by_name(test_labels, classes),
        groups=dict(answers.groups),
        training=training,
        encoder=encoder,
        arms=tuple(arms.values()),
        lead=lead,
        best_real=best_real_in_words(best, plain, lead),
        comparisons=evidence.comparisons,
        controls=evidence.controls,
        choice=choice,
        class_advice=advice,
        more_images=more_images,
        next_steps=next_steps(best, train_counts, missing, more_images),
        verdict=in_words(decision, evidence, advice_in_words(advice, decision.outcome)),
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


def _evidence(
    answers: Answers,
    arms: Mapping[str, ArmSummary],
    choice: Choice | None,
    available: Mapping[str, int],
    used: Mapping[str, int],
) -> Evidence:
    comparisons, differences = compare(answers)
    evidence = Evidence(
        comparisons=comparisons,
        differences=differences,
        controls=controls(answers),
        num_baselines=len(answers.with_role("baseline")),
        synthetic_images=sum(available.values()) if choice and available else None,
        used_images=sum(used.values()) if used else None,
        test_images=len(answers.labels),
        seeds=len(answers.generators),
        num_classes=len(answers.classes),
        accuracies={name: arm.accuracy for name, arm in arms.items()},
        choice=choice,
    )
    return replace(evidence, controls=()) if evidence.is_without_synthetic else evidence


def _more_images(answers: Answers, runs: Mapping[str, Sequence[Trial]], fewer: Sequence[Trial]) -> Change | None:
    """The trials of a baseline minus those of the same seeds with fewer images."""
    less = {trial.seed: trial for trial in fewer}
    arm = fewer[0].arm if fewer else ""
    pairs = [(trial, less[trial.seed]) for trial in runs.get(arm, ()) if trial.seed in less]
    if not pairs:
        return None
    predicted = {
        arm: [trial.predictions for trial, _ in pairs],
        FEWER_IMAGES: [trial.predictions for _, trial in pairs],
    }
    correct = {name: np.array(of_seeds) == answers.labels for name, of_seeds in predicted.items()}
    roles: dict[str, Role] = dict.fromkeys(correct, "baseline")
    both = replace(answers, correct=correct, roles=roles, generators=np.zeros(len(pairs), np.int64))
    return change(both, arm, FEWER_IMAGES)
