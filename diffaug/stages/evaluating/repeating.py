"""How the study's generator was planned, for trainings that shall be like its own."""

from __future__ import annotations

from typing import Any

from diffaug.data.catalog import Catalog
from diffaug.diffusion.planning.planning import Plan, choose_preset
from diffaug.files import storage
from diffaug.stages.job import Job


def planned_settings(job: Job, catalog: Catalog) -> dict[str, Any]:
    """Settings of `diffusion` by which another training is planned as the generator's, whatever the speed is then."""
    plan, settings = Plan.from_dict(storage.read_json(job.study.generator / "plan.json")), job.config.diffusion
    return {
        "images": plan.images,
        "preset": settings.preset or choose_preset(len(catalog.images("train")), settings, plan.device),
        "batch_size": plan.batch_size,
        "precision": plan.precision,
        "compile": plan.compiled,
    }
