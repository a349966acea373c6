"""The stage that trains classifiers with and without the pool and summarizes the results."""

import shlex
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from diffaug.classifiers.identity import identity_of
from diffaug.classifiers.training_set import Classifier
from diffaug.data.catalog import Catalog
from diffaug.data.images import count_by_name
from diffaug.errors import Interrupted, UsageError
from diffaug.evaluation.experiment.choice import Choice
from diffaug.evaluation.experiment.choosing.choose import choice_of, choose_real, planned_trainings
from diffaug.evaluation.experiment.choosing.mixes import choose_mix
from diffaug.evaluation.experiment.experiment import Experiment, runs_here
from diffaug.evaluation.experiment.training_task import TrainFunction
from diffaug.evaluation.experiment.trainings import FOLDER as TRAININGS
from diffaug.evaluation.experiment.trainings import Trainings, run_experiment, run_on_fewer_images
from diffaug.evaluation.experiment.trials import FOLDER as TRIALS
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.verdict.advice import Missing
from diffaug.evaluation.verdict.result import EvaluationResult, TrainingSummary
from diffaug.evaluation.verdict.summarize import summarize
from diffaug.files import storage
from diffaug.files.stage_records import (
    begin_extendable_stage,
    finish_stage,
    is_finished,
    is_stage_of,
    require_extension,
    required_record,
    stage_settings,
)
from diffaug.stages.catalog import findings_first
from diffaug.stages.evaluating.checks import (
    report_leaks,
    require_known_classifier,
    require_test_images,
    require_unseen,
    seen_test_images,
)
from diffaug.stages.evaluating.experiment import Learners, experiment_of, learners_of
from diffaug.stages.evaluating.log import RESULT, log_result, log_trial
from diffaug.stages.evaluating.pilot import finished_pools, prepare_replicates
from diffaug.stages.evaluating.progress import EvaluationProgress, say_mix, say_real
from diffaug.stages.generating.describe_shortage import why_no_images
from diffaug.stages.job import Job
from diffaug.stages.review import tell_review
from diffaug.stages.signals import stop_requests
from diffaug.synthesis.pool.pool import Pool
from diffaug.synthesis.review.summary import pool_fingerprint

FURTHER_POOLS = "further_pools"
EXTENDABLE = ("quick", "thorough", "arms", "num_seeds", "num_generators", "features_of", FURTHER_POOLS)
"""Settings of an evaluation that only add or remove trainings: finished ones stay valid."""


def evaluate_study(
    job: Job, catalog: Catalog, *, classifier: Classifier | None = None, train_fn: TrainFunction | None = None
) -> EvaluationResult:
    """Runs the study's experiment, continues one that was stopped or extended, or reads the finished one.

    Without a pool the real arms alone are compared. A finished first answer is replaced by any other evaluation, the
    full answer by a first one only with `overwrite`. Everything that can be refused is checked before a further
    generator is trained or an older result is replaced. A `classifier` is trained instead of that of the settings, or
    `train_fn` called. When it is stopped, everything finished is on disk.
    """
    learners, own = learners_of(job, catalog, classifier, train_fn), own_pool(job)
    stored = _stored(job, learners)
    finished = _finished(job, catalog, stored, own)
    if finished is not None:
        return finished
    if not job.overwrite:
        require_extension(job.study.evaluation, stored, _inputs(catalog, own), _extendable(job, stored))
    require_known_classifier(job)
    leaks = seen_test_images(job, catalog)
    with findings_first(job, catalog):
        require_test_images(catalog)
        test = require_unseen(catalog.images("test"), leaks, drop=job.config.evaluation.drop_leaked)
    pools = prepare_replicates(job, catalog) if own is not None else []
    _begin(job, catalog, stored, pools)
    report_leaks(job, leaks)
    for pool in pools[:1]:
        tell_review(job, pool)
    with stop_requests() as stop:
        experiment = experiment_of(job, catalog, test, pools, learners, stop_requested=stop)
        choice, trials, fewer = _train_all(job, experiment, pools)
        result = _summarize(job, experiment, choice, trials, pools=pools, fewer_images=fewer)
    result.save(job.study.evaluation / RESULT)
    log_result(job, result, trials, experiment, pools)
    finish_stage(job.study.evaluation)
    _say_what_is_left(job, pools)
    return result


def _finished(job: Job, catalog: Catalog, stored: dict[str, Any], own: Pool | None) -> EvaluationResult | None:
    """The finished evaluation of the same settings, images and pools; None if there is none."""
    folder = job.study.evaluation
    if not is_finished(folder, overwrite=job.overwrite):
        return None
    if _is_full_answer(job, catalog, stored, own):
        kept = f"the full answer, kept ({folder}); --overwrite replaces it with a first one"
    elif _is_same(job, catalog, stored, own):
        kept = f"already finished, kept ({folder})"
    else:
        return None
    job.accept()
    job.narrator.say(f"evaluation: {kept}")
    return EvaluationResult.load(folder / RESULT)


def _is_same(job: Job, catalog: Catalog, stored: dict[str, Any], own: Pool | None) -> bool:
    """Whether the evaluation was begun as this one would be."""
    pools = finished_pools(job) if own is not None else []
    if own is not None and not pools:
        return False
    return is_stage_of(job.study.evaluation, {**stored, **_further(pools)}, _inputs(catalog, own))


def _is_full_answer(job: Job, catalog: Catalog, stored: dict[str, Any], own: Pool | None) -> bool:
    """Whether a first answer is asked for that the finished evaluation holds already, with more arms or seeds."""
    if job.overwrite or not job.config.evaluation.quick or _is_first_answer(job):
        return False
    inputs = _inputs(catalog, own)
    require_extension(job.study.evaluation, stored, inputs, EXTENDABLE)
    return required_record(job.study.evaluation).inputs == inputs


def _is_first_answer(job: Job) -> bool:
    return bool(stage_settings(job.study.evaluation).get("quick"))


def _extendable(job: Job, stored: dict[str, Any]) -> Collection[str]:
    """The settings that may differ from those that the evaluation was begun with: any, if it was a first answer."""
    return {*stored, *stage_settings(job.study.evaluation)} if _is_first_answer(job) else EXTENDABLE


def _begin(job: Job, catalog: Catalog, stored: dict[str, Any], pools: Sequence[Pool]) -> None:
    """Begins the stage, or takes it up with all trainings that still hold; of a new study, also the study."""
    job.study.begin()
    if _is_first_answer(job) and not job.config.evaluation.quick:
        job.narrator.say("evaluation: the full answer replaces the first one")
    begin_extendable_stage(
        job.study.evaluation,
        {**stored, **_further(pools)},
        _inputs(catalog, pools[0] if pools else None),
        extendable=_extendable(job, stored),
        keep=(TRIALS, TRAININGS),
        overwrite=job.overwrite,
    )
    job.accept()


def own_pool(job: Job) -> Pool | None:
    """The study's own pool; None before one is generated. A pool that is not finished is a UsageError."""
    return Pool.open(job.study.pool) if job.study.pool.exists() else None


def read_evaluation(job: Job, catalog: Catalog, pool: Pool | None) -> EvaluationResult:
    """The finished evaluation; a UsageError if there is none, or the images or the pool changed since."""
    folder, fix = job.study.evaluation, f"diffaug evaluate {shlex.quote(str(job.study.path))}"
    if storage.committed_metadata(folder) is None:
        raise UsageError("there is no finished evaluation", where=folder, fix=fix)
    if required_record(folder).inputs != _inputs(catalog, pool):
        raise UsageError("the images, the pool or its review changed since the evaluation", where=folder, fix=fix)
    return EvaluationResult.load(folder / RESULT)


def _stored(job: Job, learners: Learners) -> dict[str, Any]:
    """What the result depends on, except images and pools."""
    settings = job.config.evaluation
    own = learners.classifier.name if learners.classifier else None
    own = identity_of(learners.train_fn) if learners.train_fn else own
    return {
        "seed": job.config.seed,
        **settings.model_dump(mode="json", exclude={"workers"}),
        "synthetic_fraction_grid": list(job.config.advanced.synthetic_fraction_grid),
        "trained": own or settings.classifier,
        "features_of": learners.encoder.name if learners.encoder else None,
    }


def _train_all(job: Job, experiment: Experiment, pools: Sequence[Pool]) -> tuple[Choice, list[Trial], list[Trial]]:
    """Chooses the real arm and the mix, then trains every arm with every seed; reports and logs all of it.

    The last trials are those of the best real arm on fewer images.
    """
    progress = EvaluationProgress(job.narrator, planned_trainings(experiment))
    trials: list[Trial] = []
    try:
        trainings = Trainings(experiment, progress)
        real = choose_real(trainings)
        say_real(job.narrator, real)
        chosen = choose_mix(trainings, real, job.config.advanced.synthetic_fraction_grid)
        choice = choice_of(real, chosen, is_quick=experiment.settings.quick)
        say_mix(job.narrator, choice)
        for trial in run_experiment(experiment, choice, progress, progress.expect):
            trials.append(trial)
            log_trial(job, trial, choice, experiment, pools)
        fewer = run_on_fewer_images(experiment, choice, progress)
    except Interrupted as stop:
        raise Interrupted(stop.what, where=experiment.directory, fix=f"continue with: {job.command}") from stop
    progress.end()
    return choice, trials, fewer


def _summarize(
    job: Job,
    experiment: Experiment,
    choice: Choice,
    trials: list[Trial],
    *,
    pools: Sequence[Pool],
    fewer_images: Sequence[Trial],
) -> EvaluationResult:
    recipe, count = experiment.recipe, max(1, len(pools))
    return summarize(
        trials,
        roles={arm.name: arm.role for arm in experiment.arms},
        train_counts=experiment.train.counts_by_name,
        synthetic_counts=pools[0].counts_by_name if pools else dict.fromkeys(experiment.train.classes, 0),
        usable_counts=_usable_counts(experiment, choice.mix.excluded_origins),
        test_labels=experiment.test.labels,
        classes=experiment.train.classes,
        num_generators=count,
        choice=choice,
        training=TrainingSummary(experiment.trained, recipe.updates, recipe.batch_size, count, **job.environment),
        encoder=experiment.encoder_name if any(arm.learner != "network" for arm in experiment.arms) else None,
        missing=_missing(experiment),
        fewer_images=fewer_images,
    )


def _usable_counts(experiment: Experiment, excluded_origins: Sequence[str]) -> dict[str, int] | None:
    """Images per class of the first pool without those of some origins; None if there is no pool."""
    if not experiment.pools:
        return None
    pool = experiment.pools[0]
    usable = ~np.isin(pool.origins or [""] * len(pool), list(excluded_origins))
    return count_by_name(pool.labels[usable], pool.classes)


def _missing(experiment: Experiment) -> list[Missing]:
    """What would add an arm; nothing where the training is the user's own."""
    if runs_here(experiment.classifier, experiment.train_fn):
        return []
    lacking: dict[Missing, bool] = {
        "encoder": experiment.encoder is None and experiment.classifier is None,
        "unlabeled images": experiment.unlabeled is None,
    }
    return [name for name, lacks in lacking.items() if lacks]


def _inputs(catalog: Catalog, pool: Pool | None) -> dict[str, str]:
    return {"catalog": catalog.fingerprint, "pool": "" if pool is None else pool_fingerprint(pool)}


def _further(pools: Sequence[Pool]) -> dict[str, Any]:
    hashes = [pool_fingerprint(pool) for pool in pools[1:]]
    return {FURTHER_POOLS: hashes} if hashes else {}


def _say_what_is_left(job: Job, pools: Sequence[Pool]) -> None:
    """What a further command would add."""
    study = shlex.quote(str(job.study.path))
    if not any(map(len, pools)):
        job.narrator.say(f"only real images were compared. {why_no_images(job, pools[0] if pools else None)}")
    if job.config.evaluation.quick:
        still = " --no-quick" if job.resolved.origins.get("evaluation.quick") == "environment" else ""
        job.narrator.say(f"this is a first answer; the full one: diffaug evaluate {study}{still}")
