"""Exports the images of a study in formats of other libraries, with the origin of each image.

A format is an entry point of the group `diffaug.exporters`, so other packages can add formats.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from diffaug._version import __version__
from diffaug.data.catalog import Catalog
from diffaug.data.layouts.entries import SPLITS, listed
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.runtime.parallel import Progress
from diffaug.synthesis.export.items import Counts, ExportItems, Only, collect_items
from diffaug.synthesis.pool.pool import Pool
from diffaug.synthesis.review.summary import pool_fingerprint

ENTRY_POINT_GROUP, DATASET = "diffaug.exporters", "dataset.json"
Depth = Literal["8", "source"]


@dataclass(frozen=True)
class ExportSettings:
    """The settings of an export, see `DiffusionAugmenter.export`.

    The format is the name of an entry point. The seed decides the order of images in formats that shuffle them.
    Whoever opens the pool looks at `include_blind`.
    """

    out: Path
    format: str = "imagefolder"
    only: Only = "all"
    splits: tuple[str, ...] = ()
    shard_size: int = 1000
    seed: int = 0
    overwrite: bool = False
    depth: Depth = "8"
    include_blind: bool = False

    def __post_init__(self) -> None:
        if self.only not in get_args(Only):
            raise UsageError(f"unknown value only='{self.only}'", fix=f"one of: {', '.join(get_args(Only))}")
        if self.depth not in get_args(Depth):
            raise UsageError(f"unknown value depth='{self.depth}'", fix=f"one of: {', '.join(get_args(Depth))}")
        unknown = [split for split in self.splits if split not in SPLITS]
        if unknown:
            raise UsageError(f"there is no split '{unknown[0]}'", fix=f"splits: {', '.join(SPLITS)}")
        if self.shard_size < 1:
            raise UsageError(f"shard_size must be at least 1, not {self.shard_size}")


class Exporter(Protocol):
    """Writes all images and nothing outside `folder`; the same items and settings give the same bytes."""

    def __call__(self, items: ExportItems, folder: Path, settings: ExportSettings) -> str:
        """Writes into `folder`, which becomes `settings.out`; returns a line of Python that loads it from there."""


@dataclass(frozen=True)
class Export:
    """A finished export: its folder, images by split, origin and class, and a line of Python that loads it."""

    path: Path
    counts: Counts
    load: str

    def __len__(self) -> int:
        return sum(sum(by_class.values()) for by_origin in self.counts.values() for by_class in by_origin.values())


def export_images(
    catalog: Catalog,
    pool: Pool,
    settings: ExportSettings,
    *,
    keep_out_of: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Export:
    """Exports real and synthetic images, or only synthetic ones, as one committed directory.

    Real images are exported as decoded, at the working size. At the depth of the source, what was more than 8 bits
    becomes 16-bit values of the source again; `dataset.json` says how to read them.

    `progress` is called with (images done, all images), one call at a time, from any thread.
    """
    exporter = _find_exporter(settings.format)
    out = _require_free(settings.out, overwrite=settings.overwrite, keep_out_of=keep_out_of)
    items = collect_items(catalog, pool, only=settings.only, splits=settings.splits)
    read = _reporting(items.read, len(items.table), progress or (lambda done, total: None))
    items = replace(items, read=read, intensity=catalog.intensity if settings.depth == "source" else None)
    made_of = {"catalog": catalog.fingerprint, "pool": pool_fingerprint(pool)}
    chosen = {"only": settings.only, "splits": list(items.splits), "seed": settings.seed, "depth": settings.depth}
    facts = {"export": settings.format, **chosen, "left_out": list(pool.left_out), **made_of}
    counts = items.counts()
    with storage.new_directory(out, facts) as staging:
        about = {"diffaug": __version__, "classes": list(items.classes), "images": counts}
        if items.intensity is not None:
            scale, offset = items.intensity.stored
            about["values"] = f"source value = {offset:.12g} + {scale:.12g} * value in the file"
        storage.write_json(staging / DATASET, {**about, "unsafe_to_publish": list(items.unsafe_to_publish)})
        load = exporter(items, staging, settings)
    return Export(settings.out, counts, load)


def _find_exporter(name: str) -> Exporter:
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in points:
        raise UsageError(f"unknown export format '{name}'", fix=f"formats: {', '.join(sorted(points))}")
    exporter: Exporter = points[name].load()
    return exporter


def _require_free(out: Path, *, overwrite: bool, keep_out_of: Sequence[Path]) -> Path:
    """`out` with links resolved, so that the target of a link is replaced and not the link."""
    target = out.resolve()
    for folder in keep_out_of:
        if target.is_relative_to(folder.resolve()):
            raise UsageError(f"the export would lie inside {folder}", where=out, fix="choose a folder outside")
    existing = next(path for path in (target, *target.parents) if path.exists())
    if not existing.is_dir():
        raise UsageError("this is a file, not a folder", where=existing, fix="choose another folder")
    if target.is_mount() or Path.cwd().is_relative_to(target):
        raise UsageError(
            "a mount point or the working directory can't be replaced in one step",
            where=out,
            fix="name a new folder inside it",
        )
    if target.is_dir() and any(target.iterdir()):
        _require_replaceable(target, overwrite)
    return target


def _require_replaceable(target: Path, overwrite: bool) -> None:
    record = storage.read_json(target / storage.DONE) if (target / storage.DONE).is_file() else {}
    if not isinstance(record, dict) or "export" not in record.get("metadata", {}):
        raise UsageError("the folder is not empty and not an export", where=target, fix="choose another folder")
    if not overwrite:
        raise UsageError(
            "this folder holds an export already", where=target, fix="choose another folder, or add --overwrite"
        )
    known = {storage.DONE, storage.LISTING, *storage.recorded_files(target)}
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    if found - known:
        raise UsageError(
            f"files that diffaug did not export would be lost: {listed(found - known)}",
            where=target,
            fix="move them, or choose another folder",
        )


def _reporting(
    read: Callable[[int], NDArray[np.uint8]], total: int, progress: Progress
) -> Callable[[int], NDArray[np.uint8]]:
    done, one_at_a_time = itertools.count(1), Lock()

    def reporting(position: int) -> NDArray[np.uint8]:
        pixels = read(position)
        with one_at_a_time:
            progress(next(done), total)
        return pixels

    return reporting
