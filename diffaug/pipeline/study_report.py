"""The study's report: everything of it on one page."""

from __future__ import annotations

import shlex
from platform import python_version
from typing import Any

import torch

from diffaug import storage
from diffaug.data.catalog import Catalog
from diffaug.evaluation.report import write_report
from diffaug.evaluation.report_pool import read_pool_facts
from diffaug.evaluation.summary import EvaluationResult
from diffaug.pipeline.job import STUDY_RUN, Job
from diffaug.pipeline.pool_request import targets_asked_for
from diffaug.study import stage_settings
from diffaug.synthesis.pool import MANIFEST, Pool


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
        facts=_facts(job, catalog, pool),
        problems=catalog.problems,
        seed=job.config.seed,
        command=_repeat_command(job),
        not_repeated=_not_repeated(job, catalog),
    )
    job.journal.log_artifact(STUDY_RUN, job.study.report)
    job.journal.end_run(STUDY_RUN)


def _repeat_command(job: Job) -> str:
    """Trains for as many images as this study's generator, however fast the machine is then."""
    study, plan = job.study.path, storage.read_json(job.study.generator / "plan.json")
    measured = {"precision": plan["precision"], "batch_size": plan["batch_size"], "compile": plan["compiled"]}
    fixed = [f"diffusion.{name}={str(value).lower()}" for name, value in measured.items()]
    return shlex.join(
        [
            *("diffaug", "run", job.study.facts["data"], "--study", f"{study}-again"),
            *("--config", str(job.study.config_file), "--images", str(plan["images"])),
            *(part for setting in fixed for part in ("--set", setting)),
        ]
    )


def _not_repeated(job: Job, catalog: Catalog) -> tuple[str, ...]:
    """What no command says: the user's own code, and extensions of the pool."""
    trained = stage_settings(job.study.evaluation).get("trained")
    encoder = stage_settings(job.study.pool).get("encoder")
    pool = storage.committed_facts(job.study.pool) or {}
    own = {
        f"the classifier of your own ({trained})": trained != job.config.evaluation.classifier,
        f"the encoder of your own ({encoder})": encoder is not None,
        "the images that --more added": pool.get("targets") != targets_asked_for(job, catalog),
    }
    return tuple(name for name, is_so in own.items() if is_so)


def _facts(job: Job, catalog: Catalog, pool: Pool) -> dict[str, Any]:
    facts = storage.read_json(job.study.generator / "config.json")
    plan = storage.read_json(job.study.generator / "plan.json")
    height, width = catalog.image_size
    return {
        "data": str(catalog.root),
        "working size": f"{width} x {height} px, {'RGB' if catalog.channels == 3 else 'grey'}",
        "software": f"diffaug {job.study.facts['diffaug']}, torch {torch.__version__}, Python {python_version()}",
        "device": f"{plan['device']} for the generator, {job.device} for the classifiers",
        "fingerprint of the images": catalog.fingerprint,
        "SHA-256 of the generator": (storage.committed_facts(pool.root) or {})["inputs"]["generator"],
        "SHA-256 of the pool's manifest": storage.sha256_file(pool.root / MANIFEST),
        **{f"generator: {name}": value for name, value in facts["training"].items()},
    }
