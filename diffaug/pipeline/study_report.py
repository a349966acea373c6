"""The study's report: everything of it on one page."""

from __future__ import annotations

import shlex
from typing import Any

from diffaug import storage
from diffaug.data.catalog import Catalog
from diffaug.evaluation.report import write_report
from diffaug.evaluation.report_pool import read_pool_facts
from diffaug.evaluation.summary import EvaluationResult
from diffaug.pipeline.job import STUDY_RUN, Job
from diffaug.synthesis.pool import Pool


def write_study_report(job: Job, catalog: Catalog, pool: Pool, result: EvaluationResult) -> None:
    """Writes the report and logs it."""
    write_report(
        job.study.report,
        title=job.study.name,
        evaluation=result.to_dict(),
        real=catalog.images("train"),
        synthetic=pool.images(),
        pool_facts=read_pool_facts(pool, job.study.pool_report),
        config_yaml=job.study.config_file.read_text(encoding="utf-8"),
        facts=_facts(job, catalog),
        problems=catalog.problems,
        seed=job.config.seed,
        command=_repeat_command(job),
    )
    job.journal.log_artifact(STUDY_RUN, job.study.report)
    job.journal.end_run(STUDY_RUN)


def _repeat_command(job: Job) -> str:
    study = job.study.path
    return shlex.join(
        ["diffaug", "run", job.study.facts["data"], "--study", f"{study}-again", "--config", str(job.study.config_file)]
    )


def _facts(job: Job, catalog: Catalog) -> dict[str, Any]:
    facts = storage.read_json(job.study.generator / "config.json")
    height, width = catalog.image_size
    return {
        "data": str(catalog.root),
        "working size": f"{width} x {height} px, {'RGB' if catalog.channels == 3 else 'grey'}",
        "diffaug": job.study.facts["diffaug"],
        **{f"generator: {name}": value for name, value in facts["training"].items()},
    }
