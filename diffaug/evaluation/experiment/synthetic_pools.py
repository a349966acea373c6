"""The synthetic images of an experiment, with the real images that they resemble or vary."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.data.images import LabeledImages
from diffaug.errors import UsageError
from diffaug.synthesis.filters.scores import NON_FINITE
from diffaug.synthesis.pool.chunks import PNG, REASON, ChunkStore
from diffaug.synthesis.pool.pool import Pool, decode_png

RELATIONS = ("nearest", "source")


@dataclass(frozen=True)
class SyntheticPool:
    """Synthetic images, with the ids of the training images that each is most similar to and varies; empty: none."""

    images: LabeledImages
    nearest: tuple[str, ...]
    source: tuple[str, ...]

    @classmethod
    def of(cls, pool: Pool) -> SyntheticPool:
        """Reads a pool."""
        return cls(pool.images(), *(tuple(pool.manifest[name]) for name in RELATIONS))

    def __len__(self) -> int:
        return len(self.images)

    def unrelated_to(self, ids: Collection[str]) -> NDArray[np.int64]:
        """Positions of the images whose nearest and source images are not among these training images."""
        related = np.isin(np.array(self.nearest), list(ids)) | np.isin(np.array(self.source), list(ids))
        return np.flatnonzero(~related).astype(np.int64)


def unfiltered_pool(store: ChunkStore, pool: Pool) -> SyntheticPool:
    """The first images that the generator made of each class, as many as the pool has, regardless of filters.

    A UsageError if the chunks were removed, a DamagedError if one was changed.
    """
    counts = {index: count for index, count in enumerate(np.bincount(pool.labels)) if count}
    columns = ["label", "class_index", "index", PNG, *RELATIONS]
    table = pd.concat([pd.DataFrame(columns=columns), *_candidates(store, counts)])
    shape = (*pool.image_size, pool.channels)
    pixels = [decode_png(content, shape) for content in table[PNG]]
    images = LabeledImages(
        np.stack(pixels) if pixels else np.empty((0, *shape), np.uint8),
        table["class_index"].to_numpy(np.int64),
        pool.classes,
        tuple(f"{label}/{index}" for label, index in zip(table["label"], table["index"], strict=True)),
    )
    return SyntheticPool(images, *(tuple(table[name]) for name in RELATIONS))


def _candidates(store: ChunkStore, counts: Mapping[int, int]) -> Iterator[pd.DataFrame]:
    for index, count in counts.items():
        left = count
        for number in sorted(store.finished(index)):
            chunk = store.read(index, number)
            taken = chunk[chunk[REASON] != NON_FINITE].head(left)
            left -= len(taken)
            yield taken
            if not left:
                break
        if left:
            raise UsageError(
                "the chunks of the pool, with the images before the filters, are gone",
                where=store.folder,
                fix="remove the arm 'real + unfiltered synthetic', or generate again with --overwrite",
            )
