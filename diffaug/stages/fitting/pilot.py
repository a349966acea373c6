"""The pilot: a generator trained without a part of the images, which chooses how long the generator is trained.

It is a study of its own inside the study.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning.length import LengthChoice
from diffaug.diffusion.planning.planning import PLAN, Plan, plan_of_pilot
from diffaug.diffusion.training.batches import Holdout, hold_out
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.files.records import find_signed_record, read_record
from diffaug.files.stage_records import begin_stage
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.judged import in_turn_by_class, judged_images
from diffaug.stages.fitting.measured_lengths import CHOICE, LENGTH
from diffaug.stages.fitting.plan import PLAN_FILE, generator_settings, read_plan
from diffaug.stages.fitting.routes.by_name import route_by_name
from diffaug.stages.fitting.running import discard_progress, finish_training
from diffaug.stages.fitting.sources import stage_inputs
from diffaug.stages.fitting.work import Clock, Work
from diffaug.stages.job import Job
from diffaug.stages.remedies import repair_record
from diffaug.study import PILOT, Study, plan_study

MOST_MEASURED = 512
"""Judged images that errors are measured on."""


def pilot_study(study: Study) -> Study:
    """The study of the pilot, inside a study; it has begun if there is a pilot."""
    path, record = study.path / PILOT, study.record
    repair_record(path, record.data, record.class_to_idx)  # which holds nothing of its own
    return plan_study(path, record.data, record.class_to_idx)


def require_pilot(study: Study) -> None:
    """Raises DamagedError if the pilot that chose for the generator of the study is gone."""
    plan = find_signed_record(study.generator / PLAN_FILE, PLAN)
    if plan is not None and plan.pilot is not None and not study.has_pilot:
        folder = study.path / PILOT / study.generator.name
        raise DamagedError("the pilot is gone", where=folder / storage.DONE, fix=storage.REPAIR_HINT)


def repair_pilot(job: Job, catalog: Catalog) -> None:
    """Trains the pilot of a finished generator again if it is damaged or gone."""
    folder, plan = job.study.path / PILOT / job.study.generator.name, read_plan(job.study.generator)
    if plan.pilot is not None and (storage.is_damaged(folder) or not job.study.has_pilot):
        train_pilot(job, catalog, plan, Clock())


def train_pilot(job: Job, catalog: Catalog, plan: Plan, clock: Clock, *, finish: bool = False) -> LengthChoice | None:
    """Trains the pilot of a plan, resumes it, or reads the finished one.

    All processes take part and get the same answer. With `finish` a pilot that was begun ends where it is.

    Returns:
        The length that it chose; None if pilots of this route choose none.

    Raises:
        Interrupted: A stop was requested; a checkpoint was saved.
    """
    group, judged = current(), judged_images(catalog, job.config.seed)
    rest, study = catalog.without(judged), pilot_study(job.study)
    folder = study.generator
    settings, inputs = generator_settings(job.config), {**stage_inputs(job, catalog), "catalog": rest.fingerprint}
    with group.main_first():
        if group.is_main:
            study.begin()
        stage = begin_stage(folder, settings, inputs, overwrite=job.overwrite)
    if stage != "finished":
        holdout = _holdout(job, rest, catalog.images("train").select(np.flatnonzero(judged)), plan)
        own, after = plan_of_pilot(plan), plan.images_seen
        work = Work(job, rest, holdout, own, folder, clock, title=PILOT, finish=finish, images_after=after)
        route_by_name(plan.route).train(work)
        with group.main_first():
            if group.is_main:
                finish_training(folder)
    elif group.is_main:
        discard_progress(folder)
    return read_record(folder / LENGTH, CHOICE) if (folder / LENGTH).is_file() else None


def _holdout(job: Job, catalog: Catalog, judged: LabeledImages, plan: Plan) -> Holdout:
    """All images of the pilot are trained on; the judged ones are measured on."""
    everything = hold_out(catalog, fraction=0.0, seed=job.config.seed, unlabeled=plan.unlabeled is not None)
    return replace(everything, held=judged.select(in_turn_by_class(judged.labels, job.config.seed)[:MOST_MEASURED]))
