"""The merge: the chunks of a class in order, without duplicates, up to the target.

What the merge keeps of a chunk depends only on that chunk and on those before it, so it does not matter when or where
they were computed, or whether unneeded ones exist. A higher target continues a lower one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.files import storage
from diffaug.files.records import write_record
from diffaug.synthesis.filters.calibrated import CalibratedFilters
from diffaug.synthesis.filters.scores import DUPLICATE
from diffaug.synthesis.pool.chunks import DESCRIPTOR, PNG, REASON, ChunkStore
from diffaug.synthesis.pool.pool import (
    IMAGES,
    MANIFEST,
    REJECTED,
    REJECTED_IMAGES,
    SUMMARIES,
    SUMMARY,
    ClassSummary,
)

SHOWN_REJECTED = 24


def manifest_columns(score_names: Iterable[str]) -> list[str]:
    """Columns of the manifest: where an image came from, the scores of the filters, and what identifies it."""
    drawn = ["file", "label", "class_index", "origin", "source", "mask_source", "mask_place"]
    drawn += ["strength", "seed", "index"]
    how = ["guidance_method", "guidance_scale", "solver", "num_inference_steps", "generator_sha256", "filters"]
    return [*drawn, *how, *score_names, "nearest", "sha256"]


class ClassMerge:
    """One class being filled, given up after `max_attempts` candidates for each of `target` images."""

    def __init__(self, label: str, class_index: int, target: int, *, chunk_size: int, max_attempts: int) -> None:
        self.label, self.class_index, self.target = label, class_index, target
        self.rejected: Counter[str] = Counter()
        self._size = chunk_size
        self.most_chunks = -(-target * max_attempts // chunk_size)
        self._reasons: list[NDArray[np.object_]] = []
        self._passed = 0
        self._descriptors: NDArray[np.float32] | None = None

    @property
    def kept(self) -> int:
        """Images that passed all filters and are no duplicates, at most `target`."""
        return min(self._passed, self.target)

    @property
    def decided(self) -> int:
        """Chunks merged so far, which is the number of the next one."""
        return len(self._reasons)

    @property
    def is_over(self) -> bool:
        """Whether the class is full or given up."""
        return self._passed >= self.target or self.decided >= self.most_chunks

    @property
    def needed_chunks(self) -> int:
        """Estimate of all chunks needed at the present acceptance rate, at most `most_chunks`."""
        if not self.decided:
            return min(self.most_chunks, math.ceil(self.target / self._size))
        if not self._passed:
            return min(self.most_chunks, 2 * self.decided + 1)
        return min(self.most_chunks, math.ceil(self.target * self.decided / self._passed))

    def advance(self, store: ChunkStore, filters: CalibratedFilters) -> None:
        """Merges the finished chunks that come next."""
        if self.is_over:
            return
        finished = store.finished(self.class_index)
        while not self.is_over and self.decided in finished:
            chunk = store.read(self.class_index, self.decided, [REASON, DESCRIPTOR])
            self._decide(np.array(chunk[REASON], object), chunk[DESCRIPTOR], filters)
        if self.is_over:
            self._descriptors = None

    def _decide(self, reasons: NDArray[np.object_], descriptors: pd.Series[bytes], filters: CalibratedFilters) -> None:
        """Rejects duplicates of images kept from earlier chunks, or of each other."""
        passed = np.flatnonzero(reasons == "")
        if len(passed):
            own = np.stack([np.frombuffer(descriptors[position], np.float32) for position in passed])
            earlier = own[:0] if self._descriptors is None else self._descriptors
            together = np.concatenate([earlier, own])
            duplicate = filters.duplicates(together, self.class_index, known=len(earlier))[len(earlier) :]
            reasons[passed[duplicate]] = DUPLICATE
            self._descriptors = np.concatenate([earlier, own[~duplicate]])
            self._passed += int((~duplicate).sum())
        self._reasons.append(reasons)
        self.rejected.update(reason for reason in reasons if reason)

    def write(self, folder: Path, class_folder: str, store: ChunkStore) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Writes the images of the class into a pool; returns the rows of accepted and of rejected candidates."""
        accepted, rejected = [], []
        left, shown = self.target, SHOWN_REJECTED
        for number, reasons in enumerate(self._reasons):
            chunk = store.read(self.class_index, number)
            chunk[REASON] = reasons
            good, bad = chunk[chunk[REASON] == ""].head(left), chunk[chunk[REASON] != ""]
            accepted.append(_written(good, folder, f"{IMAGES}/{class_folder}", len(good)))
            rejected.append(_written(bad, folder, f"{REJECTED_IMAGES}/{class_folder}", shown))
            left, shown = left - len(good), max(0, shown - len(bad))
        return _joined(accepted), _joined(rejected)

    @property
    def summary(self) -> ClassSummary:
        """How the class was filled."""
        return ClassSummary(self.target, self.kept, self.decided * self._size, dict(sorted(self.rejected.items())))


def write_pool(
    folder: Path, merges: Sequence[ClassMerge], store: ChunkStore, *, classes: Sequence[str], score_names: Sequence[str]
) -> None:
    """Writes images, manifest, rejected candidates and summaries of classes that are over; the caller commits them."""
    names = storage.safe_names(classes)
    tables = [merge.write(folder, names[merge.label], store) for merge in merges]
    columns = manifest_columns(score_names)
    accepted, rejected = (_joined(part) for part in zip(*tables, strict=True))
    storage.write_parquet(folder / MANIFEST, accepted.reindex(columns=columns))
    storage.write_parquet(folder / REJECTED, rejected.reindex(columns=[*columns, REASON]))
    write_record(folder / SUMMARY, SUMMARIES, {merge.label: merge.summary for merge in merges})


def _written(rows: pd.DataFrame, folder: Path, subfolder: str, most: int) -> pd.DataFrame:
    """The rows without pixels; the images of the first `most` rows are written."""
    target = storage.safe_join(folder, subfolder)
    names = [f"{index:06d}.png" for index in rows["index"]][:most]
    for name, content in zip(names, rows[PNG], strict=False):
        storage.write_unfinished(target / name, content)
    files = [f"{subfolder}/{name}" for name in names] + [""] * (len(rows) - len(names))
    return rows.drop(columns=[PNG, DESCRIPTOR]).assign(file=files)


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
