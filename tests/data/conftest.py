import numpy as np
import pytest

from diffaug.configuration.settings import DataSettings
from diffaug.data.building.build import build_catalog


@pytest.fixture
def build(tmp_path):
    """build(root, seed=0, **settings) -> Catalog, saved outside of the root under a new name."""
    made = iter(range(1000))

    def make(root, *, seed=0, directory=None, progress=None, measure=None, describe=None, **settings):
        directory = directory or tmp_path / "catalogs" / str(next(made)) / "catalog"
        data = DataSettings(**settings)
        functions = {"progress": progress, "measure": measure, "describe": describe}
        return build_catalog(root, data, directory=directory, seed=seed, **functions)

    return make


@pytest.fixture
def make_folder(tmp_path, encoded):
    """make({'train/cat': 5}) writes that many different random images as 0.png, 1.png, ... into each folder."""

    def make(counts, *, root="data", size=(12, 12), channels=3):
        for number, (folder, count) in enumerate(counts.items()):
            random = np.random.default_rng(number)
            (tmp_path / root / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = random.integers(0, 256, (*size, 3) if channels == 3 else size, dtype=np.uint8)
                (tmp_path / root / folder / f"{index}.png").write_bytes(encoded(pixels))
        return tmp_path / root

    return make
