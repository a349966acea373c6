import numpy as np
import pytest

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning.planning import Plan, make_plan, set_length


@pytest.fixture
def blobs() -> LabeledImages:
    """Two classes of 6 x 5 px grey images that differ in the lit half; 12 and 4 images."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (16, 6, 5, 1), dtype=np.uint8)
    pixels[:12, :3] += 150
    pixels[12:, 3:] += 150
    labels = np.array([0] * 12 + [1] * 4, dtype=np.int64)
    return LabeledImages(pixels, labels, ("top", "bottom"), tuple(map(str, range(16))))


@pytest.fixture
def settings() -> DiffusionSettings:
    return DiffusionSettings(images_seen=24 * 8, batch_size=8, base_channels=16, dropout=0.2)


@pytest.fixture
def plan(blobs: LabeledImages, settings: DiffusionSettings) -> Plan:
    return set_length(make_plan(blobs, settings, "cpu"), settings, 100)
