"""The request for a pool: its targets, and how far a finished pool is to be extended."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from diffaug.classifiers.encoders.by_name import encoder_by_name, typical_side
from diffaug.classifiers.encoders.encoder import Encoder
from diffaug.configuration.sampling import Sampling
from diffaug.configuration.settings import Config
from diffaug.data.catalog import Catalog
from diffaug.data.images import SeenImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.files.records import find_signed_record, write_signed_record
from diffaug.files.stage_records import required_record
from diffaug.files.temporaries import is_temporary, remove, remove_leftovers
from diffaug.runtime.console import percent
from diffaug.stages.job import Job
from diffaug.synthesis.filters.calibrated import CalibratedFilters
from diffaug.synthesis.filters.preparing import prepare_filters
from diffaug.synthesis.pool.pool import pool_facts
from diffaug.synthesis.pool.targets import named_strategy, resolve_targets

EXTENSION, REACHED = "extension.json", "targets.json"


@dataclass(frozen=True)
class PoolRequest:
    """The request for a pool of `targets` images per class, or for `more` images than a finished pool has."""

    stored: dict[str, Any]  # the settings that the pool depends on
    inputs: dict[str, str]  # fingerprints
    targets: dict[str, int]
    more: dict[str, int]


_REQUEST = TypeAdapter(PoolRequest)


def pool_request(
    job: Job, catalog: Catalog, generator: Generator, more: Mapping[Any, int], judge: Judge
) -> PoolRequest:
    """Checks the request for a pool, extended by `more`, and that the generator was trained on these images."""
    settings, advanced = job.config.synthesis, job.config.advanced
    generator.require_sampling(Sampling(guidance_method=settings.guidance_method))
    more = _named_additions(generator, more)
    targets = _spare_copied(job, catalog, generator, requested_targets(job, catalog))
    if required_record(job.study.generator).inputs.get("catalog") != catalog.fingerprint:
        raise UsageError(
            "the generator was trained on other images or another split, and may have seen the present test images",
            where=job.study.generator,
            fix="train it again: diffaug fit with --overwrite",
        )
    stored = {
        "seed": job.config.seed,
        **settings.model_dump(mode="json"),
        **advanced.model_dump(mode="json", include={"background_class", "chunk_size", "filter_max_steps"}),
    }
    stored |= judge.stored
    return PoolRequest(stored, pool_inputs(catalog, generator), targets, more)


def _spare_copied(job: Job, catalog: Catalog, generator: Generator, targets: dict[str, int]) -> dict[str, int]:
    """At most one synthetic image per real one for a class whose training images the generator repeats.

    Totals that the user has set are kept.
    """
    if isinstance(job.config.synthesis.sampling_strategy, dict):
        return targets
    counts = catalog.counts_by_name("train")
    return {
        name: min(target, counts[name]) if name in generator.copied_classes else target
        for name, target in targets.items()
    }


def _named_additions(generator: Generator, more: Mapping[Any, int]) -> dict[str, int]:
    """The images to add by class name."""
    named: dict[str, int] = {}
    for label, number in more.items():
        name = generator.class_of(label)
        if not isinstance(number, Integral) or number < 1:
            raise UsageError(f"can't add {number!r} images to class '{name}'", fix="give a whole number above 0")
        if name in named:
            raise UsageError(f"class '{name}' is named twice in more=", fix="add the two numbers")
        named[name] = int(number)
    return named


def pool_inputs(catalog: Catalog, generator: Generator) -> dict[str, str]:
    """Fingerprints of the inputs of a pool."""
    return {"catalog": catalog.fingerprint, "generator": generator.weights_sha256}


def with_class_names(job: Job, catalog: Catalog) -> Job:
    """The job with every class in its sampling strategy by name, as it is saved; a wrong one is left for its stage."""
    counts, class_to_idx = catalog.counts_by_name("train"), job.study.record.class_to_idx

    def named(config: Config) -> Config:
        try:
            strategy = named_strategy(config.synthesis.sampling_strategy, counts, class_to_idx)
        except UsageError:
            return config
        synthesis = config.synthesis.model_copy(update={"sampling_strategy": strategy})
        return config.model_copy(update={"synthesis": synthesis})

    resolved = replace(job.resolved, config=named(job.config))
    return replace(job, resolved=resolved, lasting=None if job.lasting is None else named(job.lasting))


def requested_targets(job: Job, catalog: Catalog) -> dict[str, int]:
    """Images to add per class by the settings, without any extension; a UsageError names the setting's origin."""
    settings, key = job.config.synthesis, "synthesis.sampling_strategy"
    counts = catalog.counts_by_name("train")
    try:
        return resolve_targets(
            counts,
            settings.sampling_strategy,
            max_synthetic_ratio=settings.max_synthetic_ratio,
            class_to_idx=job.study.record.class_to_idx,
        )
    except UsageError as error:
        origin = job.resolved.origins.get(key, "default")
        raise UsageError(error.what, where=f"{key}, from {origin}", fix=error.fix) from error


def current_targets(job: Job, request: PoolRequest, *, finished: bool) -> dict[str, int] | None:
    """Images to add per class, including an extension of the finished pool; None if there is nothing to do."""
    pool, command = job.study.pool, f"diffaug generate {shlex.quote(str(job.study.path))}"
    if not finished:
        if request.more:
            raise UsageError("there is no finished pool to extend", where=pool, fix=f"finish it first: {command}")
        return _reached_targets(job, request)
    have, file = pool_facts(pool).targets, job.study.chunks / EXTENSION
    extension = find_signed_record(file, _REQUEST, overwrite=job.overwrite)
    if extension is None or extension.targets != have:  # not begun, or finished
        if not request.more:
            job.narrator.say(f"pool: already finished, kept ({pool})")
            return None
        extension = replace(request, targets=have)
    elif request.more not in ({}, extension.more):
        unfinished = ", ".join(f"{label}={number}" for label, number in extension.more.items())
        raise UsageError(
            f"another extension is unfinished: {unfinished}", where=pool, fix=f"finish it first: {command}"
        )
    return {label: number + extension.more.get(label, 0) for label, number in have.items()}


def record_extension(job: Job, request: PoolRequest) -> None:
    """Records an extension that is about to begin, so that the same command, or a plain `generate`, resumes it.

    What it needs must have been found whole before: what fails at once has not begun, and is not added twice.
    """
    if request.more:
        have = pool_facts(job.study.pool).targets
        write_signed_record(job.study.chunks / EXTENSION, _REQUEST, replace(request, targets=have))


def _reached_targets(job: Job, request: PoolRequest) -> dict[str, int]:
    """The targets that this very pool had reached before it was lost or damaged; else the requested ones."""
    reached = find_signed_record(job.study.chunks / REACHED, _REQUEST, overwrite=job.overwrite) or request
    same = (reached.stored, reached.inputs) == (request.stored, request.inputs)
    return reached.targets if same else request.targets


def keep_finished(job: Job, request: PoolRequest) -> None:
    """Does what `keep_for_extension` does for a finished pool, unless that was done when it was committed."""
    facts = pool_facts(job.study.pool)
    reached = find_signed_record(job.study.chunks / REACHED, _REQUEST, overwrite=job.overwrite)
    if facts.chunks and (reached is None or reached.targets != facts.targets):
        keep_for_extension(job.study.chunks, request, facts.targets, job.study.chunks / facts.chunks)


def keep_for_extension(folder: Path, request: PoolRequest, targets: Mapping[str, int], kept: Path) -> None:
    """Records the reached targets and removes all chunks in `folder` but those in `kept`, which make up the pool."""
    write_signed_record(folder / REACHED, _REQUEST, replace(request, targets=dict(targets), more={}))
    remove(folder / EXTENSION)
    remove_leftovers(folder.rglob(".*.tmp"))
    for other in folder.glob("*"):
        if other.is_dir() and other.name != kept.name and not is_temporary(other):
            storage.discard_directory(other)


@dataclass(frozen=True)
class Judge:
    """The encoder for the filters, and whether it is used only where it recognizes more real images; None: without."""

    encoder: Encoder | None
    only_if_better: bool = False

    @property
    def stored(self) -> dict[str, str]:
        """The settings that a pool depends on: the encoder given in Python, or the named one."""
        if self.encoder is None:
            return {}
        return {"named_encoder" if self.only_if_better else "encoder": self.encoder.name}


def choose_judge(job: Job, catalog: Catalog, encoder: Encoder | None) -> Judge:
    """The encoder given in Python, or the one that the settings name, which has to be better than own classifiers."""
    if encoder is not None:
        return Judge(encoder)
    side = typical_side(catalog.images("train").pixels)
    named = encoder_by_name(job.config.encoder, job.device, image_side=side, say=job.narrator.say)
    return Judge(named, only_if_better=named is not None)


def train_filters(job: Job, catalog: Catalog, judge: Judge) -> CalibratedFilters:
    """The filters of the study, trained and calibrated on the real images unless they are there."""
    folder, config = job.study.filters, job.config
    job.narrator.say("training and calibrating the filters on the real images ...")
    filters = prepare_filters(
        folder,
        catalog.images("train"),
        catalog.groups("train"),
        settings=config.synthesis,
        seed=config.seed,
        device=job.device,
        encoder=judge.encoder,
        only_if_better=judge.only_if_better,
        seen=seen_images(job, catalog),
        max_steps=config.advanced.filter_max_steps,
        progress=job.narrator.progress,
    )
    _tell_choice(job, filters)
    return filters


def seen_images(job: Job, catalog: Catalog) -> SeenImages:
    """All images that a copy may show: those of train, and unlabeled ones unless they are ignored."""
    return catalog.seen_images(unlabeled=job.config.diffusion.unlabeled != "ignore")


def _tell_choice(job: Job, filters: CalibratedFilters) -> None:
    """Says how well the classifiers of the filters know the real images, and why these were taken."""
    found = filters.recognition
    kinds = {"networks trained on the images": found.networks, "features of a pretrained encoder": found.encoder}
    known = {kind: value for kind, value in kinds.items() if value is not None}
    (best, value), *others = sorted(known.items(), key=lambda item: -item[1])
    instead = "".join(f"; {kind}: {percent(other, 0)}" for kind, other in others)
    job.narrator.say(
        f"the filters judge by {best}, which recognize {percent(value, 0)} of the held-out real images of a class on "
        f"average{instead}"
    )
