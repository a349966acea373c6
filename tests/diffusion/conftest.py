import dataclasses

import numpy as np
import pytest

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning.planning import Plan, make_plan, set_length
from diffaug.diffusion.training.batches import TrainingData


def two_classes() -> LabeledImages:
    """Two classes of 6 x 5 px gray images that differ in the lit half; 12 and 4 images."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (16, 6, 5, 1), dtype=np.uint8)
    pixels[:12, :3] += 150
    pixels[12:, 3:] += 150
    labels = np.array([0] * 12 + [1] * 4, dtype=np.int64)
    return LabeledImages(pixels, labels, ("top", "bottom"), tuple(map(str, range(16))))


@pytest.fixture(scope="session")
def blobs() -> LabeledImages:
    return two_classes()


@pytest.fixture
def data(blobs: LabeledImages) -> TrainingData:
    return TrainingData.of(blobs, "cpu")


@pytest.fixture(scope="session")
def plan(blobs: LabeledImages) -> Plan:
    """24 steps on 8 images each."""
    settings = DiffusionSettings(images_seen=24 * 8, batch_size=8, dropout=0.2)
    return set_length(make_plan(blobs, settings, "cpu", base_channels=16), settings, 100)


@pytest.fixture(scope="session")
def plan_without_dropout(plan: Plan) -> Plan:
    return dataclasses.replace(plan, unet=dataclasses.replace(plan.network, dropout=0.0))
