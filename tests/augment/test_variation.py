"""Variations of the very image, found by its path, in both libraries."""

import json
import pickle
from collections import namedtuple
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pandas as pd
import pytest
import torch

from diffaug import Pool, SyntheticVariation, UsageError
from diffaug.diffusion.generator.files import ROWS, ROWS_COLUMNS
from diffaug.files import storage
from diffaug.integrations import albumentations_transforms as on_arrays

SOURCES = ["train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "", "train/cat/0.png"]
SEEN = [*SOURCES[:3], "train/dog/2.png", "train/cat/2.png"]


@pytest.fixture(scope="module")
def pool(make_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Flat images of shade 10 times their position; the last began from cat 0, but is none of its variations."""
    study = tmp_path_factory.mktemp("study")
    images = [(int("dog" in source), np.full((4, 4, 3), 10 * i, np.uint8)) for i, source in enumerate(SOURCES)]
    origin = ["variation", "variation", "variation", "sampled", "crossed"]
    rows = [(path, "", Path(path).parent.name, "trained") for path in SEEN]
    storage.write_parquet(study / "generator" / ROWS, pd.DataFrame(rows, columns=list(ROWS_COLUMNS)))
    return make_pool(study / "pool", ("cat", "dog"), images, source=SOURCES, origin=origin)


@pytest.fixture(params=["albumentations", "torchvision"])
def shade(request: pytest.FixtureRequest, pool: Pool) -> Any:
    """The shade that a white image of a path gets."""

    def apply(path: Any, p: float = 1, **options: Any) -> float:
        if request.param == "albumentations":
            transform = on_arrays.SyntheticVariation(pool=options.pop("pool", pool), p=p, **options)
            return float(transform(image=np.full((8, 8, 3), 255, np.uint8), path=path)["image"].max())
        transform = SyntheticVariation(options.pop("pool", pool), p, **options)
        image, label, same = transform(torch.full((3, 8, 8), 255, dtype=torch.uint8), "a label", path)
        assert label == "a label" and same is path
        return float(image.max())

    return apply


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train/cat/0.png", 0),
        ("/data/train/cat/0.png", 0),
        (Path("/data/train/cat/1.png"), 10),
        ("dog/0.png", 20),
        ("./train/dog/0.png", 20),
        ("1.png", 10),
        ("train/cat/2.png", 255),  # seen, but not varied
    ],
)
def test_an_image_is_replaced_by_its_own_variation_or_kept(shade, path, expected):
    assert shade(path) == expected
    assert shade(path, p=0) == 255


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("0.png", "several images.*more of the path"),
        ("test/cat/0.png", "has not seen.*train/cat/0.png"),
        ("at/0.png", "has not seen"),
        (3, r"path of the image.*i:06d"),
    ],
)
def test_other_paths_are_refused_and_unknown_ones_may_be_skipped(shade, path, message):
    with pytest.raises(UsageError, match=f"(?s){message}"):
        shade(path)
    if "seen" in message:
        assert shade(path, on_unknown_path="skip") == 255


def test_a_pool_without_variations_says_how_to_get_some(make_pool, tmp_path, shade):
    bare = make_pool(tmp_path / "pool", ("cat",), [(0, np.zeros((4, 4, 3), np.uint8))])
    with pytest.raises(UsageError, match=r"--set synthesis\.variation_fraction=0\.5 --overwrite"):
        shade("cat/0.png", pool=bare)
    with pytest.raises(UsageError, match="no finished pool"):
        shade("cat/0.png", pool=tmp_path / "none")


def test_masks_are_refused_or_skipped(pool):
    image, mask = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8))
    with pytest.raises(UsageError, match="mask would no longer match"):
        on_arrays.SyntheticVariation(pool=pool, p=1)(image=image, path="dog/0.png", mask=mask)
    kept = on_arrays.SyntheticVariation(pool=pool, p=1, on_annotations="skip")
    assert kept(image=image, path="dog/0.png", mask=mask)["image"] is image


Item = namedtuple("Item", ["path", "label", "image"])


def test_samples_are_tuples_mappings_named_tuples_and_batches(pool):
    transform, image = SyntheticVariation(pool, 1), torch.full((3, 8, 8), 255, dtype=torch.uint8)
    assert transform({"image": image, "path": "1.png", "label": 0})["image"].max() == 10
    assert transform(Item("1.png", 0, image)).image.max() == 10
    batch, _, _ = transform(torch.stack([image] * 3), [0, 1, 0], ["cat/1.png", "dog/0.png", "cat/2.png"])
    assert batch.amax(dim=(1, 2, 3)).tolist() == [10, 20, 255]
    for wrong in ((image,), ({"image": image, "label": 0},)):
        with pytest.raises(UsageError, match=r"path of the image is needed.*"):
            transform(*wrong)


def test_a_replay_repeats_it_for_the_same_image_only_and_settings_survive(pool):
    transform = on_arrays.SyntheticVariation(pool=pool, p=1, on_unknown_path="skip")
    image = np.full((8, 8, 3), 255, np.uint8)
    with pytest.warns(UserWarning, match="params depend on targets"):
        replay = A.ReplayCompose([pickle.loads(pickle.dumps(transform))])(image=image, path="cat/1.png")["replay"]
        assert A.ReplayCompose.replay(replay, image=image, path="/x/train/cat/1.png")["image"].max() == 10
        with pytest.raises(UsageError, match=r"made from 'train/cat/1.png', not 'dog/0.png'"):
            A.ReplayCompose.replay(replay, image=image, path="dog/0.png")
    copies = [A.from_dict(json.loads(json.dumps(A.to_dict(transform)))), pickle.loads(pickle.dumps(transform))]
    for copy in copies:
        assert copy.to_dict() == transform.to_dict()
        assert copy(image=image, path="cat/1.png")["image"].max() == 10
    other = SyntheticVariation(pool, path_key="file")
    assert repr(pickle.loads(pickle.dumps(other))) == repr(other)
