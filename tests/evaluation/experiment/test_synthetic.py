"""Synthetic images with what they resemble, as the pool has them and as the generator made them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from diffaug.errors import UsageError
from diffaug.evaluation.experiment.synthetic import SyntheticPool, unfiltered_pool
from diffaug.files import storage
from diffaug.synthesis.pool.chunks import ChunkStore
from diffaug.synthesis.pool.pool import MANIFEST, Pool

CLASSES = ("a", "b", "c")
CHUNK = 4


def candidates(class_index, number, reasons):
    """A chunk whose images have the candidate's index as grey level."""
    indices = [CHUNK * number + turn for turn in range(len(reasons))]
    pictures = [storage.png_bytes(np.full((6, 5, 1), 50 * class_index + index, np.uint8)) for index in indices]
    return pd.DataFrame(
        {
            "label": CLASSES[class_index],
            "class_index": class_index,
            "index": indices,
            "nearest": [f"near {index}" for index in indices],
            "source": ["" if index % 2 else f"from {index}" for index in indices],
            "sha256": [storage.sha256_bytes(picture) for picture in pictures],
            "reason": reasons,
            "png": pictures,
        }
    )


@pytest.fixture
def store(tmp_path):
    store = ChunkStore(tmp_path / "chunks")
    store.write(1, 0, candidates(1, 0, ["", "copy", "non-finite", ""]))
    store.write(1, 1, candidates(1, 1, ["off-class", "", "", ""]))
    store.write(2, 0, candidates(2, 0, ["copy"] * 4))
    return store


@pytest.fixture
def make_pool(tmp_path, store):
    """A pool of the first images that no filter rejected, so many of each class."""

    def make(counts):
        accepted = [pd.DataFrame(columns=["class_index", "file", "sha256", "nearest", "source"])]
        for class_index, count in enumerate(counts):
            chunks = [store.read(class_index, number) for number in sorted(store.finished(class_index))]
            if count:
                table = pd.concat(chunks)
                table = table[table["reason"] == ""].head(count)
                accepted.append(table.assign(file=[f"{class_index}-{index}.png" for index in table["index"]]))
        manifest = pd.concat(accepted[1:] or accepted, ignore_index=True)
        for row in manifest.itertuples():
            storage.write_bytes(tmp_path / "pool" / row.file, row.png)
        storage.write_parquet(tmp_path / "pool" / MANIFEST, manifest)
        return Pool(tmp_path / "pool", CLASSES, (6, 5), 1)

    return make


def test_a_pool_knows_what_its_images_resemble(make_pool):
    pool = SyntheticPool.of(make_pool([0, 3, 0]))
    assert pool.images.pixels[:, 0, 0, 0].tolist() == [50, 53, 55]
    assert pool.nearest == ("near 0", "near 3", "near 5")
    assert pool.source == ("from 0", "", "")
    assert pool.apart_from({"near 3"}).tolist() == [0, 2]
    assert pool.apart_from({"from 0", "near 5", "unheard of"}).tolist() == [1]
    assert len(pool) == 3


def test_unfiltered_images_are_the_first_of_each_class_whatever_the_filters_said(make_pool, store):
    pool = make_pool([0, 3, 0])
    unfiltered = unfiltered_pool(store, pool)
    assert unfiltered.images.pixels[:, 0, 0, 0].tolist() == [50, 51, 53]
    assert_array_equal(unfiltered.images.labels, [1, 1, 1])
    assert unfiltered.images.ids == ("b/0", "b/1", "b/3")
    assert unfiltered.nearest == ("near 0", "near 1", "near 3")
    assert unfiltered.images.pixels.shape == (3, 6, 5, 1)
    assert unfiltered.images.classes == CLASSES
    assert unfiltered_pool(store, make_pool([0, 5, 0])).images.ids == ("b/0", "b/1", "b/3", "b/4", "b/5")


def test_of_an_empty_pool_nothing_is_unfiltered(make_pool, store):
    unfiltered = unfiltered_pool(store, make_pool([0, 0, 0]))
    assert unfiltered.images.pixels.shape == (0, 6, 5, 1)
    assert (len(unfiltered), unfiltered.source) == (0, ())


def test_chunks_that_are_gone_are_an_error(make_pool, tmp_path):
    pool = make_pool([0, 3, 0])
    with pytest.raises(UsageError, match="chunks that the pool was made from are gone"):
        unfiltered_pool(ChunkStore(tmp_path / "elsewhere"), pool)
