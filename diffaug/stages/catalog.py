"""The catalog of a study: read once, again only if the data folder changed, and described."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from diffaug.classifiers.encoders.domain import describe_by
from diffaug.classifiers.working_size import choose_working_size
from diffaug.configuration.settings import Config
from diffaug.data.building.build import build_catalog, parts_beside
from diffaug.data.building.changes import describe_changes
from diffaug.data.catalog import Catalog
from diffaug.data.domain import Describe, Shown
from diffaug.data.layouts.entries import ALL_SPLITS
from diffaug.data.resize import SizeChoice
from diffaug.errors import DamagedError, DataError, Interrupted, UsageError
from diffaug.files.stage_records import finished_record, require_same_settings
from diffaug.files.temporaries import remove
from diffaug.stages.job import Job

MAX_LISTED_PROBLEMS = 8


def prepare_catalog(job: Job, *, refuse: bool = True) -> Catalog:
    """The study's catalog, made or brought up to date, unless the images changed under a trained generator.

    Raises:
        DataError: The images can't be read or, unless `refuse` is false, trained on.
    """
    catalog = _prepared(job)
    if refuse and catalog.refusal is not None:
        with findings_first(job, catalog):
            raise catalog.refusal.error()
    return catalog


@contextmanager
def findings_first(job: Job, catalog: Catalog) -> Iterator[None]:
    """If the block refuses the images, shows first what was found in them."""
    try:
        yield
    except DataError as error:
        show_catalog(job, catalog)
        error.results = error.results or results_of(catalog)
        raise


def _prepared(job: Job) -> Catalog:
    folder, settings = job.study.catalog, _catalog_settings(job.config)
    root = job.study.record.data
    _require_study_apart(job)
    try:
        made = finished_record(folder)
    except DamagedError:
        if not job.overwrite:
            raise
        made = None
    if made is not None and not job.study.has_begun and made.inputs.get("root") != str(root):
        made = None  # other images were looked at under this name
    if made is not None and not job.overwrite and _is_trained(job):
        require_same_settings(folder, made.settings, settings)
    if made is not None and made.settings == settings and (catalog := _kept(job)) is not None:
        if missing := next((folder for folder in _folders(job, root) if not folder.is_dir()), None):
            job.narrator.warn(f"the folder {missing} is missing; using the copy of its images in the study")
            return catalog
        changes = describe_changes(catalog, root, job.config.data, folder)
        if not changes and catalog.refusal is None:
            remove(parts_beside(folder), ignore_errors=True)  # left by a process that was killed when it was done
            return catalog
        if _is_trained(job) and not job.overwrite:
            raise UsageError(
                f"the images changed since this study's generator was trained: {changes}",
                where=root,
                fix="add --overwrite to start again with the new images, or use another study",
            )
        if changes and not job.overwrite:
            job.narrator.say(f"the images changed, reading them again: {changes}")
    return _build(job, root)


def _kept(job: Job) -> Catalog | None:
    """The catalog in the study; None if it is damaged and may be made anew."""
    try:
        return Catalog.load(job.study.catalog)
    except DamagedError:
        if job.overwrite:
            return None
        raise


def _folders(job: Job, root: Path) -> list[Path]:
    """The folders of labeled and of further images."""
    further = job.config.data.unlabeled
    return [root, *([Path(further)] if further else [])]


def _require_study_apart(job: Job) -> None:
    """Raises a UsageError if the images of the study would be read as unlabeled ones."""
    further = job.config.data.unlabeled
    if further and job.study.path.resolve().is_relative_to(Path(further).resolve()):
        what = "the study is inside the folder of unlabeled images, where its own images would be read"
        raise UsageError(what, where=job.study.path, fix="choose a folder outside with --study")


def _catalog_settings(config: Config) -> dict[str, object]:
    return {"seed": config.seed, **config.data.model_dump(mode="json")}


def show_catalog(job: Job, catalog: Catalog) -> None:
    """Reports how the folder was read, the counts by class and split, the working size, and the problems found."""
    say, warn = job.narrator.say, job.narrator.warn
    say(catalog.reading)
    counts = catalog.counts()
    rows = counts.astype(str).reset_index().to_numpy().tolist()
    job.narrator.table("Images", ["class", *map(str, counts.columns)], rows)
    for sentence in facts_of(catalog):
        say(sentence)
    if catalog.size and catalog.size.scores:
        columns = ["short side", "balanced accuracy, %", "standard error, points"]
        job.narrator.table("Working size", columns, _scores(catalog.size))
    for problem in catalog.problems[:MAX_LISTED_PROBLEMS]:
        warn(problem)
    more = len(catalog.problems) - MAX_LISTED_PROBLEMS
    if more > 0:
        warn(f"and {more} more problems: diffaug inspect {shlex.quote(str(catalog.root))} --json")


def _scores(size: SizeChoice) -> list[list[str]]:
    return [
        [f"{one.side} px", f"{100 * one.balanced_accuracy:.1f}", f"{100 * one.standard_error:.1f}"]
        for one in size.scores
    ]


def _build(job: Job, root: Path) -> Catalog:
    read = {"done": 0, "total": 0}

    def reading(done: int, total: int) -> None:
        read.update(done=done, total=total)
        job.narrator.progress("reading images", done, total)

    try:
        return build_catalog(
            root,
            job.config.data,
            directory=job.study.catalog,
            seed=job.config.seed,
            recorded=_catalog_settings(job.config),
            progress=reading,
            comparing=lambda done, total: job.narrator.progress("comparing images", done, total),
            measure=choose_working_size,
            describe=partial(_describe, job),
            device=job.device,
            keep_refused=not _is_trained(job),
        )
    except KeyboardInterrupt as stop:
        done = f"{read['done']:,} of {read['total']:,} files were read and are kept"
        raise Interrupted(f"stopped: {done}", where=job.study.path, fix=f"continue with: {job.command}") from stop


def _describe(job: Job, labeled: Shown) -> Describe | None:
    job.narrator.say("looking for foreign images among the unlabeled ones ...")
    return describe_by(labeled, encoder=job.config.encoder, device=job.device, seed=job.config.seed)


def _is_trained(job: Job) -> bool:
    """Whether there is a generator of these images, a pilot, or the beginning of either."""
    return job.study.has_training


def facts_of(catalog: Catalog) -> list[str]:
    """Sentences on sizes, depth, groups, unlabeled images and masks."""
    return [
        _sizes(catalog),
        *([catalog.intensity.describe()] if catalog.intensity else []),
        *_groups(catalog),
        *_unlabeled(catalog),
        *_count("images with a mask, which is kept beside them", int((catalog.usable["mask"] != "").sum())),
    ]


def results_of(catalog: Catalog) -> dict[str, Any]:
    """Everything that `inspect` found."""
    counts, table = catalog.counts(), catalog.table
    unusable = table.loc[table["status"] != "ok", ["path", "status", "note"]].astype(str)
    return {
        "reading": catalog.reading,
        "counts": {str(split): {str(name): int(n) for name, n in counts[split].items()} for split in counts},
        "images_by_split": {split: len(catalog.rows(split)) for split in ALL_SPLITS},
        "image_size": list(catalog.image_size),
        "size": catalog.size and asdict(catalog.size),
        "resize": asdict(catalog.resize),
        "channels": catalog.channels,
        "intensity": catalog.intensity and asdict(catalog.intensity),
        "groups": int(_grouped(catalog).nunique()),
        "proposed_groups": catalog.proposal and asdict(catalog.proposal),
        "pictures_shown_again": int(_shown(catalog).duplicated().sum()),
        "leaks": [asdict(leak) for leak in catalog.leaks],
        "unlabeled": {
            "used": len(catalog.rows("unlabeled")),
            "left_out": catalog.usable["left_out"][catalog.usable["left_out"] != ""].value_counts().to_dict(),
            **asdict(catalog.domain),
        },
        "masks": int((catalog.usable["mask"] != "").sum()),
        "statuses": table["status"].astype(str).value_counts().to_dict(),
        "problems": catalog.problems,
        "unusable": unusable.to_dict("records"),
    }


def _sizes(catalog: Catalog) -> str:
    height, width = catalog.image_size
    heights, widths = catalog.usable["height"], catalog.usable["width"]
    smallest, largest = (f"{of(widths)} x {of(heights)}" for of in (min, max))
    found = smallest if smallest == largest else f"{smallest} to {largest}"
    shape = "" if (heights == height).all() and (widths == width).all() else f" of {found} px; {catalog.resize.reason}"
    why = f"; {catalog.size.reason}" if catalog.size else ""
    return f"working size {width} x {height} px, {'RGB' if catalog.channels == 3 else 'gray'}, for images{shape}{why}"


def _groups(catalog: Catalog) -> list[str]:
    grouped, proposal, alike = _grouped(catalog), catalog.proposal, _shown(catalog)
    sentences = []
    if len(grouped):
        cut = int((catalog.usable["split"].groupby(grouped).nunique() > 1).sum())
        where = f"{cut:,} of them in more than one split" if cut else "each on one side of the split"
        sentences.append(f"{grouped.nunique():,} groups of {len(grouped):,} images, {where}")
    if len(alike):
        sentences.append(f"{alike.nunique():,} sets of near-duplicates, {len(alike):,} images in all")
    if proposal:
        more = ", which near-duplicates confirm" if proposal.confirmed else ""
        option = f"--group-by {shlex.quote(proposal.pattern)}"
        sentences.append(f"{proposal.evidence}{more}; to keep groups together: {option}")
    return sentences


def _unlabeled(catalog: Catalog) -> list[str]:
    """How many unlabeled images are used, and how much of the other ones they look like."""
    number, found = len(catalog.rows("unlabeled")), catalog.domain
    if not number and not found.foreign:
        return []
    told = ""
    if found.measured_by:
        lighter = f", {found.weighed_down:,} of them with less weight, being less like the labeled ones"
        told = f"{lighter if found.weighed_down else ''}; left out as foreign: {found.foreign:,}"
        told += f" (measured by {found.measured_by})"
    return [f"{number:,} unlabeled images are used{told}"]


def _grouped(catalog: Catalog) -> pd.Series[str]:
    return catalog.usable["group"][catalog.usable["group"] != ""]


def _shown(catalog: Catalog) -> pd.Series[str]:
    return catalog.usable["picture"][catalog.usable["picture"] != ""]


def _count(what: str, number: int) -> list[str]:
    return [f"{number:,} {what}"] if number else []
