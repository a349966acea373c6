"""What of an evaluation goes into the journal, and from there to the trackers."""

from __future__ import annotations

from diffaug.data.catalog import TABLE
from diffaug.evaluation.dose import DoseChoice
from diffaug.evaluation.summary import EvaluationResult
from diffaug.evaluation.trials import Trial
from diffaug.pipeline.job import STUDY_RUN, Job
from diffaug.study import StageState
from diffaug.synthesis.pool import MANIFEST

RESULT = "result.json"


def log_trial(job: Job, state: StageState, trial: Trial, classes: tuple[str, ...], choice: DoseChoice) -> None:
    """Records one training as a run of its own; one that an interrupted evaluation has recorded is left alone."""
    key = f"trial/{trial.arm}/{trial.seed}"
    if state == "resumed" and job.journal.status(key) == "ended":
        return
    settings = job.config.evaluation
    params = {
        "arm": trial.arm,
        "seed": trial.seed,
        "classifier": settings.classifier,
        "base": choice.base,
        "synthetic_share": choice.dose.share,
        "synthetic_weight": choice.dose.weight,
    }
    job.start_run(key, state, name=f"{trial.arm}, seed {trial.seed}", kind="trial", params=params, arm=trial.arm)
    recall = {f"recall/{name}": value for name, value in zip(classes, trial.recall, strict=True)}
    job.journal.log_metrics(key, {**trial.metrics, **recall, "seconds": trial.seconds})
    job.journal.log_confusion(key, trial.confusion, classes)
    job.journal.log_dataset(key, job.study.catalog / TABLE, "test", "test")
    job.journal.log_dataset(key, job.study.pool / MANIFEST, "pool", "synthetic")
    job.journal.end_run(key)


def log_result(job: Job, result: EvaluationResult) -> None:
    """Records the verdict with the study: gains with their intervals, the table of arms, and the description."""
    for comparison in result.comparisons:
        prefix = f"gain/{comparison.arm.replace('+', 'and')}"  # MLflow allows no plus sign
        difference = comparison.difference
        figures = {"mean": difference.mean, "low": difference.low, "high": difference.high}
        job.journal.log_metrics(STUDY_RUN, {f"{prefix}/{name}": value for name, value in figures.items()})
    job.journal.log_table(STUDY_RUN, "arms.json", result.table())
    job.journal.log_dataset(STUDY_RUN, job.study.catalog / TABLE, "images", "evaluation")
    job.journal.set_tags(STUDY_RUN, {"diffaug.verdict": result.verdict.decision})
    job.journal.set_description(STUDY_RUN, describe(result))
    job.journal.log_artifact(STUDY_RUN, job.study.evaluation / RESULT)


def describe(result: EvaluationResult) -> str:
    """The verdict and the arms in Markdown."""
    lines = [
        f"**{result.verdict.decision}**: {result.verdict.text}",
        "",
        "| arm | balanced accuracy | SD | gain over the best real arm, 95 % interval |",
        "|---|---|---|---|",
    ]
    gains = {comparison.arm: comparison.difference for comparison in result.comparisons}
    for arm in sorted(result.arms, key=lambda arm: -(arm.metrics["balanced_accuracy"]["mean"] or 0.0)):
        measured, gain = arm.metrics["balanced_accuracy"], gains.get(arm.name)
        interval = "" if gain is None else f"{100 * gain.mean:+.1f} ({100 * gain.low:.1f} to {100 * gain.high:.1f})"
        sd = "" if measured["sd"] is None else f"{measured['sd']:.3f}"
        lines.append(f"| {arm.name} | {measured['mean']:.3f} | {sd} | {interval} |")
    return "\n".join(lines)
