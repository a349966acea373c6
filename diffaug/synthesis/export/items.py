"""The images of an export, real and synthetic, as one table."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diffaug.data.catalog import Catalog
from diffaug.data.layouts.entries import SPLITS, Split
from diffaug.decoding.intensity import IntensityRange
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.files.stage_records import required_record
from diffaug.synthesis.pool.pool import Pool

ORIGIN_REAL = "real"

COLUMNS = ["name", "split", "label", "class_index", "origin", "source"]

Only = Literal["all", "synthetic"]
Counts = dict[str, dict[str, dict[str, int]]]
"""Images by split, then origin, then class name."""


@dataclass(frozen=True, eq=False)
class ExportItems:
    """The images to export; pixels are read on demand.

    Attributes:
        classes: Class names in index order; a class may have no image.
        table: One row per image. `name` is unique, starts with "real" or "synthetic" and has neither dot nor slash;
            `split`; `label` (class name); `class_index`; `origin` is "real" or as in the pool's manifest; `source`
            names the real image behind it, if any; then the other columns of the manifest, null for real images.
        read: Pixels of a row, uint8 (H, W, C).
        unsafe_to_publish: Reasons against publishing the synthetic images, in sentences.
        intensity: Which values of the source black and white were, if images are written as such values of 16 bits.
    """

    classes: tuple[str, ...]
    table: pa.Table
    read: Callable[[int], NDArray[np.uint8]]
    unsafe_to_publish: tuple[str, ...] = ()
    intensity: IntensityRange | None = None

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits with images, train first."""
        found = set(self.table["split"].to_pylist())
        return tuple(split for split in SPLITS if split in found)

    def positions(self, split: Split) -> NDArray[np.int64]:
        """Rows of one split, int64, in order."""
        return np.flatnonzero(self.table["split"].to_numpy() == split).astype(np.int64)

    def rows(self, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Rows of the table as dictionaries."""
        rows: list[dict[str, Any]] = self.table.take(positions).to_pylist()
        return rows

    def png(self, position: int) -> bytes:
        """One image as PNG without metadata; may be called from several threads."""
        pixels = self.read(position)
        return storage.png_bytes(pixels if self.intensity is None else self.intensity.to_source_depth(pixels))

    def counts(self) -> Counts:
        """Images by split, origin and class; classes without images count 0."""
        columns = [self.table[name].to_pylist() for name in ("split", "origin", "label")]
        result: Counts = {split: {} for split in self.splits}
        for split, origin, label in zip(*columns, strict=True):
            result[split].setdefault(origin, dict.fromkeys(self.classes, 0))[label] += 1
        return result


def collect_items(catalog: Catalog, pool: Pool, *, only: Only, splits: Collection[str] = ()) -> ExportItems:
    """The images of a study; those of the pool become part of the train split."""
    # of another catalog, the generator may have seen the present test images
    if required_record(pool.root).inputs.get("catalog") != catalog.fingerprint:
        raise UsageError(
            "the pool was generated from other images or another split",
            where=pool.root,
            fix="run diffaug fit and diffaug generate again with --overwrite",
        )
    tables: list[pa.Table] = []
    sources: list[tuple[Callable[[int], NDArray[np.uint8]], int]] = []
    for split in _chosen_splits(catalog, pool, only, splits):
        if only == "all":
            table, pixels = _real_images(catalog, split)
            tables.append(table)
            sources += [(pixels.__getitem__, position) for position in range(len(table))]
        if split == "train":
            tables.append(_synthetic_images(pool))
            sources += [(pool.read, position) for position in range(len(pool))]

    def read(position: int) -> NDArray[np.uint8]:
        reader, index = sources[position]
        return reader(index)

    table = pa.concat_tables(tables, promote_options="default")
    holds_synthetic = any(origin != ORIGIN_REAL for origin in table["origin"].unique().to_pylist())
    return ExportItems(catalog.classes, table, read, pool.unsafe_to_publish if holds_synthetic else ())


def _chosen_splits(catalog: Catalog, pool: Pool, only: Only, splits: Collection[str]) -> list[Split]:
    counts = catalog.counts().sum() * (only == "all")
    counts["train"] += len(pool)
    missing = [split for split in splits if not counts[split]]
    chosen = [split for split in SPLITS if counts[split] and split in (splits or SPLITS)]
    if missing or not chosen:
        what = "images" if only == "all" else "synthetic images"
        raise UsageError(
            f"there are no {what} of the split '{missing[0]}'" if missing else f"there are no {what} to export",
            where=catalog.root if only == "all" else pool.root,
            fix=f"splits with images: {', '.join(split for split in SPLITS if counts[split]) or 'none'}"
            + ("; or export those of blind classes, too: --include-blind" if pool.left_out else ""),
        )
    return chosen


def _real_images(catalog: Catalog, split: Split) -> tuple[pa.Table, NDArray[np.uint8]]:
    """The real images of a split, named by their number in the catalog, whatever splits are exported."""
    images = catalog.images(split)
    numbers = {path: number for number, path in enumerate(catalog.table["path"])}
    names = [f"real-{numbers[path]:06d}" for path in images.ids]
    origins = [ORIGIN_REAL] * len(names)
    table = _table(names, images.labels, images.classes, split, origin=origins, source=images.ids)
    return table, images.pixels


def _synthetic_images(pool: Pool) -> pa.Table:
    """The images of the pool, named by class and sample index, which an extension of the pool does not change."""
    manifest = pool.manifest
    indices = zip(pool.labels, manifest["index"], strict=True)
    names = [f"synthetic-{class_index:04d}-{index:06d}" for class_index, index in indices]
    sources = manifest["source"] if "source" in manifest else [""] * len(names)
    table = _table(names, pool.labels, pool.classes, "train", origin=manifest["origin"], source=sources)
    others = manifest.drop(columns=["file", *table.column_names], errors="ignore")
    for name, column in zip(others, pa.Table.from_pandas(others, preserve_index=False).columns, strict=True):
        table = table.append_column(str(name), column)
    return table


def _table(
    names: list[str], labels: NDArray[np.int64], classes: tuple[str, ...], split: Split, **texts: Iterable[str]
) -> pa.Table:
    texts |= {"name": names, "split": [split] * len(names), "label": [classes[label] for label in labels]}
    columns = {name: pa.array(list(values), pa.string()) for name, values in texts.items()}  # also if there are none
    return pa.table({**columns, "class_index": pa.array(labels, pa.int64())}).select(COLUMNS)
