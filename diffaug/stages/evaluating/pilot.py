"""Pools of further generators: the pilot's, from which the mix is chosen, and those of other seeds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.generator import Generator
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.files.stage_records import stage_record, stage_settings
from diffaug.runtime.console import ProgressOnly
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.fit import fit_generator
from diffaug.stages.fitting.judged import judged_images
from diffaug.stages.fitting.pilot import pilot_study, require_pilot
from diffaug.stages.fitting.plan import read_plan
from diffaug.stages.generating.describe_power import tell_power_of_pilot
from diffaug.stages.generating.generate import generate_pool
from diffaug.stages.job import Job
from diffaug.stages.remedies import repair_record
from diffaug.study import Study, plan_study
from diffaug.synthesis.pool.pool import Pool
from diffaug.tracking.journal import Journal

MOST_PER_CLASS = 400
"""More images of a class hardly change how a classifier does that is trained for a choice. Set by hand."""

FOLDER = "replicates"


@dataclass(frozen=True)
class PilotPool:
    """Synthetic images of a generator that was trained without the judged images.

    Attributes:
        pool: Its pool; `nearest` and `source` of the manifest never name a judged image.
        judged: Training images that the pilot, its filters and its pool never saw, bool (N,) over the train split.
            False throughout a class that is too small to part, which can't be judged.
    """

    pool: Pool
    judged: NDArray[np.bool_]


def pilot_pool(job: Job, catalog: Catalog) -> PilotPool | None:
    """The pilot's pool, generated and filtered unless that was done before; None if the study has no pilot.

    All images have the classes, the form and the ids of `catalog`. Choose with classifiers that are trained on the
    training images that are not judged, and tested on those that are.
    """
    require_pilot(job.study)
    if not job.study.has_pilot:
        return None
    study = pilot_study(job.study)
    trained_on = stage_record(study.generator)
    if trained_on is None:
        return None
    judged = judged_images(catalog, trained_on.settings["seed"])  # an evaluation may have another seed
    rest = catalog.without(judged)
    if trained_on.inputs["catalog"] != rest.fingerprint:
        return None
    job.narrator.say("generating images of the pilot, to choose the amount of synthetic images ...")
    further = _job_of_pilot(job, catalog, rest)
    generator = Generator.load(study.generator, device=job.device)
    pool = generate_pool(further, rest, generator, audited=False)
    if pool.power is not None:
        tell_power_of_pilot(job, pool.power)
    return PilotPool(pool, judged)


def _job_of_pilot(job: Job, catalog: Catalog, rest: Catalog) -> Job:
    """A job in the pilot's study that generates as many images of each class as the pool has, in proportion.

    It warns of nothing, since its commands are not for the user.
    """
    made, all_images = Pool.open(job.study.pool).counts_by_name, catalog.counts_by_name("train")
    totals = {
        name: count + min(MOST_PER_CLASS, math.ceil(made[name] * count / all_images[name]))
        for name, count in rest.counts_by_name("train").items()
    }
    return replace(_job_in(pilot_study(job.study), job, totals), narrator=ProgressOnly(job.narrator))


def _job_in(study: Study, job: Job, totals: Mapping[str, int], **changes: Mapping[str, Any]) -> Job:
    """The job in an inner study, with so many images of each class; it replaces stale stages and tells no tracker."""
    changes |= {"synthesis": {"sampling_strategy": totals, "max_synthetic_ratio": None}, "tracking": {"mlflow": False}}
    sections = {name: getattr(job.config, name).model_copy(update=update) for name, update in changes.items()}
    resolved = replace(job.resolved, config=job.config.model_copy(update=sections))
    return replace(job, study=study, resolved=resolved, journal=Journal(study.journal), lasting=None, overwrite=True)


def prepare_replicates(job: Job, catalog: Catalog) -> list[Pool]:
    """The study's own pool, then those of further generators, which are trained and filled if they are not finished.

    All are trained as the first one was planned, on the same images, and generate as many images of each class.
    `evaluation.num_generators` sets their number. A UsageError if the study has no pool that can be repeated.
    """
    own = Pool.open(job.study.pool)
    numbers = range(1, job.config.evaluation.generator_count)
    if numbers and stage_settings(own.root).get("encoder"):
        raise UsageError(
            "the pool was filtered with an encoder given in Python, which further generators cannot use",
            where=own.root,
            fix="--set evaluation.num_generators=1",
        )
    pools = [own]
    for number in numbers:
        with current().main_first():
            further = _job_of_replicate(job, catalog, own, number)
        job.narrator.say(f"generator {number + 1}:")
        pools.append(generate_pool(further, catalog, fit_generator(further, catalog)))
    return pools


def prepare_together(job: Job, catalog: Catalog) -> None:
    """Lets all processes started together train the further generators; the main one then evaluates alone."""
    if current().size > 1 and job.config.evaluation.generator_count > 1:
        prepare_replicates(job, catalog)


def finished_pools(job: Job) -> list[Path]:
    """The pools of all generators, or none if one of them is missing or damaged."""
    numbers = range(1, job.config.evaluation.generator_count)
    pools = [job.study.pool, *(_study(job, number).pool for number in numbers)]
    return pools if all(_whole(pool) is not None for pool in pools) else []


def planned_settings(job: Job) -> dict[str, Any]:
    """The `diffusion` settings with which another training gets the same plan as the generator, at any speed."""
    plan = read_plan(job.study.generator)
    return {
        "images_seen": plan.images_seen,
        "preset": plan.preset,
        "batch_size": plan.batch_size,
        "precision": plan.precision,
        "compile": plan.compiled,
    }


def share_catalog(study: Study, further: Study) -> None:
    """Gives a further study the catalog of the first one, unless it has it, whole."""
    if _whole(further.catalog) != storage.committed_metadata(study.catalog):
        storage.copy_directory(study.catalog, further.catalog)


def _whole(directory: Path) -> dict[str, Any] | None:
    """The metadata of a finished directory; None if it is damaged, so that it is made again."""
    try:
        return storage.committed_metadata(directory)
    except DamagedError:
        return None


def _job_of_replicate(job: Job, catalog: Catalog, pool: Pool, number: int) -> Job:
    """A job in a folder inside the study, with another seed."""
    path, class_to_idx = _study(job, number).path, job.study.record.class_to_idx
    repair_record(path, catalog.root, class_to_idx)  # which holds nothing of its own
    study = plan_study(path, catalog.root, class_to_idx)
    if current().is_main:
        study.begin()
        share_catalog(job.study, study)
    made, diffusion = pool.counts_by_name, {"minutes": None, **planned_settings(job)}
    totals = {name: count + made[name] for name, count in catalog.counts_by_name("train").items()}
    further = _job_in(study, job, totals, diffusion=diffusion, advanced={"pilot": False})
    config = further.config.model_copy(update={"seed": job.config.seed + number})
    return replace(further, resolved=replace(further.resolved, config=config))


def _study(job: Job, number: int) -> Study:
    return Study(job.study.path / FOLDER / str(number))
