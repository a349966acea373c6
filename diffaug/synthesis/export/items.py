"""The images of an export, real and synthetic, as one table with one way to read their pixels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diffaug.data.catalog import Catalog
from diffaug.data.entries import SPLITS, Split
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.synthesis.pool.pool import Pool

ORIGIN_REAL = "real"

Only = Literal["all", "synthetic"]
Counts = dict[str, dict[str, dict[str, int]]]
"""Images by split, then origin, then class name."""


@dataclass(frozen=True, eq=False)
class ExportItems:
    """The images to export; pixels are read when asked for.

    Attributes:
        classes: Class names in index order; a class may have no image.
        table: One row an image. `name` is unique, says whether the image is real, and has neither dot nor slash;
            `split`, `label` (class name), `class_index`; `origin` is "real", or as in the pool's manifest; `source`
            names the real image behind it, if any; then the manifest's other columns, null for real images.
        read: Pixels of a row, uint8 (H, W, C).
        unsafe_to_publish: Why the synthetic images should not leave the house, in sentences.
    """

    classes: tuple[str, ...]
    table: pa.Table
    read: Callable[[int], NDArray[np.uint8]]
    unsafe_to_publish: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have images, train first."""
        found = set(self.table["split"].to_pylist())
        return tuple(split for split in SPLITS if split in found)

    def positions(self, split: Split) -> NDArray[np.int64]:
        """Rows of one split, int64, in order."""
        return np.flatnonzero(self.table["split"].to_numpy() == split).astype(np.int64)

    def rows(self, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        """What the table says of some images."""
        rows: list[dict[str, Any]] = self.table.take(positions).to_pylist()
        return rows

    def png(self, position: int) -> bytes:
        """One image as PNG without metadata; may be called from several threads."""
        return storage.png_bytes(self.read(position))

    def counts(self) -> Counts:
        """Images by split, origin and class; every class is there, also with none."""
        columns = [self.table[name].to_pylist() for name in ("split", "origin", "label")]
        result: Counts = {split: {} for split in self.splits}
        for split, origin, label in zip(*columns, strict=True):
            result[split].setdefault(origin, dict.fromkeys(self.classes, 0))[label] += 1
        return result


def collect_items(catalog: Catalog, pool: Pool, *, only: Only, splits: Collection[str] = ()) -> ExportItems:
    """The images of a study.

    Args:
        catalog: The real images.
        pool: The synthetic images, which become part of the train split.
        only: "synthetic" leaves the real images out.
        splits: Which splits; none: all that have images.

    Raises:
        UsageError: There is no such image, or the pool was generated from other images than the catalog's: its
            generator may have been trained on what is now the test split.
    """
    inputs = (storage.committed_facts(pool.root) or {}).get("inputs", {})
    if inputs.get("catalog") != catalog.fingerprint:
        raise UsageError(
            "the pool was generated from other images, or another split of them",
            where=pool.root,
            fix="diffaug fit and generate again with --overwrite",
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
            fix=f"splits that have some: {', '.join(split for split in SPLITS if counts[split]) or 'none'}",
        )
    return chosen


def _real_images(catalog: Catalog, split: Split) -> tuple[pa.Table, NDArray[np.uint8]]:
    """The real images of a split, named by their number in the catalog, which no choice of splits changes."""
    images = catalog.images(split)
    numbers = {path: number for number, path in enumerate(catalog.table["path"])}
    names = [f"real-{numbers[path]:06d}" for path in images.ids]
    origins = [ORIGIN_REAL] * len(names)
    table = _table(names, images.labels, split=split, classes=images.classes, origins=origins, sources=images.ids)
    return table, images.pixels


def _synthetic_images(pool: Pool) -> pa.Table:
    """The images of the pool, named by class and sample index, which stay the same when the pool is extended."""
    manifest = pool.manifest
    indices = zip(pool.labels, manifest["index"], strict=True)
    names = [f"synthetic-{class_index:04d}-{index:06d}" for class_index, index in indices]
    sources = manifest["source"] if "source" in manifest else [""] * len(names)
    table = _table(names, pool.labels, split="train", classes=pool.classes, origins=manifest["origin"], sources=sources)
    others = manifest.drop(columns=["file", *table.column_names], errors="ignore")
    for name, column in zip(others, pa.Table.from_pandas(others, preserve_index=False).columns, strict=True):
        table = table.append_column(str(name), column)
    return table


def _table(
    names: list[str],
    labels: NDArray[np.int64],
    *,
    split: Split,
    classes: tuple[str, ...],
    origins: Iterable[str],
    sources: Iterable[str],
) -> pa.Table:
    def texts(values: Iterable[str]) -> pa.Array:
        return pa.array(list(values), pa.string())  # the type is the same where there is no value

    return pa.table(
        {
            "name": texts(names),
            "split": texts([split] * len(names)),
            "label": texts(classes[label] for label in labels),
            "class_index": pa.array(labels, pa.int64()),
            "origin": texts(origins),
            "source": texts(sources),
        }
    )
