import numpy as np
import pandas as pd
import pytest

from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.stages.evaluating.experiment import unfiltered_images
from diffaug.synthesis.pool.chunks import ChunkStore
from diffaug.synthesis.pool.pool import MANIFEST, Pool

CLASSES = ("a", "b", "c")
CHUNK = 4


def candidates(class_index, number, reasons):
    """A chunk whose images have the candidate's index as gray level."""
    indices = [CHUNK * number + turn for turn in range(len(reasons))]
    pictures = [storage.png_bytes(np.full((6, 5, 1), 50 * class_index + index, np.uint8)) for index in indices]
    nearest, source = zip(*((f"near {i}", "" if i % 2 else f"from {i}") for i in indices), strict=True)
    sha256 = [storage.sha256_bytes(picture) for picture in pictures]
    columns = {"label": CLASSES[class_index], "class_index": class_index, "index": indices, "reason": reasons}
    return pd.DataFrame({**columns, "nearest": nearest, "source": source, "sha256": sha256, "png": pictures})


@pytest.fixture
def store(tmp_path):
    store = ChunkStore(tmp_path / "chunks")
    store.write(1, 0, candidates(1, 0, ["", "copy", "non-finite", ""]))
    store.write(1, 1, candidates(1, 1, ["wrong class", "", "", ""]))
    store.write(2, 0, candidates(2, 0, ["copy"] * 4))
    return store


@pytest.fixture
def make_pool(tmp_path, store):
    """A pool of the first images of class "b" that no filter rejected, so many of them."""

    def make(count):
        table = pd.concat([store.read(1, number) for number in sorted(store.finished(1))], ignore_index=True)
        table["file"] = table["index"].map("{}.png".format)
        manifest = table[table["reason"] == ""].head(count).assign(origin="sampled", sha256="")
        for row in manifest.itertuples():
            storage.write_bytes(tmp_path / "pool" / row.file, row.png)
        storage.write_parquet(tmp_path / "pool" / MANIFEST, manifest)
        return Pool(tmp_path / "pool", CLASSES, (6, 5), 1)

    return make


def test_unfiltered_images_are_the_first_of_each_class_whatever_the_filters_said(make_pool, store, tmp_path):
    pool = make_pool(3)
    unfiltered = unfiltered_images(store, pool)
    assert unfiltered.pixels.shape == (3, 6, 5, 1)
    assert unfiltered.pixels[:, 0, 0, 0].tolist() == [50, 51, 53]
    assert (unfiltered.labels.tolist(), unfiltered.classes) == ([1, 1, 1], CLASSES)
    assert unfiltered.ids == ("b/0", "b/1", "b/3")
    assert unfiltered_images(store, make_pool(5)).ids == ("b/0", "b/1", "b/3", "b/4", "b/5")
    nothing = unfiltered_images(store, make_pool(0))
    assert nothing.pixels.shape == (0, 6, 5, 1)
    with pytest.raises(UsageError, match="chunks of the pool"):
        unfiltered_images(ChunkStore(tmp_path / "elsewhere"), pool)
