"""The catalog of a study: read once, and again only when the folder changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffaug.configuration.settings import Config
from diffaug.data.catalog import Catalog, build_catalog, catalog_is_current, describe_changes
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.stages.job import Job
from diffaug.study import require_same_settings

MAX_LISTED_PROBLEMS = 8


def prepare_catalog(job: Job) -> Catalog:
    """The study's catalog, made or brought up to date.

    Raises:
        DataError: The images can't be used as they are.
        UsageError: The folder is missing, or it changed under a trained generator.
    """
    folder, settings = job.study.catalog, catalog_settings(job.config)
    root = Path(job.study.facts["data"])
    facts = _committed_facts(job)
    if facts is not None and not job.overwrite and _is_trained(job):
        require_same_settings(folder, facts["settings"], settings)
    if facts is not None and facts["settings"] == settings:
        catalog = Catalog.load(folder)
        if not root.is_dir():
            job.narrator.warn(f"the data folder {root} is gone; the copy in the study is used")
            return catalog
        if catalog_is_current(catalog, root):
            return catalog
        if not job.overwrite:
            _require_replaceable(job, describe_changes(catalog, root))
    return _build(job, root)


def catalog_settings(config: Config) -> dict[str, object]:
    """The settings that a catalog depends on."""
    return {"seed": config.seed, **config.data.model_dump(mode="json")}


def show_catalog(job: Job, catalog: Catalog) -> None:
    """Narrates counts by class and split, and the problems found."""
    counts = catalog.counts()
    rows = [
        [str(name), *(str(count) for count in row)] for name, row in zip(counts.index, counts.to_numpy(), strict=True)
    ]
    job.narrator.table("Images", ["class", *map(str, counts.columns)], rows)
    for problem in catalog.problems[:MAX_LISTED_PROBLEMS]:
        job.narrator.warn(problem)
    more = len(catalog.problems) - MAX_LISTED_PROBLEMS
    if more > 0:
        job.narrator.warn(f"and {more} more problems: diffaug inspect {catalog.root} --json")


def _committed_facts(job: Job) -> dict[str, Any] | None:
    try:
        return storage.committed_facts(job.study.catalog)
    except DamagedError:
        if not job.overwrite:
            raise
        return None


def _build(job: Job, root: Path) -> Catalog:
    catalog = build_catalog(
        root,
        job.config.data,
        seed=job.config.seed,
        progress=lambda done, total: job.narrator.progress("reading images", done, total),
        comparing=lambda done, total: job.narrator.progress("comparing images", done, total),
    )
    catalog.save(job.study.catalog, settings=catalog_settings(job.config))
    return catalog


def _is_trained(job: Job) -> bool:
    """Whether there is a generator of these images, or the beginning of one."""
    return storage.committed_facts(job.study.generator) is not None or any(job.study.generator.glob("checkpoints/*"))


def _require_replaceable(job: Job, changes: str) -> None:
    if _is_trained(job):
        raise UsageError(
            f"the images changed since this study's generator was trained: {changes}",
            where=job.study.facts["data"],
            fix="add --overwrite to begin again with the new images, or choose another --study",
        )
    job.narrator.say(f"the images changed, reading them again: {changes}")
