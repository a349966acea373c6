"""The pool of the pilot, from which everything about synthetic images is chosen."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.generator import Generator
from diffaug.files.stage_records import stage_record
from diffaug.runtime.console import ProgressOnly
from diffaug.stages.fitting.judged import judged_images
from diffaug.stages.fitting.pilot import pilot_study, require_pilot
from diffaug.stages.generating.describe_power import tell_power_of_pilot
from diffaug.stages.generating.generate import generate_pool
from diffaug.stages.job import Job
from diffaug.synthesis.pool.pool import Pool
from diffaug.tracking.journal import Journal

MOST_PER_CLASS = 400
"""More images of a class hardly change how a classifier does that is trained for a choice. Set by hand."""


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
    further = _job(job, catalog, rest)
    generator = Generator.load(study.generator, device=job.device)
    pool = generate_pool(further, rest, generator, audited=False)
    if pool.power is not None:
        tell_power_of_pilot(job, pool.power)
    return PilotPool(pool, judged)


def _job(job: Job, catalog: Catalog, rest: Catalog) -> Job:
    """A job in the pilot's study that generates as many images of each class as the pool has, in proportion.

    It logs to no tracker, warns of nothing, since its commands are not for the user, and replaces stale stages.
    """
    made, all_images = Pool.open(job.study.pool).whole.counts_by_name, catalog.counts_by_name("train")
    totals = {
        name: count + min(MOST_PER_CLASS, math.ceil(made[name] * count / all_images[name]))
        for name, count in rest.counts_by_name("train").items()
    }
    changes = {
        "synthesis": {"sampling_strategy": totals, "max_synthetic_ratio": None},
        "tracking": {"mlflow": False},
    }
    sections = {name: getattr(job.config, name).model_copy(update=update) for name, update in changes.items()}
    resolved, study = replace(job.resolved, config=job.config.model_copy(update=sections)), pilot_study(job.study)
    return replace(
        job,
        study=study,
        resolved=resolved,
        narrator=ProgressOnly(job.narrator),
        journal=Journal(study.journal),
        lasting=None,
        overwrite=True,
    )
