"""Images of a study as files that other libraries load, each with its origin.

A format is a function that writes `ExportItems` into a folder. It is found by entry point, group
`diffaug.exporters`, so that a package can add one; diffaug's own, in `export_formats`, are registered there too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from threading import Lock
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from diffaug._version import __version__
from diffaug.data.catalog import Catalog
from diffaug.data.entries import SPLITS, listed
from diffaug.data.loading import Progress
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.synthesis.export.items import Counts, ExportItems, Only, collect_items
from diffaug.synthesis.pool.pool import MANIFEST, Pool

ENTRY_POINT_GROUP = "diffaug.exporters"
DATASET = "dataset.json"


@dataclass(frozen=True)
class ExportSettings:
    """What is exported, where to and how.

    Attributes:
        out: The folder to make.
        format: Name of an entry point of `diffaug.exporters`.
        only: "synthetic" leaves the real images out.
        splits: Which splits; none: all that have images. Synthetic images belong to "train".
        shard_size: Images a file, in formats that put many into one; at least 1.
        seed: Decides the order of images where a format mixes them.
        overwrite: Replace an older export.

    Raises:
        UsageError: A value is none of these.
    """

    out: Path
    format: str = "imagefolder"
    only: Only = "all"
    splits: tuple[str, ...] = ()
    shard_size: int = 1000
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.only not in get_args(Only):
            raise UsageError(f"only='{self.only}' is unknown", fix=f"one of: {', '.join(get_args(Only))}")
        unknown = [split for split in self.splits if split not in SPLITS]
        if unknown:
            raise UsageError(f"there is no split '{unknown[0]}'", fix=f"splits: {', '.join(SPLITS)}")
        if self.shard_size < 1:
            raise UsageError(f"shard_size {self.shard_size}: a shard holds at least one image")


class Exporter(Protocol):
    """Writes all images, and nothing outside `folder`; the same items and settings give the same bytes."""

    def __call__(self, items: ExportItems, folder: Path, settings: ExportSettings) -> str:
        """Writes into `folder`, which holds only `dataset.json` and afterwards becomes `settings.out`.

        Returns:
            The line of Python that loads it from `settings.out`.
        """


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        path: Its folder.
        counts: Images by split, origin and class.
        load: The line of Python that loads it.
    """

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
    """Writes real and synthetic images, or synthetic ones only, as one committed directory.

    Args:
        catalog: The real images, exported as they were decoded, at the working size.
        pool: The synthetic images, which become part of the train split.
        settings: What, where to and how.
        keep_out_of: Folders that the export must not lie in.
        progress: Called with (images done, images in all), once at a time, from whichever thread.

    Raises:
        UsageError: An unknown format, nothing to export, a pool of other images, or a folder that can't be used.
        DamagedError: An image of the pool was changed.
    """
    exporter = find_exporter(settings.format)
    out = require_free(settings.out, overwrite=settings.overwrite, keep_out_of=keep_out_of)
    items = collect_items(catalog, pool, only=settings.only, splits=settings.splits)
    items = replace(items, read=_reporting(items.read, len(items.table), progress or (lambda done, total: None)))
    facts = {
        "export": settings.format,
        "only": settings.only,
        "splits": list(items.splits),
        "seed": settings.seed,
        "catalog": catalog.fingerprint,
        "pool": storage.sha256_file(pool.root / MANIFEST),
    }
    counts = items.counts()
    with storage.new_directory(out, facts) as staging:
        about = {
            "diffaug": __version__,
            "classes": list(items.classes),
            "images": counts,
            "unsafe_to_publish": list(items.unsafe_to_publish),
        }
        storage.write_json(staging / DATASET, about)
        load = exporter(items, staging, settings)
    return Export(settings.out, counts, load)


def find_exporter(name: str) -> Exporter:
    """The exporter of that name.

    Raises:
        UsageError: There is none.
    """
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in points:
        raise UsageError(f"unknown export format '{name}'", fix=f"formats: {', '.join(sorted(points))}")
    exporter: Exporter = points[name].load()
    return exporter


def require_free(out: Path, *, overwrite: bool, keep_out_of: Sequence[Path] = ()) -> Path:
    """Makes sure that an export can be put at `out`.

    Args:
        out: A folder that is missing or empty, or, with `overwrite`, an export without foreign files.
        overwrite: Whether an older export may go.
        keep_out_of: Folders that `out` must not be or lie in.

    Returns:
        `out` without links, so that what a link points to is replaced and not the link.

    Raises:
        UsageError: It can't be used, and why.
    """
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
    """Raises UsageError unless `target` holds nothing but an older export, and that may be replaced."""
    record = storage.read_json(target / storage.DONE) if (target / storage.DONE).is_file() else {}
    if not isinstance(record, dict) or "export" not in record.get("facts", {}):
        raise UsageError("the folder is not empty and not an export", where=target, fix="choose another folder")
    if not overwrite:
        raise UsageError("there is an export already", where=target, fix="choose another folder, or add --overwrite")
    known = {storage.DONE, *record["files"]}
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    if found - known:
        raise UsageError(
            f"files that no export made would be lost: {listed(found - known)}",
            where=target,
            fix="move them elsewhere, or choose another folder",
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
