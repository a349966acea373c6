"""The stage that fills the pool, alone or together with other processes."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffaug.classifiers.encoders.encoder import Encoder
from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.files import read_record
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.planning.sources import explain_sources
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.files.records import write_record
from diffaug.files.stage_records import begin_stage, is_stage_of, require_same_settings, stage_settings
from diffaug.files.temporaries import remove
from diffaug.runtime.distributed import current
from diffaug.stages.generating.describe_pool import describe_pool
from diffaug.stages.generating.describe_power import record_power, tell_power
from diffaug.stages.generating.log import finish_log, show_targets, start_log, warn_uncalibrated
from diffaug.stages.generating.preparing import PoolFilling, prepare_filling
from diffaug.stages.generating.request import (
    EXTENSION,
    PoolRequest,
    choose_judge,
    current_targets,
    keep_finished,
    keep_for_extension,
    pool_request,
    record_extension,
)
from diffaug.stages.job import GENERATE_RUN, Job
from diffaug.stages.review import tell_review
from diffaug.synthesis.audit.memorization import PoolAudit
from diffaug.synthesis.pool.merging import write_pool
from diffaug.synthesis.pool.pool import AUDIT, PUBLICATION_CHECK, Pool, PublicationCheck, pool_facts


def generate_pool(
    job: Job,
    catalog: Catalog,
    generator: Generator,
    *,
    more: Mapping[Any, int] | None = None,
    encoder: Encoder | None = None,
    audited: bool = True,
) -> Pool:
    """Fills the pool of the study, resumes an interrupted one, extends the finished one by `more`, or opens it.

    One that nobody but diffaug uses need not be `audited`.

    Several processes may do the same at once: they take turns to begin and to finish, and sample together. Of processes
    that torchrun started together, the main one writes everything but the chunks. The caller shares the study.
    """
    group = current()
    group.use_device(job.device)
    judge = choose_judge(job, catalog, encoder)
    request = pool_request(job, catalog, generator, more or {}, judge)
    with group.main_first(), job.study.in_turn():
        job.journal.refresh()
        if job.overwrite and group.is_main:
            _discard_damaged(job)
        state = begin_stage(job.study.pool, request.stored, request.inputs, overwrite=job.overwrite)
        job.accept()
        if state == "new":
            remove(job.study.chunks / EXTENSION)
        targets = current_targets(job, request, finished=state == "finished")
        if targets is None:
            pool = Pool.open(job.study.pool)
            if group.is_main and job.journal.status(GENERATE_RUN) == "open":  # interrupted before the log entry
                finish_log(job, pool.whole, advised=audited)
            if group.is_main:
                keep_finished(job, request)
            tell_review(job, pool)
            return pool
        filling = prepare_filling(job, catalog, generator, targets, judge)
        record_extension(job, request)
        show_targets(job, filling, catalog)
        if group.is_main:
            start_log(job, state, filling)
    filling.run(job)
    with group.main_first(), job.study.in_turn():
        job.journal.refresh()
        return _finish(job, catalog, request, filling, audited=audited)


def _discard_damaged(job: Job) -> None:
    """Removes filters that are damaged, and a pool whose figures are; what belongs to it is made anew with it."""
    study = job.study
    if storage.is_damaged(study.filters):
        storage.discard_directory(study.filters)
    is_undescribed = (study.pool / AUDIT).exists() and not (study.pool_report / storage.DONE).exists()
    if is_undescribed or storage.is_damaged(study.pool_report):
        storage.discard_directory(study.pool)
        storage.discard_directory(study.pool_report)


def generate_shard(
    job: Job, catalog: Catalog, generator: Generator, *, shard: int, shards: int, encoder: Encoder | None = None
) -> dict[str, int]:
    """Computes one part of the chunks and leaves the rest to other processes; returns what each class still lacks."""
    if not 1 <= shard <= shards:
        fix = f"shards are 1/{shards} to {shards}/{shards}" if shards > 0 else "shard 3/8 is the third of eight"
        raise UsageError(f"there is no shard {shard} of {shards}", fix=fix)
    judge = choose_judge(job, catalog, encoder)
    request = pool_request(job, catalog, generator, {}, judge)
    with job.study.in_turn(optional=True):
        stored = stage_settings(job.study.pool)
        if stored and not job.overwrite:
            require_same_settings(job.study.pool, stored, request.stored)
        finished = is_stage_of(job.study.pool, request.stored, request.inputs)
        finished = finished and storage.committed_metadata(job.study.pool) is not None
        targets = current_targets(job, request, finished=finished)
        if targets is None:
            return {}
        filling = prepare_filling(job, catalog, generator, targets, judge)
    missing = filling.run_shard(job, shard, shards)
    lacking = ", ".join(f"'{label}' {number} of {targets[label]}" for label, number in missing.items())
    job.narrator.say(f"shard {shard} of {shards} is done; still missing: {lacking or 'nothing'}")
    return missing


def _finish(job: Job, catalog: Catalog, request: PoolRequest, filling: PoolFilling, *, audited: bool) -> Pool:
    """Merges and commits the pool, unless another process has done so."""
    folder, generator = job.study.pool, filling.maker.generator
    if not is_stage_of(folder, request.stored, request.inputs):
        raise UsageError("another process began this pool meanwhile with other settings or images", where=folder)
    before = storage.committed_metadata(folder)
    if before and all(pool_facts(folder).targets.get(label, 0) >= one for label, one in filling.targets.items()):
        job.narrator.say(f"pool: finished by another process ({folder})")
        return Pool.open(folder)
    shape = {"image_size": list(generator.image_size), "channels": generator.channels}
    made_of = {"settings": request.stored, "inputs": request.inputs, "chunks": filling.store.folder.name}
    classes = {"classes": list(generator.classes), "dataset_class_to_idx": generator.dataset_class_to_idx}
    trained = read_record(job.study.generator)
    sources = {
        "generator_sources": list(explain_sources(trained.unlabeled, trained.initial, trained.pretrained)),
        "pretrained": None if trained.pretrained is None else asdict(trained.pretrained),
    }
    levels = None if catalog.intensity is None else [catalog.intensity.low, catalog.intensity.high]
    metadata = {**made_of, **sources, "targets": filling.targets, **classes, **shape, "levels": levels}
    old = Pool.open(folder).whole if before else None
    with storage.new_directory(folder, metadata) as staging:
        names = filling.maker.filters.score_names
        write_pool(staging, filling.merges, filling.store, classes=generator.classes, score_names=names)
        if old is not None:
            _require_kept(old, staging)
        # Measured before it is committed, so that a pool that is unsafe or of no use is marked from the beginning.
        new = Pool(staging, generator.classes, generator.image_size, generator.channels)
        power = record_power(job, catalog, filling.maker, new)
        if audited:
            tell_power(job, power)
            audit = describe_pool(job, catalog, filling.maker, new)
            write_record(staging / AUDIT, PUBLICATION_CHECK, _publication_check(audit))
    pool = Pool.open(folder)
    tell_review(job, pool)
    finish_log(job, pool.whole, advised=audited)
    warn_uncalibrated(job, filling)
    keep_for_extension(job.study.chunks, request, filling.targets, filling.store.folder)
    return pool


def _publication_check(audit: PoolAudit) -> PublicationCheck:
    checked, unchecked = (tuple(name for name, made in audit.checks.items() if made is one) for one in (True, False))
    return PublicationCheck(audit.unsafe_to_publish, audit.reasons, checked, unchecked)


def _require_kept(old: Pool, extended: Path) -> None:
    """Raises DamagedError if an image would change, such as when lost chunks were computed on other hardware."""
    for file, sha256 in old.image_keys:
        path = storage.safe_join(extended, file)
        if not path.is_file() or storage.sha256_file(path) != sha256:
            raise DamagedError(
                "extending the pool would change an image: its chunks are not the same as before",
                where=old.root / file,
                fix="restore the chunks folder of the study, or generate the pool again with --overwrite",
            )
