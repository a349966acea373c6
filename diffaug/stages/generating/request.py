"""What is asked of a pool, how far it was extended before, and what is kept to go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffaug.classifiers.encoders import Encoder
from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.generator import Generator
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.files.temporaries import is_temporary, remove_leftovers
from diffaug.stages.generating.filling import pool_inputs
from diffaug.stages.job import Job
from diffaug.synthesis.pool.targets import resolve_targets

EXTENSION, REACHED = "extension.json", "targets.json"


@dataclass(frozen=True)
class PoolRequest:
    """What is asked for.

    Attributes:
        stored: The settings that the pool is made with.
        inputs: Fingerprints of what it is made from.
        targets: Images to add to each class, without any extension.
        more: Images to extend the finished pool by.
    """

    stored: dict[str, Any]
    inputs: dict[str, str]
    targets: dict[str, int]
    more: dict[str, int]

    @property
    def identity(self) -> dict[str, Any]:
        """What makes a pool the same one, whatever its targets."""
        return {"settings": self.stored, "inputs": self.inputs}


def pool_request(
    job: Job, catalog: Catalog, generator: Generator, more: Mapping[str, int], encoder: Encoder | None
) -> PoolRequest:
    """Checks what is asked for.

    Args:
        job: The job.
        catalog: The images.
        generator: The study's generator.
        more: Images to add to the finished pool, by class name.
        encoder: What the filters see images with.

    Raises:
        UsageError: The strategy is impossible, a class unknown, or the generator was trained on something else.
    """
    settings = job.config.synthesis
    generator.require_guide(settings.guidance_method)
    for label, number in more.items():
        generator.class_index(label)
        if number < 1:
            raise UsageError(f"{number} more images of class '{label}' make no sense", fix="give a number above 0")
    targets = targets_asked_for(job, catalog)
    trained_on = (storage.committed_facts(job.study.generator) or {})["inputs"]["catalog"]
    if trained_on != catalog.fingerprint:
        raise UsageError(
            "the generator was trained on other images or another split, and may have seen what is now for testing",
            where=job.study.generator,
            fix="train it again: diffaug fit with --overwrite",
        )
    stored = {"seed": job.config.seed, **settings.model_dump(mode="json")}
    stored |= {"encoder": encoder.name} if encoder else {}
    return PoolRequest(stored, pool_inputs(catalog, generator), targets, dict(more))


def targets_asked_for(job: Job, catalog: Catalog) -> dict[str, int]:
    """Images to add to each class by the settings, without any extension.

    Raises:
        UsageError: The strategy is impossible; the error says where it was set.
    """
    settings, key = job.config.synthesis, "synthesis.sampling_strategy"
    counts = catalog.images("train").counts_by_name
    try:
        return resolve_targets(counts, settings.sampling_strategy, max_synthetic_ratio=settings.max_synthetic_ratio)
    except UsageError as error:
        origin = job.resolved.origins.get(key, "default")
        raise UsageError(error.what, where=f"{key}, from {origin}", fix=error.fix) from error


def targets_of(job: Job, request: PoolRequest, *, finished: bool) -> dict[str, int] | None:
    """Images wanted of each class, with those that the finished pool is extended by; None: there is nothing to do.

    An extension is written down before it begins, so that the same command, or a plain `generate`, goes on with it.
    """
    file, pool = job.study.chunks / EXTENSION, job.study.pool
    if not finished:
        if request.more:
            fix = f"finish it first: diffaug generate {job.study.path}"
            raise UsageError("there is no finished pool to extend", where=pool, fix=fix)
        return _targets_reached(job, request)
    have: dict[str, int] = (storage.committed_facts(pool) or {})["targets"]
    extension = storage.read_json(file) if file.is_file() else {}
    if extension.get("from") != have:  # none, or it was finished
        if not request.more:
            job.narrator.say(f"pool: finished already, kept ({pool})")
            return None
        extension = {"from": have, "more": request.more}
        storage.write_json(file, extension)
    elif request.more not in ({}, extension["more"]):
        raise UsageError(
            f"another extension was begun and not finished: {extension['more']}",
            where=pool,
            fix=f"finish it first: diffaug generate {job.study.path}",
        )
    return {label: number + extension["more"].get(label, 0) for label, number in have.items()}


def _targets_reached(job: Job, request: PoolRequest) -> dict[str, int]:
    """The targets of this pool as it was once finished and extended, where it is made again; else those asked for."""
    file = job.study.chunks / REACHED
    reached = storage.read_json(file) if file.is_file() else {}
    same = {key: reached.get(key) for key in ("settings", "inputs")} == request.identity
    return dict(reached["targets"]) if same else request.targets


def keep_for_extension(folder: Path, request: PoolRequest, targets: Mapping[str, int], kept: Path) -> None:
    """Records the targets reached, and leaves the chunks that the pool was made from and nothing begun before it.

    Args:
        folder: The study's chunks.
        request: What the pool was made for.
        targets: What it has reached.
        kept: Its own chunks.
    """
    storage.write_json(folder / REACHED, {**request.identity, "targets": dict(targets)})
    (folder / EXTENSION).unlink(missing_ok=True)
    remove_leftovers(folder.rglob(".*.tmp"))
    for other in folder.glob("*"):
        if other.is_dir() and other.name != kept.name and not is_temporary(other):
            storage.discard_directory(other)
