"""The stage that fills the pool, alone or together with other processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from diffaug.classifiers.encoders import Encoder
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.stages.generating.describe_pool import describe_pool
from diffaug.stages.generating.filling import Filling, prepare_filling
from diffaug.stages.generating.request import EXTENSION, PoolRequest, keep_for_extension, pool_request, targets_of
from diffaug.stages.job import GENERATE_RUN, Job
from diffaug.stages.launch import helped
from diffaug.study import StageState, begin_stage, is_stage_of, require_same_settings, stage_settings
from diffaug.synthesis.filters.scores import OFF_CLASS, OUT_OF_DISTRIBUTION
from diffaug.synthesis.pool.chunks import ChunkMaker
from diffaug.synthesis.pool.filling import require_shard
from diffaug.synthesis.pool.merging import write_pool
from diffaug.synthesis.pool.origins import expected_origins
from diffaug.synthesis.pool.pool import AUDIT, MANIFEST, REJECTED, SUMMARY, Pool


def generate_pool(
    job: Job,
    catalog: Catalog,
    generator: Generator,
    *,
    more: Mapping[str, int] | None = None,
    encoder: Encoder | None = None,
) -> Pool:
    """Fills the study's pool, goes on with one that was stopped, extends the finished one, or opens it.

    Several processes may do the same at once: beginning and finishing they do in turn, sampling together.

    Args:
        job: The job; the caller shares the study.
        catalog: Its images.
        generator: Its generator.
        more: Images to add to the finished pool, by class name.
        encoder: What the filters see images with; none: a classifier of the training images.

    Raises:
        UsageError: The sampling strategy is impossible, the pool was begun with other settings, autoguidance has no
            guide, or there is no finished pool or no such class to extend.
    """
    request = pool_request(job, catalog, generator, more or {}, encoder)
    with job.study.in_turn():
        job = job.current()
        state = begin_stage(job.study.pool, request.stored, request.inputs, overwrite=job.overwrite)
        if state == "new":
            (job.study.chunks / EXTENSION).unlink(missing_ok=True)
        targets = targets_of(job, request, finished=state == "finished")
        if targets is None:
            pool = Pool.open(job.study.pool)
            if job.journal.status(GENERATE_RUN) == "open":  # stopped between the commit and its record
                _finish_log(job, pool)
            return pool
        filling = _prepare(job, catalog, generator, targets, encoder)
        _show_targets(job, filling.maker, catalog.images("train"), targets)
        _start_log(job, state, targets)
    order = {
        "study": str(job.study.path.resolve()),
        "config": job.config.model_dump(mode="json"),
        "device": job.device,
        "targets": targets,
    }
    with helped("generate", order):
        filling.run(job)
    with job.study.in_turn():
        return _finish(job.current(), catalog, request, filling)


def generate_shard(
    job: Job, catalog: Catalog, generator: Generator, *, shard: int, shards: int, encoder: Encoder | None = None
) -> dict[str, int]:
    """Computes a part of the chunks of the study's pool and leaves the rest to others; see `fill_shard`.

    Returns:
        Images that each class still lacks.

    Raises:
        UsageError: As of `generate_pool`, or there is no such part.
    """
    require_shard(shard, shards)
    request = pool_request(job, catalog, generator, {}, encoder)
    with job.study.in_turn(optional=True):
        stored = stage_settings(job.study.pool)
        if stored and not job.overwrite:
            require_same_settings(job.study.pool, stored, request.stored)
        finished = is_stage_of(job.study.pool, request.stored, request.inputs)
        finished = finished and storage.committed_facts(job.study.pool) is not None
        targets = targets_of(job, request, finished=finished)
        if targets is None:
            return {}
        filling = _prepare(job, catalog, generator, targets, encoder)
    missing = filling.run_shard(job, shard, shards)
    lacking = ", ".join(f"'{label}' {number} of {targets[label]}" for label, number in missing.items())
    job.narrator.say(f"shard {shard} of {shards} is done; still missing: {lacking or 'nothing'}")
    return missing


def _prepare(
    job: Job, catalog: Catalog, generator: Generator, targets: Mapping[str, int], encoder: Encoder | None
) -> Filling:
    """What filling takes; a judge whose files were changed is trained anew where overwriting is asked for."""
    try:
        storage.committed_facts(job.study.judge, verify=True)
    except DamagedError:
        if job.overwrite:
            storage.discard_directory(job.study.judge)
    return prepare_filling(job, catalog, generator, targets, encoder)


def _finish(job: Job, catalog: Catalog, request: PoolRequest, filling: Filling) -> Pool:
    """Merges and commits the pool, unless another process was first."""
    folder, generator = job.study.pool, filling.maker.generator
    height, width = generator.image_size
    facts = {
        "settings": request.stored,
        "inputs": request.inputs,
        "targets": filling.targets,
        "chunks": filling.store.folder.name,
        "classes": list(generator.classes),
        "image_size": [height, width],
        "channels": generator.channels,
    }
    if not is_stage_of(folder, request.stored, request.inputs):
        raise UsageError("another process began this pool meanwhile, with other settings or images", where=folder)
    before = storage.committed_facts(folder)
    if before and all(before["targets"][label] >= target for label, target in filling.targets.items()):
        job.narrator.say(f"pool: finished by another process ({folder})")
        return Pool.open(folder)
    old = Pool.open(folder) if before else None
    with storage.new_directory(folder, facts) as staging:
        names = filling.maker.judge.score_names
        write_pool(staging, filling.merges, filling.store, classes=generator.classes, score_names=names)
        if old is not None:
            _require_kept(old, staging)
        _describe(job, catalog, filling, staging)
    pool = Pool.open(folder)
    _finish_log(job, pool)
    _tell_uncalibrated(job, filling)
    keep_for_extension(job.study.chunks, request, filling.targets, filling.store.folder)
    return pool


def _describe(job: Job, catalog: Catalog, filling: Filling, folder: Path) -> None:
    """Measures the pool before it is committed, since what is unsafe to publish says so itself."""
    generator = filling.maker.generator
    pool = Pool(folder, generator.classes, generator.image_size, generator.channels)
    rejected = pd.read_parquet(folder / REJECTED)
    audit = describe_pool(job, catalog, generator, filling.judge, pool, rejected=rejected)
    content = {"unsafe_to_publish": audit.unsafe_to_publish, "reasons": audit.reasons}
    storage.write_json(folder / AUDIT, content)


def _require_kept(old: Pool, extended: Path) -> None:
    """Raises DamagedError where an image would change, such as when chunks were lost and computed on other hardware."""
    for file, sha256 in zip(old.files, old.manifest["sha256"], strict=True):
        path = storage.safe_join(extended, file)
        if not path.is_file() or storage.sha256_file(path) != sha256:
            raise DamagedError(
                "extending the pool would change an image in it: the chunks that it was made from are not the same",
                where=old.root / file,
                fix="restore the study's chunks folder, or generate the pool anew with --overwrite",
            )


def _show_targets(job: Job, maker: ChunkMaker, images: LabeledImages, targets: dict[str, int]) -> None:
    counts = images.counts_by_name
    origins = expected_origins(maker.settings, targets, maker.sources.counts_by_name)
    rows = [[name, *map(str, (counts[name], *origins[name], counts[name] + added))] for name, added in targets.items()]
    columns = ["class", "real", "sampled, about", "variations, about", "together"]
    job.narrator.table("What the pool will hold", columns, rows)


def _start_log(job: Job, state: StageState, targets: dict[str, int]) -> None:
    settings = job.config.synthesis
    job.start_run(
        GENERATE_RUN,
        state,
        name="generate",
        kind="generate",
        params={
            "guidance_method": settings.guidance_method,
            "guidance_scale": settings.guidance_scale,
            "solver": settings.solver,
            "num_inference_steps": settings.num_inference_steps,
            "max_synthetic_ratio": settings.max_synthetic_ratio,
            "wanted": sum(targets.values()),
        },
    )


def _finish_log(job: Job, pool: Pool) -> None:
    summary: dict[str, dict[str, Any]] = storage.read_json(pool.root / SUMMARY)
    rejected: Counter[str] = Counter()
    for label, outcome in summary.items():
        rejected.update(outcome["rejected"])
        if outcome["accepted"] < outcome["wanted"]:
            job.narrator.warn(
                f"class '{label}': only {outcome['accepted']} of {outcome['wanted']} images passed the filters "
                f"({_by_reason(outcome['rejected'])})"
            )
    accepted = {f"accepted/{label}": float(outcome["accepted"]) for label, outcome in summary.items()}
    counts = {f"rejected/{reason}": float(count) for reason, count in rejected.items()}
    job.journal.log_metrics(GENERATE_RUN, {"accepted": float(len(pool)), **accepted, **counts})
    job.journal.log_dataset(GENERATE_RUN, pool.root / MANIFEST, "pool", "synthetic")
    job.journal.log_artifact(GENERATE_RUN, pool.root / MANIFEST)
    job.journal.log_artifact(GENERATE_RUN, pool.root / SUMMARY)
    job.journal.end_run(GENERATE_RUN)
    rejections = f", {sum(rejected.values())} rejected ({_by_reason(rejected)})" if rejected else ""
    job.narrator.say(f"pool of {len(pool)} images written to {pool.root}{rejections}")


def _tell_uncalibrated(job: Job, filling: Filling) -> None:
    """Names the classes with synthetic images that two of the filters could not judge."""
    calibrated = set(filling.judge.off_class.labels.tolist())
    names = [merge.label for merge in filling.merges if merge.target and merge.class_index not in calibrated]
    if names and {OFF_CLASS, OUT_OF_DISTRIBUTION} & set(job.config.synthesis.filters):
        job.narrator.warn(
            "not judged by the off-class and distance filters, since no training image could be left out to calibrate "
            f"them: {', '.join(names)}"
        )


def _by_reason(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none were even sampled"
