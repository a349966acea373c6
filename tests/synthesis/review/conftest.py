from types import SimpleNamespace

import numpy as np
import pytest

from diffaug.data.images import LabeledImages
from diffaug.synthesis.review.review import Review

CLASSES = ("a", "<b>", "c")


@pytest.fixture
def catalog(make_images):
    """Five real images of a, three of <b>, none of c, and an unlabeled one."""
    train = make_images([5, 3], size=4)
    train = LabeledImages(train.pixels, train.labels, CLASSES, tuple(f"train/{number}.png" for number in range(8)))
    others = np.full((1, 4, 4, 1), 77, np.uint8), ("unlabeled/0.png",)
    return SimpleNamespace(images=lambda split: train, unlabeled=lambda: others)


@pytest.fixture
def pool(make_pool, tmp_path):
    """Three synthetic images of a, two of <b>, one of c."""
    made = [(label, np.full((4, 4, 1), 40 * number, np.uint8)) for number, label in enumerate([0, 0, 0, 1, 1, 2])]
    nearest = ["train/2.png", "unlabeled/0.png", "gone.png", *["train/6.png"] * 3]
    scores = {"copy_ratio": [0.9, 0.1, 0.5, 1.0, 1.0, np.nan], "class_distance": np.arange(6.0)}
    return make_pool(tmp_path / "study" / "pool", CLASSES, made, nearest=nearest, **scores)


@pytest.fixture
def review(catalog, pool) -> Review:
    return Review.of("my study", "anna", catalog, pool)
