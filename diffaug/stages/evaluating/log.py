"""What is recorded of an evaluation in the journal, which feeds the trackers."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict

from diffaug.data.catalog import TABLE
from diffaug.evaluation.experiment.choice import Choice
from diffaug.evaluation.experiment.experiment import TEST, TRAIN, Experiment
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.statistics.metrics import PRIMARY_METRIC
from diffaug.evaluation.verdict.result import EvaluationResult
from diffaug.evaluation.verdict.wording import digits_of, gain_in_words
from diffaug.files import storage
from diffaug.stages.job import STUDY_RUN, Job
from diffaug.synthesis.pool.pool import MANIFEST, Pool
from diffaug.tracking.system import system_metrics

RESULT = "result.json"
TRIAL_RUNS, GAIN, ACCURACY = "trial/", "gain/", f"{PRIMARY_METRIC}/"
DIGITS = 4  # of accuracies and the like; a test image of a small set counts for more


def log_trial(job: Job, trial: Trial, choice: Choice, experiment: Experiment, pools: Sequence[Pool]) -> None:
    """Records one training as a run of its own, unless it is recorded already."""
    key = _key(trial)
    if job.journal.status(key) == "ended":
        return
    arm, journal = choice.arm(trial.arm), job.journal
    classes, built_on = experiment.train.classes, choice.base_arm if arm.on_best else arm
    trained = experiment.trained if built_on.learner == "network" else experiment.encoder_name
    params = {"arm": trial.arm, "seed": trial.seed, "classifier": trained, "how": built_on.how}
    if arm.depends_on_mix:
        params |= {"synthetic_fraction": choice.mix.fraction, "synthetic_loss_weight": choice.mix.loss_weight}
        excluded = ", ".join(choice.mix.excluded_classes)
        params |= {"excluded_classes": excluded} if excluded else {}
        origins = ", ".join(choice.mix.excluded_origins)
        params |= {"excluded_origins": origins} if origins else {}
    if arm.on_best:
        params["base"] = choice.base
    tags = {"diffaug.kind": "trial", "diffaug.arm": trial.arm}
    journal.start_run(key, name=f"{trial.arm}, seed {trial.seed}", parent=STUDY_RUN, tags=tags, params=params)
    recall = {f"recall/{name}": value for name, value in zip(classes, trial.recall, strict=True)}
    figures = {name: round(value, DIGITS) for name, value in (trial.metrics | recall).items()}
    journal.log_metrics(key, {**figures, "seconds": round(trial.seconds, 1), **system_metrics()})
    for step, loss in trial.curve:
        journal.log_metrics(key, {"train_loss": loss}, step)
    journal.log_confusion(key, trial.confusion, classes)
    journal.log_table(key, "per_class.json", class_rows(trial, classes))
    for name, context in ((TRAIN, "training"), (TEST, "test")):
        images, table = experiment.subset(name), job.study.catalog / TABLE
        journal.log_dataset(key, table, name, context, digest=images.dataset_hash, rows=len(images.dataset))
    if arm.uses_synthetic and (choice.mix.fraction or not arm.real):
        journal.log_dataset(key, pools[trial.seed % len(pools)].root / MANIFEST, "pool", "synthetic")
    journal.end_run(key)


def class_rows(trial: Trial, classes: Sequence[str]) -> list[dict[str, object]]:
    """Recall and most frequent confusion per class, a table that trackers compare between trainings."""
    rows: list[dict[str, object]] = []
    for position, (name, counts) in enumerate(zip(classes, trial.confusion, strict=True)):
        wrong = [0 if other == position else count for other, count in enumerate(counts)]
        confused = classes[wrong.index(max(wrong))] if any(wrong) else ""
        recall = round(trial.recall[position], DIGITS)
        rows.append({"class": name, "test images": sum(counts), "recall": recall, "most confused with": confused})
    return rows


def log_result(
    job: Job, result: EvaluationResult, trials: Sequence[Trial], experiment: Experiment, pools: Sequence[Pool]
) -> None:
    """Records the verdict with the study: figures, parameters, datasets, the table of arms and the description.

    Trainings of earlier evaluations are superseded. Figures of what is no longer compared become NaN, since no tracker
    deletes a metric.
    """
    job.journal.supersede_runs(TRIAL_RUNS, but={_key(trial) for trial in trials})
    gone = {name: math.nan for name in job.journal.results(STUDY_RUN) if name.startswith((GAIN, ACCURACY))}
    job.journal.log_metrics(STUDY_RUN, gone | study_figures(result))
    job.journal.log_params(STUDY_RUN, study_params(result))
    job.journal.log_table(STUDY_RUN, "arms.json", result.table().round(DIGITS))
    rows = len(experiment.train) + len(experiment.test)
    job.journal.log_dataset(STUDY_RUN, job.study.catalog / TABLE, "images", "evaluation", rows=rows)
    for pool in pools[:1]:
        job.journal.log_dataset(STUDY_RUN, pool.root / MANIFEST, "pool", "synthetic")
    tags = {"diffaug.verdict": result.verdict.decision, "diffaug.best_real_arm": result.verdict.baseline}
    job.journal.set_tags(STUDY_RUN, tags)
    job.journal.set_description(STUDY_RUN, describe(result))
    job.journal.log_artifact(STUDY_RUN, job.study.evaluation / RESULT)


def study_figures(result: EvaluationResult) -> dict[str, float]:
    """Balanced accuracy per arm, a fraction, and the gain that the verdict is about, in points, with its interval.

    The gain has the digits that the verdict's sentence has.
    """
    figures = {
        f"{ACCURACY}{arm.name.replace('+', 'and')}": round(arm.mean(), DIGITS)  # MLflow has no plus
        for arm in result.arms
        if not result.same_training(arm)
    }
    if result.has_synthetic:
        gain = result.compared.difference
        ends = {"points": gain.mean, "low": gain.low, "high": gain.high}
        figures |= {f"{GAIN}{name}": float(f"{100 * end:z.{digits_of(gain)}f}") for name, end in ends.items()}
    return figures


def study_params(result: EvaluationResult) -> dict[str, object]:
    """What the result depends on most, beside what is recorded when the study begins and the generator is trained."""
    training, choice, counts = result.training, result.choice, result.train_counts.values()
    params: dict[str, object] = {
        "classes": len(result.classes),
        "train_images": sum(counts),
        "smallest_class": min(counts, default=0),
        "test_images": sum(result.test_counts.values()),
        "synthetic_images": sum(result.synthetic_counts.values()),
        "used_synthetic_images": sum(result.used_counts.values()),
        "num_seeds": result.arm(result.verdict.baseline).seeds,
        "encoder": result.encoder or "none",
    }
    if training is not None:
        params |= {"classifier": training.classifier, "classifier_steps": training.max_steps}
    if choice is not None:
        params |= {"base": choice.base, "how": choice.base_arm.how, "synthetic_fraction": choice.mix.fraction}
    return params


def describe(result: EvaluationResult) -> str:
    """The verdict and the arms in Markdown."""
    verdict = result.verdict
    lines = [
        in_markdown(result.best_real),
        "",
        f"**{verdict.decision}**: {in_markdown(verdict.headline)}",
        "",
        *(f"- {in_markdown(detail)}" for detail in verdict.details),
        "",
        *(["What would help:", ""] if result.advice else []),
        *(f"- {in_markdown(step)}" for step in result.advice),
        "",
        "| arm | balanced accuracy, % | SD, points | gain over the best baseline, 95 % interval |",
        "|---|---|---|---|",
    ]
    gains = {comparison.arm: comparison.difference for comparison in result.comparisons if result.has_synthetic}
    for arm in sorted(result.arms, key=lambda arm: -arm.mean()):
        if result.same_training(arm):
            continue
        measured, gain = arm.metrics[PRIMARY_METRIC], gains.get(arm.name)
        interval = "" if gain is None else gain_in_words(gain)
        sd = "" if measured.sd is None else f"{100 * measured.sd:.1f}"
        lines.append(f"| {in_markdown(arm.name)} | {100 * measured.mean:.1f} | {sd} | {interval} |")
    return "\n".join(lines)


def in_markdown(text: str) -> str:
    """The text on one line, with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))


def _key(trial: Trial) -> str:
    return f"{TRIAL_RUNS}{trial.arm}/{trial.seed}/{storage.fingerprint(asdict(trial))[:12]}"
