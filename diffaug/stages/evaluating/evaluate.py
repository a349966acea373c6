"""The stage that trains classifiers with and without the pool and says what came of it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import Any

from diffaug.classifiers.encoders import ClassifierEncoder
from diffaug.classifiers.training import Classifier, classifier_of, identity_of
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.errors import DataError, Interrupted, UsageError
from diffaug.evaluation.experiment.arms import ARMS, Dose
from diffaug.evaluation.experiment.dose import DoseChoice, choose_dose
from diffaug.evaluation.experiment.experiment import Experiment, TrainFunction, run_experiment
from diffaug.evaluation.experiment.leakage import Leak, near_copies, require_unseen, same_pixels
from diffaug.evaluation.experiment.synthetic import SyntheticPool, unfiltered_pool
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.verdict.result import EvaluationResult, summarize
from diffaug.files import storage
from diffaug.stages.evaluating.log import RESULT, Provenance, log_result, log_trial
from diffaug.stages.evaluating.replicates import Replicate, open_replicates, prepare_replicates, replicates_exist
from diffaug.stages.job import Job
from diffaug.stages.signals import stop_requests
from diffaug.study import begin_stage, finish_stage, is_stage_of, require_same_settings
from diffaug.synthesis.pool.chunks import ChunkStore
from diffaug.synthesis.pool.pool import MANIFEST, Pool

LEAKS = "leaked.json"
FURTHER_POOLS = "further_pools"


def evaluate_study(
    job: Job, catalog: Catalog, *, classifier: Classifier | None = None, train_fn: TrainFunction | None = None
) -> EvaluationResult:
    """Runs the study's experiment, goes on with one that was stopped, or reads the finished one.

    Everything that could be refused is looked at before a further generator is trained or an older result replaced.

    Args:
        job: The job.
        catalog: Its images.
        classifier: What is trained; none: what the settings say.
        train_fn: What is called to train and predict instead.

    Raises:
        DataError: The test split lacks a class, or the generator has seen test images.
        UsageError: There is no pool, no such classifier, or the experiment was begun with other settings.
        Interrupted: A stop was asked for; what is finished is on disk.
    """
    folder, stored = job.study.evaluation, _stored(job, classifier, train_fn)
    if _is_finished(job, catalog, stored):
        job.narrator.say(f"evaluation: finished already, kept ({folder})")
        return EvaluationResult.from_dict(storage.read_json(folder / RESULT))
    _require_same_settings(job, _inputs(catalog, Pool.open(job.study.pool)), stored)
    require_test_images(catalog)
    leaks = seen_test_images(job, catalog)
    test = require_unseen(catalog.images("test"), leaks, drop=job.config.evaluation.drop_leaked)
    if classifier is None and train_fn is None:
        classifier = _named_classifier(job, catalog)
    replicates = prepare_replicates(job, catalog)
    begin_stage(
        folder, {**stored, **_further(replicates)}, _inputs(catalog, replicates[0].pool), overwrite=job.overwrite
    )
    _tell_leaks(job, leaks)
    with (
        stop_requests() as stop,
        _experiment(
            job, catalog, test, replicates, classifier=classifier, train_fn=train_fn, stop_requested=stop
        ) as experiment,
    ):
        provenance = Provenance.of(experiment, replicates, stored["trained"])
        choice, trials = _train_all(job, experiment, provenance)
        result = _summarize(job, experiment, choice, trials, replicates, trained=stored["trained"])
    storage.write_json(folder / RESULT, result.to_dict())
    log_result(job, result, trials)
    finish_stage(folder)
    return result


def _stored(job: Job, classifier: Classifier | None, train_fn: TrainFunction | None) -> dict[str, Any]:
    """What the outcome depends on, beside images and pools."""
    settings = job.config.evaluation
    trained = classifier.name if classifier else identity_of(train_fn) if train_fn else settings.classifier
    return {"seed": job.config.seed, **settings.model_dump(mode="json", exclude={"workers"}), "trained": trained}


def _require_same_settings(job: Job, inputs: dict[str, str], stored: dict[str, Any]) -> None:
    """Raises UsageError where a finished evaluation would be replaced unasked."""
    folder = job.study.evaluation
    facts = None if job.overwrite else storage.committed_facts(folder)
    if facts and facts["inputs"] == inputs:
        before = {name: value for name, value in facts["settings"].items() if name != FURTHER_POOLS}
        require_same_settings(folder, before, stored)


def _is_finished(job: Job, catalog: Catalog, stored: dict[str, Any]) -> bool:
    if storage.committed_facts(job.study.evaluation) is None or not replicates_exist(job):
        return False
    replicates = open_replicates(job)
    return is_stage_of(job.study.evaluation, {**stored, **_further(replicates)}, _inputs(catalog, replicates[0].pool))


def _named_classifier(job: Job, catalog: Catalog) -> Classifier | None:
    """The classifier that needs this process; none where workers make it, by the name that is known to be right."""
    settings = job.config.evaluation
    if settings.classifier != "features":
        classifier_of(settings)
        return None
    job.narrator.say("training an encoder on the real training images ...")
    return classifier_of(
        settings,
        ClassifierEncoder.fit(
            catalog.images("train"), seed=job.config.seed, purpose="evaluation features", device=job.device
        ),
    )


def _summarize(
    job: Job,
    experiment: Experiment,
    choice: DoseChoice,
    trials: list[Trial],
    replicates: Sequence[Replicate],
    *,
    trained: str,
) -> EvaluationResult:
    recipe = experiment.recipe
    return summarize(
        trials,
        roles={arm.name: arm.role for arm in experiment.arms},
        train_counts=experiment.train.counts_by_name,
        synthetic_counts=replicates[0].pool.images().counts_by_name,
        test_labels=experiment.test.labels,
        classes=experiment.train.classes,
        dose=choice.to_dict(),
        training={
            "classifier": experiment.classifier.name if experiment.classifier else trained,
            "updates": recipe.updates,
            "batch_size": recipe.batch_size,
            "generators": len(replicates),
            **job.environment,
        },
    )


def _train_all(job: Job, experiment: Experiment, provenance: Provenance) -> tuple[DoseChoice, list[Trial]]:
    """The choice of the dose, then every arm with every seed, narrated and logged."""
    total = len(experiment.arms) * experiment.settings.repetitions
    trials: list[Trial] = []
    try:
        choice = choose_dose(experiment, lambda done, total: job.narrator.progress("choosing the dose", done, total))
        _say_choice(job, choice)
        for trial in run_experiment(experiment, choice):
            trials.append(trial)
            log_trial(job, trial, choice, provenance)
            job.narrator.progress("evaluating", len(trials), total, f"{trial.arm}, seed {trial.seed}")
    except Interrupted as stop:
        raise Interrupted(stop.what, where=experiment.directory, fix=f"go on with: {job.command}") from stop
    return choice, trials


def require_test_images(catalog: Catalog) -> None:
    """Raises DataError when a class has no test image, since nothing could be said about it."""
    missing = [name for name, count in catalog.images("test").counts_by_name.items() if not count]
    if missing:
        raise DataError(
            f"no test image of: {', '.join(missing)}",
            where=catalog.root,
            fix="add test images of these classes, or remove the test split so that diffaug holds some back",
        )


def require_evaluable(job: Job, catalog: Catalog) -> None:
    """Raises, before a generator is trained for hours, what `evaluate` would raise after it."""
    require_test_images(catalog)
    settings = job.config.evaluation
    if settings.classifier != "features":  # which needs the training images' encoder
        classifier_of(settings)
    if storage.committed_facts(job.study.generator) is None:
        require_unseen(catalog.images("test"), _near_copies(job, catalog), drop=settings.drop_leaked)


def read_evaluation(job: Job, catalog: Catalog, pool: Pool) -> EvaluationResult:
    """The finished evaluation of these images and this pool; nothing is trained.

    Raises:
        UsageError: There is none, or the images or the pool changed since.
    """
    folder, fix = job.study.evaluation, f"diffaug evaluate {shlex.quote(str(job.study.path))}"
    facts = storage.committed_facts(folder)
    if facts is None:
        raise UsageError("there is no finished evaluation", where=folder, fix=fix)
    if facts["inputs"] != _inputs(catalog, pool):
        raise UsageError("the images or the pool changed since they were evaluated", where=folder, fix=fix)
    return EvaluationResult.from_dict(storage.read_json(folder / RESULT))


def seen_test_images(job: Job, catalog: Catalog) -> list[Leak]:
    """The test images that the study's generator or filters have seen."""
    leaks, items = _near_copies(job, catalog), catalog.items("test")
    rows = Generator.load(job.study.generator, device="cpu").rows()
    if rows is not None:
        leaks += same_pixels([item.path for item in items], [item.pixel_sha256 for item in items], rows)
    return leaks


def _near_copies(job: Job, catalog: Catalog) -> list[Leak]:
    test, train = catalog.images("test"), catalog.images("train")
    return near_copies(test, train, catalog.groups("train"), device=job.device)


def _inputs(catalog: Catalog, pool: Pool) -> dict[str, str]:
    return {"catalog": catalog.fingerprint, "pool": storage.sha256_file(pool.root / MANIFEST)}


def _further(replicates: Sequence[Replicate]) -> dict[str, Any]:
    """Pools of further generators, which are among the settings: another number of them is the user's decision."""
    pools = [storage.sha256_file(replicate.pool.root / MANIFEST) for replicate in replicates[1:]]
    return {FURTHER_POOLS: pools} if pools else {}


def _experiment(
    job: Job, catalog: Catalog, test: LabeledImages, replicates: Sequence[Replicate], **trained: Any
) -> Experiment:
    settings = job.config.evaluation
    wants_unfiltered = any(ARMS[arm].synthetic == "unfiltered" for arm in settings.compared_arms)
    return Experiment(
        train=catalog.images("train"),
        test=test,
        pools=[SyntheticPool.of(replicate.pool) for replicate in replicates],
        settings=settings,
        seed=job.config.seed,
        device=job.device,
        directory=job.study.evaluation,
        groups=catalog.groups("train"),
        unfiltered=[
            unfiltered_pool(_chunks(replicate), replicate.pool) for replicate in replicates if wants_unfiltered
        ],
        **trained,
    )


def _chunks(replicate: Replicate) -> ChunkStore:
    """What the pool was put together from."""
    facts = storage.committed_facts(replicate.pool.root) or {}
    return ChunkStore(replicate.study.chunks / str(facts.get("chunks")))


def _tell_leaks(job: Job, leaks: Sequence[Leak]) -> None:
    if leaks:
        named = {leak.test_id: {"shows": leak.seen_id, "how": leak.how} for leak in leaks}
        storage.write_json(job.study.evaluation / LEAKS, named)
        job.narrator.warn(
            f"{len(named)} test images were seen in training and are left out: {job.study.evaluation / LEAKS}"
        )


def _say_choice(job: Job, choice: DoseChoice) -> None:
    measured = [f"{one.arm} {one.mean:.3f}" for one in choice.real]
    if measured:
        job.narrator.say(f"on parts of the training images: {', '.join(measured)}; builds on '{choice.base}'")
    doses = [f"{one.dose.share:.0%} {one.mean:.3f}" for one in choice.curve]
    if doses:
        job.narrator.say(f"synthetic share of a batch: {', '.join(doses)}; takes {choice.dose.share:.0%}")
    for one in choice.finer:
        taken = "which is taken" if one.dose == choice.dose else "which is no better"
        job.narrator.say(f"{_finer_in_words(one.dose)}: {one.mean:.3f}, {taken}")


def _finer_in_words(dose: Dose) -> str:
    if dose.without:
        return f"without synthetic images of {', '.join(dose.without)}"
    most = f", at most {dose.max_ratio:g} of a class for each real one" if math.isfinite(dose.max_ratio) else ""
    return f"{dose.share:.0%} at a loss weight of {dose.weight:g}{most}"
