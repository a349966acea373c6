"""The stage that trains classifiers with and without the pool and says what came of it."""

from __future__ import annotations

import shlex
from typing import Any

from diffaug import storage
from diffaug.data.catalog import Catalog
from diffaug.errors import DataError, UsageError
from diffaug.evaluation.experiment import run_experiment
from diffaug.evaluation.report import write_report
from diffaug.evaluation.summary import EvaluationResult, summarize
from diffaug.evaluation.trials import Trial
from diffaug.pipeline.job import STUDY_RUN, Job
from diffaug.study import StageState, begin_stage, finish_stage
from diffaug.synthesis.pool import MANIFEST, Pool

RESULT = "result.json"


def evaluate_pool(job: Job, catalog: Catalog, pool: Pool) -> EvaluationResult:
    """Runs the study's experiment, goes on with one that was stopped, or reads the finished one.

    Raises:
        DataError: The test split lacks a class.
        UsageError: The experiment was begun with other settings.
    """
    folder, settings = job.study.evaluation, job.config.evaluation
    stored = {"seed": job.config.seed, **settings.model_dump(mode="json")}
    state = begin_stage(folder, stored, _inputs(catalog, pool), overwrite=job.overwrite)
    if state == "finished":
        job.narrator.say(f"evaluation: finished already, kept ({folder})")
        return EvaluationResult.from_dict(storage.read_json(folder / RESULT))
    train, test, synthetic = catalog.images("train"), catalog.images("test"), pool.images()
    require_test_images(catalog)
    trials: list[Trial] = []
    total = len(settings.arms) * settings.seeds
    for trial in run_experiment(
        train, test, synthetic, settings, seed=job.config.seed, device=job.device, directory=folder
    ):
        trials.append(trial)
        _log_trial(job, state, trial, train.classes)
        job.narrator.progress("evaluating", len(trials), total, f"{trial.arm}, seed {trial.seed}")
    result = summarize(trials, train=train, test=test, synthetic=synthetic)
    storage.write_json(folder / RESULT, result.to_dict())
    finish_stage(folder)
    _log_result(job, result)
    return result


def require_test_images(catalog: Catalog) -> None:
    """Raises DataError when a class has no test image, since nothing could be said about it."""
    missing = [name for name, count in catalog.images("test").counts_by_name.items() if not count]
    if missing:
        raise DataError(
            f"no test image of: {', '.join(missing)}",
            where=catalog.root,
            fix="add test images of these classes, or remove the test split so that diffaug holds some back",
        )


def read_evaluation(job: Job, catalog: Catalog, pool: Pool) -> EvaluationResult:
    """The finished evaluation of these images and this pool; nothing is trained.

    Raises:
        UsageError: There is none, or the images or the pool changed since.
    """
    folder, fix = job.study.evaluation, f"diffaug evaluate {job.study.path}"
    facts = storage.committed_facts(folder)
    if facts is None:
        raise UsageError("there is no finished evaluation", where=folder, fix=fix)
    if facts["inputs"] != _inputs(catalog, pool):
        raise UsageError("the images or the pool changed since they were evaluated", where=folder, fix=fix)
    return EvaluationResult.from_dict(storage.read_json(folder / RESULT))


def write_study_report(job: Job, catalog: Catalog, pool: Pool, result: EvaluationResult) -> None:
    """Writes the report and logs it."""
    write_report(
        job.study.report,
        title=job.study.name,
        evaluation=result.to_dict(),
        real=catalog.images("train"),
        synthetic=pool.images(),
        config_yaml=job.study.config_file.read_text(encoding="utf-8"),
        facts=_facts(job, catalog),
        problems=catalog.problems,
        seed=job.config.seed,
        command=_repeat_command(job),
    )
    job.journal.log_artifact(STUDY_RUN, job.study.report)
    job.journal.end_run(STUDY_RUN)
    job.sync()


def _inputs(catalog: Catalog, pool: Pool) -> dict[str, str]:
    return {"catalog": catalog.fingerprint, "pool": storage.sha256_file(pool.root / MANIFEST)}


def _repeat_command(job: Job) -> str:
    study = job.study.path
    return shlex.join(
        ["diffaug", "run", job.study.facts["data"], "--study", f"{study}-again", "--config", str(job.study.config_file)]
    )


def _facts(job: Job, catalog: Catalog) -> dict[str, Any]:
    facts = storage.read_json(job.study.generator / "config.json")
    height, width = catalog.image_size
    return {
        "data": str(catalog.root),
        "working size": f"{width} x {height} px, {'RGB' if catalog.channels == 3 else 'grey'}",
        "diffaug": job.study.facts["diffaug"],
        **{f"generator: {name}": value for name, value in facts["training"].items()},
    }


def _log_trial(job: Job, state: StageState, trial: Trial, classes: tuple[str, ...]) -> None:
    key = f"trial/{trial.arm}/{trial.seed}"
    if state == "resumed" and job.journal.status(key) == "ended":
        return
    params = {"arm": trial.arm, "seed": trial.seed, "synthetic_weight": job.config.evaluation.synthetic_weight}
    job.start_run(key, state, name=f"{trial.arm}, seed {trial.seed}", kind="trial", params=params, arm=trial.arm)
    recall = {f"recall/{name}": value for name, value in zip(classes, trial.recall, strict=True)}
    job.journal.log_metrics(key, {**trial.metrics, **recall, "seconds": trial.seconds})
    job.journal.end_run(key)


def _log_result(job: Job, result: EvaluationResult) -> None:
    for comparison in result.comparisons:
        prefix = f"gain/{comparison.arm.replace('+', 'and')}"  # MLflow allows no plus sign
        difference = comparison.difference
        figures = {
            f"{prefix}/mean": difference.mean,
            f"{prefix}/low": difference.low,
            f"{prefix}/high": difference.high,
        }
        job.journal.log_metrics(STUDY_RUN, figures)
    job.journal.log_table(STUDY_RUN, "arms.json", result.table())
    job.journal.set_tags(STUDY_RUN, {"diffaug.verdict": result.verdict.decision})
    job.journal.set_description(STUDY_RUN, _markdown(result))
    job.journal.log_artifact(STUDY_RUN, job.study.evaluation / RESULT)


def _markdown(result: EvaluationResult) -> str:
    lines = [
        f"**{result.verdict.decision}**: {result.verdict.text}",
        "",
        "| arm | balanced accuracy | SD |",
        "|---|---|---|",
    ]
    for arm in result.arms:
        measured = arm.metrics["balanced_accuracy"]
        lines.append(f"| {arm.name} | {measured['mean']:.3f} | {measured['sd']:.3f} |")
    return "\n".join(lines)
