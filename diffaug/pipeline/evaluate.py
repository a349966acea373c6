"""The stage that trains classifiers with and without the pool and says what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffaug import storage
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.diffusion.artifact import Generator
from diffaug.errors import DataError, Interrupted, UsageError
from diffaug.evaluation.arms import ARMS
from diffaug.evaluation.dose import DoseChoice, choose_dose
from diffaug.evaluation.experiment import Experiment, TrainFunction, run_experiment
from diffaug.evaluation.leakage import Leak, near_copies, require_unseen, same_pixels
from diffaug.evaluation.summary import EvaluationResult, summarize
from diffaug.evaluation.synthetic import SyntheticPool, unfiltered_pool
from diffaug.evaluation.training import Classifier, classifier_of
from diffaug.evaluation.trials import Trial
from diffaug.pipeline.evaluation_log import RESULT, log_result, log_trial
from diffaug.pipeline.job import Job
from diffaug.pipeline.replicates import Replicate
from diffaug.pipeline.signals import stop_requests
from diffaug.settings import ARM_ROLES, EvaluationSettings
from diffaug.study import StageState, begin_stage, finish_stage, is_stage_of
from diffaug.synthesis.chunks import ChunkStore
from diffaug.synthesis.encoder import ClassifierEncoder
from diffaug.synthesis.pool import MANIFEST

LEAKS = "leaked.json"


def evaluate_pools(
    job: Job,
    catalog: Catalog,
    replicates: Sequence[Replicate],
    *,
    classifier: Classifier | None = None,
    train_fn: TrainFunction | None = None,
) -> EvaluationResult:
    """Runs the study's experiment, goes on with one that was stopped, or reads the finished one.

    Args:
        job: The job.
        catalog: Its images.
        replicates: Generators with their pools, the study's own first.
        classifier: What is trained; none: what the settings say.
        train_fn: What is called to train and predict instead.

    Raises:
        DataError: The test split lacks a class, or the generator has seen test images.
        UsageError: The experiment was begun with other settings.
        Interrupted: A stop was asked for; what is finished is on disk.
    """
    folder, settings = job.study.evaluation, job.config.evaluation
    stored = {"seed": job.config.seed, **settings.model_dump(mode="json", exclude={"workers"})}
    trained = classifier.name if classifier else getattr(train_fn, "__qualname__", settings.classifier)
    stored["trained"] = trained
    inputs = _inputs(catalog, replicates)
    if is_stage_of(folder, stored, inputs) and storage.committed_facts(folder) is not None:
        job.narrator.say(f"evaluation: finished already, kept ({folder})")
        return EvaluationResult.from_dict(storage.read_json(folder / RESULT))
    require_test_images(catalog)
    leaks = _leaks(job, catalog, replicates)  # before the stage begins: a refusal must leave the settings free
    test = require_unseen(catalog.images("test"), leaks, drop=settings.drop_leaked)
    state = begin_stage(folder, stored, inputs, overwrite=job.overwrite)
    _tell_leaks(job, leaks)
    if settings.classifier == "features" and classifier is None and train_fn is None:
        classifier = _on_features(job, catalog)
    with (
        stop_requests() as stop,
        _experiment(
            job, catalog, test, replicates, settings, classifier=classifier, train_fn=train_fn, stop_requested=stop
        ) as experiment,
    ):
        choice, trials = _train_all(job, experiment, state)
        recipe = experiment.recipe
    result = summarize(
        trials,
        roles={arm: ARM_ROLES[arm] for arm in settings.compared_arms},
        train_counts=catalog.images("train").counts_by_name,
        synthetic_counts=replicates[0].pool.images().counts_by_name,
        test_labels=test.labels,
        classes=catalog.classes,
        dose=choice.to_dict(),
        training={
            "classifier": classifier.name if classifier else trained,
            "updates": recipe.updates,
            "batch_size": recipe.batch_size,
            "generators": len(replicates),
        },
    )
    storage.write_json(folder / RESULT, result.to_dict())
    finish_stage(folder)
    log_result(job, result)
    return result


def _train_all(job: Job, experiment: Experiment, state: StageState) -> tuple[DoseChoice, list[Trial]]:
    """The choice of the dose, then every arm with every seed, narrated and logged."""
    total = len(experiment.arms) * experiment.settings.repetitions
    trials: list[Trial] = []
    try:
        choice = choose_dose(experiment, lambda done, total: job.narrator.progress("choosing the dose", done, total))
        _say_choice(job, choice)
        for trial in run_experiment(experiment, choice):
            trials.append(trial)
            log_trial(job, state, trial, experiment.train.classes, choice)
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


def read_evaluation(job: Job, catalog: Catalog, replicates: Sequence[Replicate]) -> EvaluationResult:
    """The finished evaluation of these images and these pools; nothing is trained.

    Raises:
        UsageError: There is none, or the images or a pool changed since.
    """
    folder, fix = job.study.evaluation, f"diffaug evaluate {job.study.path}"
    facts = storage.committed_facts(folder)
    if facts is None:
        raise UsageError("there is no finished evaluation", where=folder, fix=fix)
    if facts["inputs"] != _inputs(catalog, replicates):
        raise UsageError("the images or the pool changed since they were evaluated", where=folder, fix=fix)
    return EvaluationResult.from_dict(storage.read_json(folder / RESULT))


def _inputs(catalog: Catalog, replicates: Sequence[Replicate]) -> dict[str, str]:
    pools = [storage.sha256_file(replicate.pool.root / MANIFEST) for replicate in replicates]
    more = {f"pool {number}": sha256 for number, sha256 in enumerate(pools) if number}
    return {"catalog": catalog.fingerprint, "pool": pools[0], **more}


def _experiment(
    job: Job,
    catalog: Catalog,
    test: LabeledImages,
    replicates: Sequence[Replicate],
    settings: EvaluationSettings,
    **trained: Any,
) -> Experiment:
    wants_unfiltered = any(ARMS[arm].synthetic == "unfiltered" for arm in settings.compared_arms)
    return Experiment(
        train=catalog.images("train"),
        test=test,
        pools=[SyntheticPool.of(replicate.pool) for replicate in replicates],
        settings=settings,
        seed=job.config.seed,
        device=job.device,
        directory=job.study.evaluation,
        units=catalog.units("train"),
        unfiltered=[
            unfiltered_pool(_chunks(replicate), replicate.pool) for replicate in replicates if wants_unfiltered
        ],
        **trained,
    )


def _on_features(job: Job, catalog: Catalog) -> Classifier:
    """Logistic regression on what a classifier of the real training images sees.

    The encoder has seen the parts of them on which the dose is chosen, with their labels, as the generator has.
    """
    job.narrator.say("training an encoder on the real training images ...")
    encoder = ClassifierEncoder.fit(
        catalog.images("train"), seed=job.config.seed, purpose="evaluation features", device=job.device
    )
    return classifier_of(job.config.evaluation, encoder)


def _chunks(replicate: Replicate) -> ChunkStore:
    """What the pool was put together from."""
    facts = storage.committed_facts(replicate.pool.root) or {}
    return ChunkStore(replicate.study.chunks / str(facts.get("chunks")))


def _leaks(job: Job, catalog: Catalog, replicates: Sequence[Replicate]) -> list[Leak]:
    """The test images that a generator or the filters have seen."""
    test, train = catalog.images("test"), catalog.images("train")
    leaks = near_copies(test, train, catalog.units("train"), device=job.device)
    hashes = [item.pixel_sha256 for item in catalog.items("test")]
    for replicate in replicates:
        rows = Generator.load(replicate.study.generator, device="cpu").rows()
        leaks += [] if rows is None else same_pixels(test.ids, hashes, rows)
    return leaks


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
