"""What makes the default settings fit for images that are not square."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffaug.classifiers.fit import NetworkClassifier
from diffaug.classifiers.networks import small_cnn
from diffaug.classifiers.training_set import TrainingRecipe, TrainingSet
from diffaug.classifiers.working_size import choose_working_size
from diffaug.configuration.settings import DataSettings
from diffaug.data.building.build import build_catalog

SIDE, LONG, MARK = 60, 180, 3


def write_marked(root: Path, counts: dict[str, int]) -> None:
    """Cloudy images of 60 x 180 px; a bright or dark mark of 3 px near the upper end alone tells their class."""
    rng = np.random.default_rng(5)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            clouds = Image.fromarray(rng.integers(90, 160, (12, 4), dtype=np.uint8))
            pixels = np.asarray(clouds.resize((SIDE, LONG), Image.Resampling.BICUBIC)) + rng.normal(0, 12, (LONG, SIDE))
            top, left = rng.integers(2, 14), rng.integers(4, SIDE - 8)
            pixels[top : top + MARK, left : left + MARK] = 240 if name == "bright" else 20
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{number}.png")


@pytest.mark.slow
def test_a_small_mark_near_one_end_is_seen_by_default(tmp_path: Path) -> None:
    write_marked(tmp_path / "images", {"dark": 200, "bright": 100})
    settings = DataSettings(near_duplicates=False)
    folder = tmp_path / "catalog"
    catalog = build_catalog(tmp_path / "images", settings, directory=folder, seed=0, measure=choose_working_size)
    height, width = catalog.image_size
    assert height == 3 * width
    train, test = catalog.images("train"), catalog.images("test")
    prior = np.log(train.class_counts / len(train))
    classifier = NetworkClassifier(small_cnn, "small-cnn")
    probabilities = classifier.fit_predict(
        TrainingSet.real_only(train, prior), test.pixels, recipe=TrainingRecipe(400), seed=0, device="cpu"
    )
    right = probabilities.argmax(axis=1) == test.labels
    assert np.mean([right[test.labels == label].mean() for label in (0, 1)]) > 0.95
