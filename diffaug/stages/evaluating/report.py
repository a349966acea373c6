"""The study's report: everything of it on one page."""

import shlex
from typing import Any

import numpy as np

from diffaug.data.catalog import Catalog
from diffaug.evaluation.report.page import write_report
from diffaug.evaluation.report.pool import PoolOverview
from diffaug.evaluation.verdict.result import EvaluationResult
from diffaug.files import storage
from diffaug.stages.evaluating.replicates import planned_settings
from diffaug.stages.job import STUDY_RUN, Job
from diffaug.synthesis.pool.pool import MANIFEST, Pool
from diffaug.synthesis.pool.targets import resolve_targets


def write_study_report(job: Job, catalog: Catalog, pool: Pool | None, result: EvaluationResult) -> None:
    """Writes the report and logs it; without a pool it is about real images alone."""
    real = catalog.images("train")
    write_report(
        job.study.report,
        title=job.study.name,
        result=result,
        real=real,
        synthetic=pool.images() if pool is not None else real.select(np.empty(0, np.int64)),
        pool=PoolOverview.read(pool, job.study.pool_report) if pool is not None else None,
        config_yaml=job.study.config_file.read_text(encoding="utf-8"),
        facts=_facts(job, catalog, pool, result),
        problems=catalog.problems,
        seed=job.config.seed,
        command=_repeat_command(job, catalog, pool),
        not_repeated=_not_repeated(job, catalog, pool),
    )
    job.journal.log_artifact(STUDY_RUN, job.study.report)
    job.journal.end_run(STUDY_RUN)


def _repeat_command(job: Job, catalog: Catalog, pool: Pool | None) -> str:
    """The command; it fixes the network and the length of the training, whatever the speed of the machine."""
    if pool is None:
        return shlex.join(["diffaug", "evaluate", str(job.study.path), "--overwrite"])
    fixed = [f"diffusion.{name}={value}" for name, value in planned_settings(job, catalog).items()]
    return shlex.join(
        [
            *("diffaug", "run", str(job.study.record.data), "--study", f"{job.study.path}-again"),
            *("--config", str(job.study.config_file)),
            *(part for setting in fixed for part in ("--set", setting.lower())),
        ]
    )


def _not_repeated(job: Job, catalog: Catalog, pool: Pool | None) -> tuple[str, ...]:
    """What the command does not repeat: the user's own code, and extensions of the pool."""
    trained = (storage.recorded_metadata(job.study.evaluation) or {})["settings"]["trained"]
    own = {f"your own classifier ({trained})": trained != job.config.evaluation.classifier}
    if pool is not None:
        made = storage.recorded_metadata(pool.root) or {}
        settings, counts = made["settings"], catalog.counts_by_name("train")
        encoder, ratio = settings.get("encoder"), settings["max_synthetic_ratio"]
        asked = resolve_targets(counts, settings["sampling_strategy"], max_synthetic_ratio=ratio)
        own |= {
            f"your own encoder ({encoder})": encoder is not None,
            "the images that --more added": made["targets"] != asked,
        }
    return tuple(name for name, is_so in own.items() if is_so)


def _facts(job: Job, catalog: Catalog, pool: Pool | None, result: EvaluationResult) -> dict[str, Any]:
    height, width = catalog.image_size
    training = result.training
    evaluation = {"evaluation: device": training.device, "evaluation: software": training.software} if training else {}
    return {
        "data": str(catalog.root),
        "working size": f"{width} x {height} px, {'RGB' if catalog.channels == 3 else 'gray'}",
        "diffaug": job.study.record.diffaug,
        "fingerprint of the images": catalog.fingerprint,
        **(_facts_of_pool(job, pool) if pool is not None else {}),
        **evaluation,
    }


def _facts_of_pool(job: Job, pool: Pool) -> dict[str, Any]:
    facts = storage.read_json(job.study.generator / "config.json")
    return {
        "SHA-256 of the generator": (storage.recorded_metadata(pool.root) or {})["inputs"]["generator"],
        "SHA-256 of the pool's manifest": storage.sha256_file(pool.root / MANIFEST),
        **{f"generator: {name}": value for name, value in facts["training"].items()},
    }
