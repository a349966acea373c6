"""What of an evaluation goes into the journal, and from there to the trackers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from diffaug.data.catalog import TABLE
from diffaug.data.images import hash_of
from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.dose import DoseChoice
from diffaug.evaluation.experiment.experiment import Experiment
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.verdict.result import EvaluationResult
from diffaug.files import storage
from diffaug.stages.evaluating.replicates import Replicate
from diffaug.stages.job import STUDY_RUN, Job
from diffaug.synthesis.pool.pool import MANIFEST

RESULT = "result.json"
TRIAL_RUNS, GAIN = "trial/", "gain/"


@dataclass(frozen=True)
class Provenance:
    """What every training of an evaluation has in common.

    Attributes:
        classes: Class names.
        trained: What is trained.
        manifests: One a generator, in turn for the seeds.
        train_digest: Names the content of the training images.
        test_digest: Names that of the test images.
    """

    classes: tuple[str, ...]
    trained: str
    manifests: tuple[Path, ...]
    train_digest: str
    test_digest: str

    @classmethod
    def of(cls, experiment: Experiment, replicates: Sequence[Replicate], trained: str) -> Self:
        """That of an experiment."""
        return cls(
            experiment.train.classes,
            experiment.classifier.name if experiment.classifier else trained,
            tuple(replicate.pool.root / MANIFEST for replicate in replicates),
            hash_of(experiment.train),
            hash_of(experiment.test),
        )


def log_trial(job: Job, trial: Trial, choice: DoseChoice, provenance: Provenance) -> None:
    """Records one training as a run of its own; a training that is recorded already is left alone."""
    key = _key(trial)
    if job.journal.status(key) == "ended":
        return
    arm, journal, table = ARMS[trial.arm], job.journal, job.study.catalog / TABLE
    params = {"arm": trial.arm, "seed": trial.seed, "classifier": provenance.trained}
    if arm.follows_dose:
        params |= {"synthetic_share": choice.dose.share, "synthetic_weight": choice.dose.weight}
        params |= {"synthetic_without": ", ".join(choice.dose.without)} if choice.dose.without else {}
    if arm.on_best:
        params["base"] = choice.base
    tags = {"diffaug.kind": "trial", "diffaug.arm": trial.arm}
    journal.start_run(key, name=f"{trial.arm}, seed {trial.seed}", parent=STUDY_RUN, tags=tags, params=params)
    recall = {f"recall/{name}": value for name, value in zip(provenance.classes, trial.recall, strict=True)}
    journal.log_metrics(key, {**trial.metrics, **recall, "seconds": trial.seconds})
    journal.log_confusion(key, trial.confusion, provenance.classes)
    journal.log_table(key, "per_class.json", class_rows(trial, provenance.classes))
    journal.log_dataset(key, table, "train", "training", digest=provenance.train_digest)
    journal.log_dataset(key, table, "test", "test", digest=provenance.test_digest)
    if arm.uses_synthetic and (choice.dose.share or not arm.real):
        manifests = provenance.manifests
        journal.log_dataset(key, manifests[trial.seed % len(manifests)], "pool", "synthetic")
    journal.end_run(key)


def class_rows(trial: Trial, classes: Sequence[str]) -> list[dict[str, object]]:
    """What trackers can set side by side for several trainings: of each class its recall and its common mistake."""
    rows: list[dict[str, object]] = []
    for position, (name, counts) in enumerate(zip(classes, trial.confusion, strict=True)):
        wrong = [0 if other == position else count for other, count in enumerate(counts)]
        mistake = classes[wrong.index(max(wrong))] if any(wrong) else ""
        rows.append(
            {"class": name, "test images": sum(counts), "recall": trial.recall[position], "most taken for": mistake}
        )
    return rows


def _key(trial: Trial) -> str:
    return f"{TRIAL_RUNS}{trial.arm}/{trial.seed}/{storage.fingerprint(asdict(trial))[:12]}"


def log_result(job: Job, result: EvaluationResult, trials: Sequence[Trial]) -> None:
    """Records the verdict with the study: gains with their intervals, the table of arms, and the description.

    Args:
        job: The job.
        result: Of the trials.
        trials: All of the evaluation. Recorded trainings of earlier evaluations no longer stand for the study, nor do
            gains of arms that are no longer compared, which become NaN as no tracker forgets a metric.
    """
    job.journal.supersede_runs(TRIAL_RUNS, but={_key(trial) for trial in trials})
    gone = {name: math.nan for name in job.journal.results(STUDY_RUN) if name.startswith(GAIN)}
    job.journal.log_metrics(STUDY_RUN, gone | _gains(result))
    job.journal.log_table(STUDY_RUN, "arms.json", result.table())
    job.journal.log_dataset(STUDY_RUN, job.study.catalog / TABLE, "images", "evaluation")
    job.journal.set_tags(STUDY_RUN, {"diffaug.verdict": result.verdict.decision})
    job.journal.set_description(STUDY_RUN, describe(result))
    job.journal.log_artifact(STUDY_RUN, job.study.evaluation / RESULT)


def _gains(result: EvaluationResult) -> dict[str, float]:
    """Mean and interval of each claim's gain, by the name of a metric."""
    return {
        f"{GAIN}{comparison.arm.replace('+', 'and')}/{name}": getattr(comparison.difference, name)  # MLflow has no plus
        for comparison in result.comparisons
        for name in ("mean", "low", "high")
    }


def describe(result: EvaluationResult) -> str:
    """The verdict and the arms in Markdown."""
    answer, *details = map(in_markdown, result.verdict.text.splitlines())
    lines = [
        f"**{result.verdict.decision}**: {answer}",
        "",
        *(f"- {detail}" for detail in details),
        "",
        "| arm | balanced accuracy | SD | gain over the best real arm, 95 % interval |",
        "|---|---|---|---|",
    ]
    gains = {comparison.arm: comparison.difference for comparison in result.comparisons}
    for arm in sorted(result.arms, key=lambda arm: -arm.mean()):
        measured, gain = arm.metrics["balanced_accuracy"], gains.get(arm.name)
        interval = "" if gain is None else f"{100 * gain.mean:+.1f} ({100 * gain.low:.1f} to {100 * gain.high:.1f})"
        sd = "" if measured["sd"] is None else f"{measured['sd']:.3f}"
        lines.append(f"| {in_markdown(arm.name)} | {measured['mean']:.3f} | {sd} | {interval} |")
    return "\n".join(lines)


def in_markdown(text: str) -> str:
    """The text as it is, on one line, whatever Markdown would make of its letters."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))
