"""The synthetic images of an experiment, with the real images that each of them resembles or was made from."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from diffaug.data.images import LabeledImages
from diffaug.errors import UsageError
from diffaug.synthesis.filters.scores import NON_FINITE
from diffaug.synthesis.pool.chunks import PNG, REASON, ChunkStore
from diffaug.synthesis.pool.pool import Pool

RELATIONS = ("nearest", "source")


@dataclass(frozen=True)
class SyntheticPool:
    """Synthetic images of one generator.

    Attributes:
        images: N images.
        nearest: For each the id of the most similar training image; empty: unknown.
        source: For each the id of the training image that it varies; empty: none.
    """

    images: LabeledImages
    nearest: tuple[str, ...]
    source: tuple[str, ...]

    @classmethod
    def of(cls, pool: Pool) -> SyntheticPool:
        """A pool on disk."""
        return cls(pool.images(), *(tuple(pool.manifest[name]) for name in RELATIONS))

    def __len__(self) -> int:
        return len(self.images)

    def apart_from(self, ids: Collection[str]) -> NDArray[np.int64]:
        """Positions of the images that neither resemble most nor vary one of these training images."""
        related = np.isin(np.array(self.nearest), list(ids)) | np.isin(np.array(self.source), list(ids))
        return np.flatnonzero(~related).astype(np.int64)


def unfiltered_pool(store: ChunkStore, pool: Pool) -> SyntheticPool:
    """The first images that the generator made of each class, as many as the pool has of it, whatever filters said.

    Args:
        store: The chunks that the pool was made from; they hold every candidate.
        pool: How many of each class.

    Raises:
        UsageError: The chunks were removed.
        DamagedError: A chunk was changed since.
    """
    counts = {index: count for index, count in enumerate(np.bincount(pool.labels)) if count}
    table = pd.concat(
        [pd.DataFrame(columns=["label", "class_index", "index", PNG, *RELATIONS]), *_candidates(store, counts)]
    )
    shape = (*pool.image_size, pool.channels)
    pixels = [_decoded(content).reshape(shape) for content in table[PNG]]
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
                "the chunks that the pool was made from are gone, and with them the images before the filters",
                where=store.folder,
                fix="leave out the arm 'real + unfiltered synthetic', or generate again with --overwrite",
            )


def _decoded(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image, dtype=np.uint8)
