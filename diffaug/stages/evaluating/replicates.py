"""Further generators of one study, with other seeds, so that the verdict does not hang on one of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

from diffaug.data.catalog import Catalog
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.stages.evaluating.repeating import planned_settings
from diffaug.stages.fitting.fit import fit_generator
from diffaug.stages.generating.generate import generate_pool
from diffaug.stages.job import STUDY_RUN, Job
from diffaug.study import Study, open_or_create_study, stage_settings
from diffaug.synthesis.pool.pool import Pool
from diffaug.tracking.journal import Journal

FOLDER = "replicates"


@dataclass(frozen=True)
class Replicate:
    """A generator and its pool.

    Attributes:
        study: Where both lie.
        pool: What it generated.
    """

    study: Study
    pool: Pool


def prepare_replicates(job: Job, catalog: Catalog) -> list[Replicate]:
    """The study's own generator and pool, then further ones, trained and filled where they are not finished.

    All are trained on the same images as the first one was planned, and fill as many images of each class.
    `evaluation.num_generators` says how many there are.

    Raises:
        UsageError: The study has no pool yet, or one that can't be repeated.
        Interrupted: A stop was asked for; a checkpoint was saved.
    """
    own = Replicate(job.study, Pool.open(job.study.pool))
    numbers = range(1, job.config.evaluation.generator_count)
    if numbers and stage_settings(own.pool.root).get("encoder"):
        raise UsageError(
            "the pool was filtered with an encoder given in Python, and those of further generators can't be",
            where=own.pool.root,
            fix="--set evaluation.num_generators=1",
        )
    return [own, *(_further(_job(job, catalog, own.pool, number), catalog, number) for number in numbers)]


def replicates_exist(job: Job) -> bool:
    """Whether all pools are finished."""
    return all(storage.committed_facts(study.pool) is not None for study in _studies(job))


def open_replicates(job: Job) -> list[Replicate]:
    """All generators with their pools, which are finished.

    Raises:
        UsageError: One is not.
    """
    return [Replicate(study, Pool.open(study.pool)) for study in _studies(job)]


def _further(job: Job, catalog: Catalog, number: int) -> Replicate:
    job.narrator.say(f"generator {number + 1}:")
    generator = fit_generator(job, catalog)
    return Replicate(job.study, generate_pool(job, catalog, generator))


def _job(job: Job, catalog: Catalog, pool: Pool, number: int) -> Job:
    """A job in a folder inside the study, with the next seed, that logs to no tracker and replaces what is stale."""
    study = open_or_create_study(_study(job, number).path, catalog.root)
    if (storage.committed_facts(study.catalog) or {}) != storage.committed_facts(job.study.catalog):
        storage.discard_directory(study.catalog)
        shutil.copytree(job.study.catalog, study.catalog, dirs_exist_ok=True)
    planned = {"minutes": None, **planned_settings(job, catalog)}
    real, made = catalog.images("train").counts_by_name, pool.images().counts_by_name
    totals = {name: count + made[name] for name, count in real.items()}
    config = job.config.model_copy(
        update={
            "seed": job.config.seed + number,
            "diffusion": job.config.diffusion.model_copy(update=planned),
            "synthesis": job.config.synthesis.model_copy(
                update={"sampling_strategy": totals, "max_synthetic_ratio": None}
            ),
            "tracking": job.config.tracking.model_copy(update={"mlflow": False}),
        }
    )
    journal = Journal(study.journal)
    if journal.status(STUDY_RUN) is None:
        journal.start_run(STUDY_RUN, name=study.name)
    return replace(job, study=study, resolved=replace(job.resolved, config=config), journal=journal, overwrite=True)


def _studies(job: Job) -> list[Study]:
    return [job.study, *(_study(job, number) for number in range(1, job.config.evaluation.generator_count))]


def _study(job: Job, number: int) -> Study:
    return Study(job.study.path / FOLDER / str(number))
