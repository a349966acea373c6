"""The stage that trains classifiers with and without the pool and summarizes the results."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from diffaug.classifiers.by_name import classifier_by_name
from diffaug.classifiers.encoders import ClassifierEncoder
from diffaug.classifiers.identity import identity_of
from diffaug.classifiers.training_set import Classifier
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.errors import Interrupted, UsageError
from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.choose_mix import FOLDER as MIX
from diffaug.evaluation.experiment.choose_mix import choose_mix
from diffaug.evaluation.experiment.experiment import Experiment, require_trainable, run_experiment
from diffaug.evaluation.experiment.leakage import require_unseen
from diffaug.evaluation.experiment.mix import MixChoice, SyntheticMix
from diffaug.evaluation.experiment.synthetic_pools import SyntheticPool, unfiltered_pool
from diffaug.evaluation.experiment.training_task import TrainFunction
from diffaug.evaluation.experiment.trials import FOLDER as TRIALS
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.verdict.result import EvaluationResult, TrainingSummary, summarize
from diffaug.files import storage
from diffaug.files.stage_records import (
    begin_extendable_stage,
    finish_stage,
    is_finished,
    is_stage_of,
    require_extension,
)
from diffaug.stages.evaluating.checks import report_leaks, require_test_images, seen_test_images
from diffaug.stages.evaluating.log import RESULT, log_result, log_trial
from diffaug.stages.evaluating.replicates import finished_pools, prepare_replicates
from diffaug.stages.job import Job
from diffaug.stages.signals import stop_requests
from diffaug.study import Study
from diffaug.synthesis.pool.chunks import ChunkStore
from diffaug.synthesis.pool.pool import MANIFEST, Pool

FURTHER_POOLS = "further_pools"
EXTENDABLE = ("thorough", "arms", "num_seeds", "num_generators", FURTHER_POOLS)
"""Settings of an evaluation that only add or remove trainings: finished ones stay valid."""


def evaluate_study(
    job: Job, catalog: Catalog, *, classifier: Classifier | None = None, train_fn: TrainFunction | None = None
) -> EvaluationResult:
    """Runs the study's experiment, continues one that was stopped or extended, or reads the finished one.

    Everything that can be refused is checked before a further generator is trained or an older result is replaced. A
    `classifier` is trained instead of that of the settings, or `train_fn` called. When it is stopped, everything
    finished is on disk.
    """
    folder, stored = job.study.evaluation, _stored(job, classifier, train_fn)
    finished = finished_pools(job) if is_finished(folder, overwrite=job.overwrite) else []
    if finished and is_stage_of(folder, {**stored, **_further(finished)}, _inputs(catalog, finished[0])):
        job.accept()
        job.narrator.say(f"evaluation: already finished, kept ({folder})")
        return EvaluationResult.load(folder / RESULT)
    if not job.overwrite:
        require_extension(folder, stored, _inputs(catalog, Pool.open(job.study.pool).root), EXTENDABLE)
    require_trainable(job.config.evaluation, classifier, train_fn)
    require_test_images(catalog)
    leaks = seen_test_images(job, catalog)
    test = require_unseen(catalog.images("test"), leaks, drop=job.config.evaluation.drop_leaked)
    if classifier is None and train_fn is None:
        classifier = _classifier_of_settings(job, catalog)
    pools = prepare_replicates(job, catalog)
    roots = [pool.root for pool in pools]
    begin_extendable_stage(
        folder,
        {**stored, **_further(roots)},
        _inputs(catalog, roots[0]),
        extendable=EXTENDABLE,
        keep=(TRIALS, MIX),
        overwrite=job.overwrite,
    )
    job.accept()
    report_leaks(job, leaks)
    with stop_requests() as stop:
        trained = {"classifier": classifier, "train_fn": train_fn}
        experiment = _experiment(job, catalog, test, pools, **trained, stop_requested=stop)
        choice, trials = _train_all(job, experiment, pools)
        result = _summarize(job, experiment, choice, trials, pools)
    result.save(folder / RESULT)
    log_result(job, result, trials)
    finish_stage(folder)
    return result


def read_evaluation(job: Job, catalog: Catalog, pool: Pool) -> EvaluationResult:
    """The finished evaluation; a UsageError if there is none, or the images or the pool changed since."""
    folder, fix = job.study.evaluation, f"diffaug evaluate {shlex.quote(str(job.study.path))}"
    record = storage.committed_metadata(folder)
    if record is None:
        raise UsageError("there is no finished evaluation", where=folder, fix=fix)
    if record["inputs"] != _inputs(catalog, pool.root):
        raise UsageError("the images or the pool changed since the evaluation", where=folder, fix=fix)
    return EvaluationResult.load(folder / RESULT)


def _stored(job: Job, classifier: Classifier | None, train_fn: TrainFunction | None) -> dict[str, Any]:
    """What the result depends on, except images and pools."""
    settings = job.config.evaluation
    trained = classifier.name if classifier else identity_of(train_fn) if train_fn else settings.classifier
    return {
        "seed": job.config.seed,
        **settings.model_dump(mode="json", exclude={"workers"}),
        "synthetic_fraction_grid": list(job.config.advanced.synthetic_fraction_grid),
        "trained": trained,
    }


def _classifier_of_settings(job: Job, catalog: Catalog) -> Classifier:
    settings = job.config.evaluation
    if settings.classifier != "features":
        return classifier_by_name(settings)
    job.narrator.say("training an encoder on the real training images ...")
    train, seed = catalog.images("train"), job.config.seed
    encoder = ClassifierEncoder.fit(train, seed=seed, purpose="evaluation features", device=job.device)
    return classifier_by_name(settings, encoder)


def _experiment(job: Job, catalog: Catalog, test: LabeledImages, pools: Sequence[Pool], **trained: Any) -> Experiment:
    settings = job.config.evaluation
    unfiltered = []
    if any(ARMS[arm].synthetic == "unfiltered" for arm in settings.compared_arms):
        for pool in pools:
            chunks = Study(pool.root.parent).chunks / str((storage.committed_metadata(pool.root) or {}).get("chunks"))
            unfiltered.append(unfiltered_pool(ChunkStore(chunks), pool))
    return Experiment(
        train=catalog.images("train"),
        test=test,
        pools=list(map(SyntheticPool.of, pools)),
        settings=settings,
        seed=job.config.seed,
        device=job.device,
        directory=job.study.evaluation,
        groups=catalog.groups("train"),
        unfiltered=unfiltered,
        **trained,
    )


def _train_all(job: Job, experiment: Experiment, pools: Sequence[Pool]) -> tuple[MixChoice, list[Trial]]:
    """Chooses the mix, then trains every arm with every seed; reports and logs both."""
    total = len(experiment.arms) * experiment.settings.repetitions
    grid, trials = job.config.advanced.synthetic_fraction_grid, []
    try:
        choice = choose_mix(experiment, grid, partial(job.narrator.progress, "choosing the synthetic mix"))
        _report_choice(job, choice)
        for trial in run_experiment(experiment, ARMS[choice.base], choice.mix):
            trials.append(trial)
            log_trial(job, trial, choice, experiment, pools)
            job.narrator.progress("evaluating", len(trials), total, f"{trial.arm}, seed {trial.seed}")
    except Interrupted as stop:
        raise Interrupted(stop.what, where=experiment.directory, fix=f"continue with: {job.command}") from stop
    return choice, trials


def _summarize(
    job: Job, experiment: Experiment, choice: MixChoice, trials: list[Trial], pools: Sequence[Pool]
) -> EvaluationResult:
    recipe, count = experiment.recipe, len(pools)
    return summarize(
        trials,
        roles={arm.name: arm.role for arm in experiment.arms},
        train_counts=experiment.train.counts_by_name,
        synthetic_counts=pools[0].counts_by_name,
        test_labels=experiment.test.labels,
        classes=experiment.train.classes,
        num_generators=count,
        mix=choice,
        training=TrainingSummary(experiment.trained, recipe.updates, recipe.batch_size, count, **job.environment),
    )


def _inputs(catalog: Catalog, pool: Path) -> dict[str, str]:
    return {"catalog": catalog.fingerprint, "pool": storage.sha256_file(pool / MANIFEST)}


def _further(pools: Sequence[Path]) -> dict[str, Any]:
    hashes = [storage.sha256_file(pool / MANIFEST) for pool in pools[1:]]
    return {FURTHER_POOLS: hashes} if hashes else {}


def _report_choice(job: Job, choice: MixChoice) -> None:
    baselines = [f"{one.arm} {one.mean:.3f}" for one in choice.baselines]
    if baselines:
        job.narrator.say(f"cross-validation: {', '.join(baselines)}; builds on '{choice.base}'")
    fractions = [f"{one.mix.fraction:.0%} {one.mean:.3f}" for one in choice.curve]
    if fractions:
        job.narrator.say(f"synthetic fraction: {', '.join(fractions)}; uses {choice.mix.fraction:.0%}")
    for one in choice.refinements:
        decision = "used" if one.mix == choice.mix else "no better"
        job.narrator.say(f"{_refinement(one.mix)}: {one.mean:.3f}, {decision}")


def _refinement(mix: SyntheticMix) -> str:
    if mix.excluded_classes:
        return f"without synthetic images of {', '.join(mix.excluded_classes)}"
    limit = "" if mix.max_per_real is None else f", at most {mix.max_per_real:g} per real image of a class"
    return f"{mix.fraction:.0%} with loss weight {mix.loss_weight:g}{limit}"
