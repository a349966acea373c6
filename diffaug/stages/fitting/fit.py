"""The stage that trains the generator: first the pilot, which chooses the length, then the generator on all images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from diffaug.data.catalog import TABLE, Catalog
from diffaug.data.images import hash_of
from diffaug.diffusion.generator.files import read_record
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.planning.planning import PLAN, Plan, with_chosen_length
from diffaug.diffusion.training.batches import hold_out
from diffaug.diffusion.training.monitor import CheckSchedule
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.files.records import find_signed_record
from diffaug.files.stage_records import StageState, begin_stage, stage_record, stage_state
from diffaug.runtime.console import duration
from diffaug.runtime.distributed import current
from diffaug.stages.catalog import show_catalog
from diffaug.stages.fitting.pilot import repair_pilot, train_pilot
from diffaug.stages.fitting.plan import PLAN_FILE, generator_settings, plan_training, write_plan
from diffaug.stages.fitting.routes.by_name import route_by_name
from diffaug.stages.fitting.running import discard_progress, finish_training
from diffaug.stages.fitting.sources import stage_inputs
from diffaug.stages.fitting.work import Clock, Work
from diffaug.stages.former import discard_former, set_former_aside
from diffaug.stages.job import FIT_RUN, STUDY_RUN, Job
from diffaug.study import PILOT

NEWEST = "newest"


def fit_generator(job: Job, catalog: Catalog, *, finish: bool = False) -> Generator:
    """Trains the study's generator, resumes a training that was stopped, or loads the finished one.

    With `finish` the training in progress, the pilot's or the generator's, ends where it is.

    Raises:
        Interrupted: A stop was requested; a checkpoint was saved.
        UsageError: The study's generator was begun with other settings, or there is nothing to finish.
    """
    group, folder = current(), job.study.generator
    inputs = stage_inputs(job, catalog)
    settings = generator_settings(job.config)
    overwrite = job.overwrite or not job.study.keeps_something  # an attempt that kept nothing binds nobody
    with group.main_first():
        if overwrite and group.is_main:
            _discard_without_plan(folder)
        stage = stage_state(folder, settings, inputs, overwrite=overwrite)
    if stage == "finished":
        with group.main_first():
            job.accept()
            if group.is_main:
                discard_progress(folder)
        job.narrator.say(f"generator: already finished, kept ({folder})")
        if job.overwrite:
            repair_pilot(job, catalog)
    else:
        if finish and not (stage == "resumed" and job.study.has_training):
            raise UsageError("there is no unfinished training to finish", where=folder, fix="omit --finish to train")
        if stage == "new" and not overwrite:
            _tell_changes(job, inputs)
        show_catalog(job, catalog)
        plan = plan_training(job, catalog, renew=stage == "new")
        with group.main_first():  # from here on, the study has something to keep
            job.accept()
            if stage == "new" and group.is_main:
                set_former_aside(job.study)
            stage = begin_stage(folder, settings, inputs, overwrite=overwrite)
            if group.is_main:
                if plan.pilot is None:  # one of an earlier training would choose for this one
                    storage.discard_directory(job.study.path / PILOT)
                write_plan(job, plan)
                _start_log(job, catalog, plan, stage)
        clock = Clock()  # what was measured before is no training, and takes long where other work is heavy
        plan = _with_length(job, catalog, plan, clock, finish=finish)
        route_by_name(plan.route).train(_work(job, catalog, plan, clock, finish=finish))
        with group.main_first():
            if group.is_main:
                finish_training(folder)
                discard_former(job.study)
                job.narrator.say(f"trained in {duration(clock.seconds)}")
                job.narrator.say(f"generator written to {folder}")
    if group.is_main:
        _finish_log(job)
    return Generator.load(folder, device=job.device)


def _discard_without_plan(folder: Path) -> None:
    """Removes a training whose plan is damaged, which its checkpoints are of no use without."""
    try:
        find_signed_record(folder / PLAN_FILE, PLAN)
    except DamagedError:
        storage.discard_directory(folder)


def _tell_changes(job: Job, inputs: Mapping[str, str]) -> None:
    """Says what of the inputs of an earlier training has changed, if there is one."""
    begun = stage_record(job.study.generator)
    before = {} if begun is None else begun.inputs
    changed = [name for name in sorted({*before, *inputs}) if before.get(name) != inputs.get(name)]
    if before and changed:
        job.narrator.warn(f"the generator is trained anew, since these inputs changed: {', '.join(changed)}")


def _with_length(job: Job, catalog: Catalog, plan: Plan, clock: Clock, *, finish: bool) -> Plan:
    """The plan with the length that the pilot chooses, unless it has one or there is no pilot."""
    if plan.pilot is None:
        return plan
    if plan.length is None:
        job.narrator.say("training the pilot, to choose length and amount on images that it has not seen ...")
        length = train_pilot(job, catalog, plan, clock, finish=finish)
        if length is None:
            return plan
        plan = with_chosen_length(plan, length, len(catalog.labels("train")))
        said = f"pilot: {length.reason}; so training on all images takes {_length(plan)}"
        plan = replace(plan, reasons=(*plan.reasons, said))
        job.narrator.say(said)
        with current().main_first():
            if current().is_main:
                write_plan(job, plan)
                job.journal.log_params(FIT_RUN, {"images_seen": plan.images_seen})
    assert plan.length is not None
    clock.resume_at(plan.length.seconds)
    return plan


def _length(plan: Plan) -> str:
    assert plan.length is not None
    most = "the greatest length, " if plan.length.is_longest else ""
    return f"{most}{plan.images_seen} images seen"


def _work(job: Job, catalog: Catalog, plan: Plan, clock: Clock, *, finish: bool) -> Work:
    """The training on all images."""
    schedule = CheckSchedule.of(plan, len(catalog.rows("train")))
    # A single check, at the end, can't end the training, so nothing is held out for it.
    fraction = job.config.advanced.holdout if len(schedule.steps) > 1 else 0.0
    holdout = hold_out(catalog, fraction=fraction, seed=job.config.seed, unlabeled=plan.unlabeled is not None)
    return Work(job, catalog, holdout, plan, job.study.generator, clock, finish=finish)


def _start_log(job: Job, catalog: Catalog, plan: Plan, stage: StageState) -> None:
    params = {
        "route": plan.route,
        **({} if plan.pilot and plan.length is None else {"images_seen": plan.images_seen}),
        "batch_size": plan.batch_size,
        "learning_rate": plan.learning_rate,
        **({"base_channels": plan.unet.base_channels} if plan.unet else {}),
        "image_size": "x".join(map(str, plan.image_size)),
        "classes": len(catalog.classes),
        "pilot": plan.pilot is not None,
    }
    job.start_run(FIT_RUN, stage, name="fit", kind="fit", params=params)
    job.journal.log_params(STUDY_RUN, {name: params[name] for name in ("route", "image_size")})
    images = catalog.images("train")  # with those held out, as classifiers name them
    table, digest = job.study.catalog / TABLE, hash_of(images)
    job.journal.log_dataset(FIT_RUN, table, "train", "training", digest=digest, rows=len(images))


def _finish_log(job: Job) -> None:
    """Logs the finished generator as the run's model, once, and ends the run."""
    if job.journal.status(FIT_RUN) == "open":
        for file in ("config.json", "README.md", PLAN_FILE):
            job.journal.log_artifact(FIT_RUN, job.study.generator / file)
        images_seen = read_record(job.study.generator).training.get("images seen")
        job.journal.log_params(STUDY_RUN, {} if images_seen is None else {"images_seen": images_seen})
        name = job.config.tracking.model or f"diffaug-{job.study.name}"
        job.journal.log_model(FIT_RUN, job.study.generator, "generator", registered_name=name, alias=NEWEST)
        job.journal.end_run(FIT_RUN)
