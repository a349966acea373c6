"""The study's report: everything of it on one page."""

import shlex
from typing import Any

import numpy as np

from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.files import read_record
from diffaug.errors import DamagedError
from diffaug.evaluation.report.page import write_report
from diffaug.evaluation.report.pool import PoolOverview
from diffaug.evaluation.verdict.result import EvaluationResult
from diffaug.files import storage
from diffaug.files.stage_records import required_record
from diffaug.stages.evaluating.pilot import planned_settings
from diffaug.stages.generating.describe_shortage import why_no_images
from diffaug.stages.job import STUDY_RUN, Job, settings_text
from diffaug.synthesis.pool.pool import MANIFEST, Pool, pool_facts
from diffaug.synthesis.pool.targets import resolve_targets
from diffaug.synthesis.review.summary import ReviewSummary


def write_study_report(job: Job, catalog: Catalog, pool: Pool | None, result: EvaluationResult) -> None:
    """Writes the report and logs it; without a pool it is about real images alone."""
    for file in (job.study.report, job.study.report.with_suffix(".json")):
        if file.is_dir():
            storage.discard_directory(file)
    real, described = catalog.images("train"), job.study.pool_report
    if pool is not None and pool.publication_check is not None and not (described / storage.DONE).exists():
        raise DamagedError("the figures of the pool are gone", where=described / storage.DONE, fix=storage.REPAIR_HINT)
    write_report(
        job.study.report,
        title=job.study.name,
        result=result,
        real=real,
        synthetic=pool.images() if pool is not None else real.select(np.empty(0, np.int64)),
        pool=PoolOverview.read(pool, described) if pool is not None else None,
        config_yaml=settings_text(job.study.config_file),
        facts=_facts(job, catalog, pool, result),
        problems=catalog.problems,
        why_no_images=why_no_images(job, pool) if result.has_no_pool else "",
        seed=job.config.seed,
        command=_repeat_command(job, pool, result),
        not_repeated=_not_repeated(job, catalog, pool),
        review=shlex.join(["diffaug", "review", str(job.study.path)]) if pool is not None and len(pool) else None,
    )
    if job.journal.status(STUDY_RUN) is None:  # the journal was lost since
        job.accept()
    job.journal.log_artifact(STUDY_RUN, job.study.report)
    job.journal.end_run(STUDY_RUN)


def _repeat_command(job: Job, pool: Pool | None, result: EvaluationResult) -> str:
    """The command; it fixes the network and the length of the training, whatever the speed of the machine."""
    quick = ["--quick"] if result.choice is not None and result.choice.is_quick else []
    if pool is None:
        return shlex.join(["diffaug", "evaluate", str(job.study.path), "--overwrite", *quick])
    fixed = [f"diffusion.{name}={value}" for name, value in planned_settings(job).items()]
    return shlex.join(
        [
            *("diffaug", "run", str(job.study.record.data), "--study", f"{job.study.path}-again"),
            *("--config", str(job.study.config_file), *quick),
            *(part for setting in fixed for part in ("--set", setting.lower())),
        ]
    )


def _not_repeated(job: Job, catalog: Catalog, pool: Pool | None) -> tuple[str, ...]:
    """What the command does not repeat: the user's own code, and extensions of the pool."""
    trained = required_record(job.study.evaluation).settings.get("trained")
    own = {f"your own classifier ({trained})": trained != job.config.evaluation.classifier}
    if pool is not None:
        settings, counts = required_record(pool.root).settings, catalog.counts_by_name("train")
        encoder, ratio = settings.get("encoder"), settings.get("max_synthetic_ratio")
        asked = resolve_targets(counts, settings.get("sampling_strategy", "auto"), max_synthetic_ratio=ratio)
        own |= {
            f"your own encoder ({encoder})": encoder is not None,
            "the images that --more added": pool_facts(pool.root).targets != asked,
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
    storage.committed_metadata(job.study.generator)  # raises if a file of it was changed
    facts = read_record(job.study.generator)
    return {
        "SHA-256 of the generator": required_record(pool.root).inputs.get("generator"),
        "SHA-256 of the pool's manifest": storage.sha256_file(pool.root / MANIFEST),
        "review": "; ".join(ReviewSummary.of(pool).sentences()) or "not reviewed",
        **{f"generator: {name}": value for name, value in facts.training.items()},
    }
