"""Further generators of one study, with other seeds, so that the verdict does not depend on one of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from diffaug.data.catalog import Catalog
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.files.stage_records import stage_settings
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.fit import fit_generator
from diffaug.stages.fitting.plan import read_plan
from diffaug.stages.generating.generate import generate_pool
from diffaug.stages.job import Job
from diffaug.stages.remedies import repair_record
from diffaug.study import Study, plan_study
from diffaug.synthesis.pool.pool import Pool
from diffaug.tracking.journal import Journal

FOLDER = "replicates"


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
    if numbers and own.rejected_by_review:
        job.narrator.say("the pools of further generators are used as generated, since nobody reviewed them")
    pools = [own]
    for number in numbers:
        with current().main_first():
            further = _job(job, catalog, own, number)
        job.narrator.say(f"generator {number + 1}:")
        pools.append(generate_pool(further, catalog, fit_generator(further, catalog)))
    return pools


def prepare_together(job: Job, catalog: Catalog) -> None:
    """Lets all processes started together train the further generators; the main one then evaluates alone."""
    if current().size > 1 and job.config.evaluation.generator_count > 1:
        prepare_replicates(job, catalog)


def finished_pools(job: Job) -> list[Pool]:
    """The pools of all generators, or none if one of them is missing or damaged."""
    numbers = range(1, job.config.evaluation.generator_count)
    pools = [job.study.pool, *(_study(job, number).pool for number in numbers)]
    return [Pool.open(pool) for pool in pools] if all(_whole(pool) is not None for pool in pools) else []


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


def _job(job: Job, catalog: Catalog, pool: Pool, number: int) -> Job:
    """A job in a folder inside the study, with the next seed; it logs to no tracker and replaces stale stages."""
    path, class_to_idx = _study(job, number).path, job.study.record.class_to_idx
    repair_record(path, catalog.root, class_to_idx)  # which holds nothing of its own
    study = plan_study(path, catalog.root, class_to_idx)
    if current().is_main:
        study.begin()
        share_catalog(job.study, study)
    made = pool.whole.counts_by_name  # a review of the first pool asks for no other further ones
    totals = {name: count + made[name] for name, count in catalog.counts_by_name("train").items()}
    changes = {
        "diffusion": {"minutes": None, **planned_settings(job)},
        "synthesis": {"sampling_strategy": totals, "max_synthetic_ratio": None},
        "tracking": {"mlflow": False},
        "advanced": {"pilot": False},
    }
    sections = {name: getattr(job.config, name).model_copy(update=update) for name, update in changes.items()}
    config = job.config.model_copy(update={"seed": job.config.seed + number, **sections})
    resolved, journal = replace(job.resolved, config=config), Journal(study.journal)
    return replace(job, study=study, resolved=resolved, journal=journal, lasting=None, overwrite=True)


def _study(job: Job, number: int) -> Study:
    return Study(job.study.path / FOLDER / str(number))
