"""The images of a generator before any filter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from diffaug.data.images import LabeledImages
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.synthesis.filters.scores import NON_FINITE
from diffaug.synthesis.pool.chunks import PNG, REASON, ChunkStore
from diffaug.synthesis.pool.pool import Pool


def unfiltered_images(store: ChunkStore, pool: Pool) -> LabeledImages:
    """The first images that the generator made of each class, as many as the pool has, regardless of filters.

    A UsageError if the chunks were removed, a DamagedError if one was changed.
    """
    counts = {index: count for index, count in enumerate(np.bincount(pool.labels)) if count}
    columns = ["label", "class_index", "index", PNG]
    table = pd.concat([pd.DataFrame(columns=columns), *_candidates(store, counts)])
    shape = (*pool.image_size, pool.channels)
    pixels = [storage.decode_png(content, shape) for content in table[PNG]]
    return LabeledImages(
        np.stack(pixels) if pixels else np.empty((0, *shape), np.uint8),
        table["class_index"].to_numpy(np.int64),
        pool.classes,
        tuple(f"{label}/{index}" for label, index in zip(table["label"], table["index"], strict=True)),
    )


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
