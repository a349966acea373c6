"""The catalog of a study: read once, and again only if the data folder changed."""

import shlex
import time
from dataclasses import replace
from pathlib import Path

from diffaug.configuration.settings import Config
from diffaug.data.catalog import Catalog, build_catalog, describe_changes
from diffaug.data.sources import KnownFiles
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.files.stage_records import require_same_settings
from diffaug.stages.job import Job

MAX_LISTED_PROBLEMS = 8


def prepare_catalog(job: Job) -> Catalog:
    """The study's catalog, made or brought up to date, unless the images changed under a trained generator."""
    folder, settings = job.study.catalog, _catalog_settings(job.config)
    root = job.study.record.data
    try:
        metadata = storage.committed_metadata(folder)
    except DamagedError:
        if not job.overwrite:
            raise
        metadata = None
    if metadata is not None and not job.overwrite and _is_trained(job):
        require_same_settings(folder, metadata["settings"], settings)
    if metadata is not None and metadata["settings"] == settings:
        catalog = Catalog.load(folder)
        if not root.is_dir():
            job.narrator.warn(f"the data folder {root} is missing; using the copy in the study")
            return catalog
        changes = _changes(job, catalog, root)
        if not changes:
            return catalog
        if _is_trained(job) and not job.overwrite:
            raise UsageError(
                f"the images changed since this study's generator was trained: {changes}",
                where=root,
                fix="add --overwrite to start again with the new images, or choose another --study",
            )
        if not job.overwrite:
            job.narrator.say(f"the images changed, reading them again: {changes}")
    return _build(job, root)


def _catalog_settings(config: Config) -> dict[str, object]:
    return {"seed": config.seed, **config.data.model_dump(mode="json")}


def show_catalog(job: Job, catalog: Catalog) -> None:
    """Reports counts by class and split, and the problems found."""
    counts = catalog.counts()
    rows = counts.astype(str).reset_index().to_numpy().tolist()
    job.narrator.table("Images", ["class", *map(str, counts.columns)], rows)
    for problem in catalog.problems[:MAX_LISTED_PROBLEMS]:
        job.narrator.warn(problem)
    more = len(catalog.problems) - MAX_LISTED_PROBLEMS
    if more > 0:
        job.narrator.warn(f"and {more} more problems: diffaug inspect {shlex.quote(str(catalog.root))} --json")


def _changes(job: Job, catalog: Catalog, root: Path) -> str:
    """How the data folder differs from the catalog; reads only files that were touched since the last command."""
    known = KnownFiles.load(job.study.sources)
    before = replace(known)
    changes = describe_changes(catalog, root, known)
    if known != before:
        known.save(job.study.sources)
    return changes


def _build(job: Job, root: Path) -> Catalog:
    began = time.time()
    catalog = build_catalog(
        root,
        job.config.data,
        seed=job.config.seed,
        progress=lambda done, total: job.narrator.progress("reading images", done, total),
        comparing=lambda done, total: job.narrator.progress("comparing images", done, total),
    )
    catalog.save(job.study.catalog, settings=_catalog_settings(job.config))
    known = KnownFiles()
    known.note(root, catalog.content(), began)
    known.save(job.study.sources)
    return catalog


def _is_trained(job: Job) -> bool:
    """Whether there is a generator of these images, or the beginning of one."""
    return storage.recorded_metadata(job.study.generator) is not None or any(job.study.generator.glob("checkpoints/*"))
