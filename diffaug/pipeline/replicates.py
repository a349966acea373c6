"""Further generators of one study, with other seeds, so that the verdict does not hang on one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diffaug import storage
from diffaug.data.catalog import Catalog
from diffaug.evaluation.journal import Journal
from diffaug.pipeline.fit import fit_generator
from diffaug.pipeline.generate import generate_pool
from diffaug.pipeline.job import STUDY_RUN, Job
from diffaug.study import Study, open_or_create_study
from diffaug.synthesis.pool import Pool

FOLDER = "replicates"


@dataclass(frozen=True)
class Replicate:
    """A generator and its pool.

    Attributes:
        study: Where both lie; of a further generator it has no catalog of its own.
        pool: What it generated.
    """

    study: Study
    pool: Pool


def prepare_replicates(job: Job, catalog: Catalog) -> list[Replicate]:
    """The study's own generator and pool, then further ones, trained and filled where they are not finished.

    All are trained on the same images for as many images as the first. `evaluation.num_generators` says how many.

    Raises:
        UsageError: The study has no pool yet.
        Interrupted: A stop was asked for; a checkpoint was saved.
    """
    own = Replicate(job.study, Pool.open(job.study.pool))
    return [own, *(_further(job, catalog, number) for number in range(1, job.config.evaluation.num_generators))]


def open_replicates(job: Job) -> list[Replicate]:
    """The same, all of which are finished.

    Raises:
        UsageError: One is not.
    """
    studies = [job.study, *(_study(job, number) for number in range(1, job.config.evaluation.num_generators))]
    return [Replicate(study, Pool.open(study.pool)) for study in studies]


def _further(job: Job, catalog: Catalog, number: int) -> Replicate:
    job.narrator.say(f"generator {number + 1}:")
    further = _job(job, catalog, number)
    generator = fit_generator(further, catalog)
    return Replicate(further.study, generate_pool(further, catalog, generator))


def _job(job: Job, catalog: Catalog, number: int) -> Job:
    """A job in a folder inside the study, with the next seed, that logs to no tracker."""
    study = open_or_create_study(_study(job, number).path, catalog.root)
    images = storage.read_json(job.study.generator / "plan.json")["images"]
    config = job.config.model_copy(
        update={
            "seed": job.config.seed + number,
            "diffusion": job.config.diffusion.model_copy(update={"minutes": None, "images": images}),
            "tracking": job.config.tracking.model_copy(update={"mlflow": False}),
        }
    )
    journal = Journal(study.journal)
    if journal.status(STUDY_RUN) is None:
        journal.start_run(STUDY_RUN, name=study.name)
    return replace(job, study=study, resolved=replace(job.resolved, config=config), journal=journal)


def _study(job: Job, number: int) -> Study:
    return Study(job.study.path / FOLDER / str(number))
