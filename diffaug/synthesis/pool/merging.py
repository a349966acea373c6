"""The merge: a class's chunks in order, without duplicates, up to the number wanted.

What the merge keeps of a chunk depends on that chunk and on those before it, so it does not matter when or by whom
they were computed, and whether some were computed that nobody needs. A higher target continues a lower one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.files import storage
from diffaug.synthesis.filters.protocol import Judge
from diffaug.synthesis.filters.scores import DUPLICATE
from diffaug.synthesis.pool.chunks import DESCRIPTOR, PNG, REASON, ChunkStore
from diffaug.synthesis.pool.pool import MANIFEST, REJECTED, SUMMARY, manifest_columns

IMAGES = "images"
SHOWN_REJECTED = 24


class ClassMerge:
    """One class on its way to the number wanted.

    Args:
        label: Class name.
        class_index: Its index.
        target: Images wanted.
        chunk_size: Candidates in a chunk.
        max_attempts: Candidates tried for each image wanted before the class is given up.

    Attributes:
        kept: Images that passed all filters and are no duplicates, at most `target`.
        rejected: Reason to number of candidates.
        decided: Chunks merged so far; chunk j is the next one when this is j.
        most_chunks: Chunks after which the class is given up.
    """

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
        """See the class."""
        return min(self._passed, self.target)

    @property
    def decided(self) -> int:
        """See the class."""
        return len(self._reasons)

    @property
    def is_over(self) -> bool:
        """Whether the class is full, or given up."""
        return self._passed >= self.target or self.decided >= self.most_chunks

    @property
    def needed_chunks(self) -> int:
        """About how many chunks it takes in all, if the filters go on as they did; no more than may be tried."""
        if not self.decided:
            return min(self.most_chunks, math.ceil(self.target / self._size))
        if not self._passed:
            return min(self.most_chunks, 2 * self.decided + 1)
        return min(self.most_chunks, math.ceil(self.target * self.decided / self._passed))

    def advance(self, store: ChunkStore, judge: Judge) -> None:
        """Takes in the finished chunks that come next."""
        if self.is_over:
            return
        finished = store.finished(self.class_index)
        while not self.is_over and self.decided in finished:
            chunk = store.read(self.class_index, self.decided, [REASON, DESCRIPTOR])
            self._decide(np.array(chunk[REASON], object), chunk[DESCRIPTOR], judge)
        if self.is_over:
            self._descriptors = None

    def _decide(self, reasons: NDArray[np.object_], descriptors: pd.Series[bytes], judge: Judge) -> None:
        """Finds the chunk's duplicates: of images kept from earlier chunks, or of each other."""
        passed = np.flatnonzero(reasons == "")
        if len(passed):
            own = np.stack([np.frombuffer(descriptors[position], np.float32) for position in passed])
            earlier = own[:0] if self._descriptors is None else self._descriptors
            together = np.concatenate([earlier, own])
            duplicate = judge.duplicates(together, self.class_index, known=len(earlier))[len(earlier) :]
            reasons[passed[duplicate]] = DUPLICATE
            self._descriptors = np.concatenate([earlier, own[~duplicate]])
            self._passed += int((~duplicate).sum())
        self._reasons.append(reasons)
        self.rejected.update(reason for reason in reasons if reason)

    def write(self, folder: Path, class_folder: str, store: ChunkStore) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Writes the class's images into a pool that is not committed yet.

        Returns:
            The rows of accepted and of rejected candidates.
        """
        accepted, rejected = [], []
        left, shown = self.target, SHOWN_REJECTED
        for number, reasons in enumerate(self._reasons):
            chunk = store.read(self.class_index, number)
            chunk[REASON] = reasons
            good, bad = chunk[chunk[REASON] == ""].head(left), chunk[chunk[REASON] != ""]
            accepted.append(_written(good, folder, f"{IMAGES}/{class_folder}", len(good)))
            rejected.append(_written(bad, folder, f"rejected/{class_folder}", shown))
            left, shown = left - len(good), max(0, shown - len(bad))
        return _joined(accepted), _joined(rejected)

    def summary(self) -> dict[str, Any]:
        """Images wanted and accepted, candidates looked at, and those rejected by reason."""
        return {
            "wanted": self.target,
            "accepted": self.kept,
            "candidates": self.decided * self._size,
            "rejected": dict(sorted(self.rejected.items())),
        }


def write_pool(
    folder: Path, merges: Sequence[ClassMerge], store: ChunkStore, *, classes: Sequence[str], score_names: Sequence[str]
) -> None:
    """Writes images, manifest, rejected candidates and summary; committing the folder is the caller's part.

    Args:
        folder: An empty directory.
        merges: The classes, each over.
        store: Where their chunks are.
        classes: All class names, which the folders are named after.
        score_names: The judge's scores.
    """
    names = storage.safe_names(classes)
    tables = [merge.write(folder, names[merge.label], store) for merge in merges]
    columns = manifest_columns(score_names)
    accepted, rejected = (_joined(part) for part in zip(*tables, strict=True))
    storage.write_parquet(folder / MANIFEST, accepted.reindex(columns=columns))
    storage.write_parquet(folder / REJECTED, rejected.reindex(columns=[*columns, REASON]))
    storage.write_json(folder / SUMMARY, {merge.label: merge.summary() for merge in merges})


def _written(rows: pd.DataFrame, folder: Path, subfolder: str, most: int) -> pd.DataFrame:
    """The rows without pixels, the first `most` of them written as pictures."""
    target = storage.safe_join(folder, subfolder)
    names = [f"{index:06d}.png" for index in rows["index"]][:most]
    for name, content in zip(names, rows[PNG], strict=False):
        storage.write_unfinished(target / name, content)
    files = [f"{subfolder}/{name}" for name in names] + [""] * (len(rows) - len(names))
    return rows.drop(columns=[PNG, DESCRIPTOR]).assign(file=files)


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of all that have a row, numbered anew."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
