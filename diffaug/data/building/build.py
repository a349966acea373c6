"""A data folder becomes a catalog: scan, read each file once, group, split, choose a size, write pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffaug.configuration.settings import DataSettings
from diffaug.data import problems
from diffaug.data.building.changes import scan_fingerprint, stamps_beside, text_fingerprint
from diffaug.data.building.grouping import propose_groups, rule_of_names
from diffaug.data.building.layout import Layout
from diffaug.data.building.synthetic import scan_of_real_images
from diffaug.data.building.unlabeled import MakeDescription
from diffaug.data.catalog import COLUMNS, PICTURES, PIXELS, About, Catalog, save_catalog
from diffaug.data.domain import DomainReport
from diffaug.data.layouts.entries import Entry
from diffaug.data.layouts.groups import GroupRule
from diffaug.data.layouts.scan import Scan
from diffaug.data.masks.reading import MaskFiles, MaskReader, MaskSource, write_masks
from diffaug.data.problems import Refusal
from diffaug.data.reading.first_pass import STAMP, first_pass
from diffaug.data.reading.headers import all_pages, file_of, find_intensity
from diffaug.data.reading.parts import Reader, Source
from diffaug.data.reading.pictures import Pictures
from diffaug.data.reading.sources import save_stamps
from diffaug.data.resize import MeasureSize, SizeChoice, choose_resize
from diffaug.errors import DataError
from diffaug.files import storage
from diffaug.files.temporaries import remove
from diffaug.runtime.parallel import Progress


def build_catalog(
    root: Path,
    settings: DataSettings,
    *,
    directory: Path,
    seed: int,
    recorded: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    comparing: Progress | None = None,
    measure: MeasureSize | None = None,
    describe: MakeDescription | None = None,
    device: str = "cpu",
    keep_refused: bool = False,
) -> Catalog:
    """Reads a data folder in one of the layouts of `scan`, and saves its catalog.

    What an interrupted call left beside `directory` is used; it is removed at the end.

    `recorded` are settings to record with the catalog. `progress` and `comparing` are called with the number of images
    read, and of images compared in the search for near-duplicates. `measure` finds the working size if it is not set;
    without, it is that of the images, at most 64 px. `describe` makes what tells foreign images among the unlabeled
    ones; without, all of them count.

    Raises:
        UsageError: `root` is missing or a file.
        DataError: No layout fits, one class only, or no usable image. Unless `keep_refused` is set, also classes with
            too few training images, or masks that can't be used; else the catalog's `refusal` says so, and what was
            read stays beside it, so that reading it again takes little time.
    """
    found = scan_of_real_images(root, settings)
    problems.require_two_classes(found.classes, root, found.reading)
    named = _Named(scan_fingerprint(found), rule_of_names(found.entries) if settings.near_duplicates else None)
    parts = parts_beside(directory)
    images = _read(root, found, settings, parts, progress or (lambda done, total: None))
    found = replace(found, entries=())  # the table holds them in less memory
    problems.require_images(images.table, root)
    stamps = images.table[STAMP][images.table["page"] == 0].to_numpy(np.int64)
    metadata: dict[str, Any] = {"settings": dict(recorded or {}), "inputs": {"root": str(root)}}
    with storage.new_directory(directory, metadata) as staging:
        layout = Layout(
            images.table, images.pictures, images.reader, settings, staging / PIXELS, seed=seed, device=device
        )
        if settings.near_duplicates:
            layout.group(comparing)
        layout.split()
        size = layout.choose_size(found.classes, measure)
        domain = layout.settle_unlabeled(describe)
        table = layout.finish(staging / PICTURES)
        masks, refusal = MaskFiles(), None
        try:
            masks = _masks_if_trainable(staging, root, found, layout, table, settings=settings)
        except DataError as error:
            if not keep_refused:
                raise
            refusal = Refusal(error.what, error.where, error.fix)
        about = _about(
            found, named, images, layout, table, settings=settings, root=root, size=size, domain=domain, masks=masks
        )
        about = replace(about, refusal=refusal)
        save_catalog(staging, about, table[list(COLUMNS)])
        metadata["fingerprint"] = about.fingerprint
        stamps_beside(directory).unlink(missing_ok=True)  # it belongs to the catalog that is replaced now
    of_masks = np.zeros((len(masks.files), stamps.shape[1]), np.int64)  # unknown until they are looked at again
    save_stamps(stamps_beside(directory), np.concatenate([stamps, of_masks]))
    if refusal is None:
        remove(parts)
    del images, layout, table  # before the same is read from the disk
    return Catalog.load(directory)


@dataclass(frozen=True)
class _Named:
    """What paths and labels alone tell."""

    fingerprint: str
    rule: GroupRule | None


@dataclass(frozen=True, eq=False)
class _Images:
    table: pd.DataFrame
    pictures: Pictures
    reader: Reader
    remarks: list[str]


def parts_beside(directory: Path) -> Path:
    """The folder of what is read already, beside a catalog that is being made."""
    return directory.with_name(f"{directory.name}-parts")


def _read(root: Path, found: Scan, settings: DataSettings, parts: Path, progress: Progress) -> _Images:
    """Reads every page of every file that was found."""
    if settings.pages == "all":
        pages = list(all_pages(root, found.entries))
        entries, sources = [entry for entry, _ in pages], [Source(file_of(*page), page[1]) for page in pages]
    else:
        entries, sources = list(found.entries), [Source(entry.path) for entry in found.entries]
    intensity, remarks = find_intensity(root, found.entries, settings)
    reader = Reader(root, intensity, settings.image_size or 0)
    read = first_pass(reader, sources, parts, progress)
    if intensity is None and read.table["is_deep"].any():  # too rare for the sample of headers
        intensity, remarks = find_intensity(root, found.entries, settings, sure=True)
        reader = replace(reader, intensity=intensity)
        read = first_pass(reader, sources, parts, progress)
    table = _with_scan(read.table, entries)
    return _Images(table, read.pictures(), reader, remarks)


def _masks_if_trainable(
    staging: Path, root: Path, found: Scan, layout: Layout, table: pd.DataFrame, *, settings: DataSettings
) -> MaskFiles:
    """Writes the masks of images that can be trained on, else raises DataError."""
    given = layout.test_was_given
    problems.require_training_images(table, found.classes, settings, test_was_given=given, root=root)
    reader = MaskReader(root, layout.image_size, layout.resize)
    return write_masks(staging, root, _mask_sources(table), settings, reader)


def _about(
    found: Scan,
    named: _Named,
    images: _Images,
    layout: Layout,
    table: pd.DataFrame,
    *,
    settings: DataSettings,
    root: Path,
    size: SizeChoice | None,
    domain: DomainReport,
    masks: MaskFiles,
) -> About:
    return About(
        classes=found.classes,
        image_size=layout.image_size,
        channels=layout.channels,
        root=root.resolve(),
        reading=found.reading,
        resize=choose_resize(layout.labeled_sizes, layout.image_size, settings),
        size=size,
        intensity=images.reader.intensity,
        proposal=propose_groups(named.rule, layout.usable) if named.rule else None,
        leaks=layout.leaks,
        domain=domain,
        problems=[*found.remarks, *images.remarks, *problems.find_problems(table, found.classes, layout.leaks)],
        refusal=None,
        fingerprint=_fingerprint(table, layout, images.reader, masks),
        scan_fingerprint=named.fingerprint,
    )


def _with_scan(table: pd.DataFrame, entries: Sequence[Entry]) -> pd.DataFrame:
    """The table with what the scan tells of each image."""
    fields = ("path", "label", "split", "group", "mask")
    columns = {
        name: pd.Series([getattr(entry, name) or "" for entry in entries], dtype="str", index=table.index)
        for name in fields
    }
    return table.assign(**columns, picture="")


def _mask_sources(table: pd.DataFrame) -> list[MaskSource]:
    """The masks of training images, on which alone anything is made."""
    masked = table[(table["split"] == "train") & (table["mask"] != "") & (table["page"] == 0)]
    columns = masked[["path", "mask", "height", "width", "label"]].itertuples(index=False, name=None)
    return [MaskSource(*row) for row in columns]


def _fingerprint(table: pd.DataFrame, layout: Layout, reader: Reader, masks: MaskFiles) -> str:
    made = (*layout.image_size, layout.channels, layout.resize, reader.rule)
    weights = table["weight"].to_numpy()
    columns = (table[name] for name in ("path", "sha256", "label", "split"))
    of_masks = [masks.images, masks.sha256] if masks.images else []
    return text_fingerprint(map(str, made), *columns, map(str, weights[weights < 1]), *of_masks)
