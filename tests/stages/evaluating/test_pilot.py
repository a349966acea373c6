from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from diffaug.configuration.settings import Config
from diffaug.files import storage
from diffaug.stages.evaluating.pilot import FOLDER, finished_pools, share_catalog
from diffaug.study import Study


def write_catalog(study: Study, content: int) -> None:
    with storage.new_directory(study.catalog, {"fingerprint": content}) as staging:
        storage.write_array(staging / "pixels.npy", np.full(9, content))
        storage.write_text(staging / "catalog.json", str(content))


@pytest.fixture
def study(tmp_path) -> Study:
    write_catalog(Study(tmp_path / "study"), 1)
    return Study(tmp_path / "study")


def further(study: Study, number: object) -> Study:
    return Study(study.path / FOLDER / str(number))


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_copy_without_its_files_is_made_again_and_a_whole_one_left_as_it_is(study) -> None:
    """As versions that copied in place left it when they were killed: the record before the files."""
    second = further(study, 1)
    second.catalog.mkdir(parents=True)
    storage.write_bytes(second.catalog / storage.DONE, (study.catalog / storage.DONE).read_bytes())
    share_catalog(study, second)
    assert content(second.catalog) == content(study.catalog)
    inode = (second.catalog / "pixels.npy").stat().st_ino
    share_catalog(study, second)
    assert (second.catalog / "pixels.npy").stat().st_ino == inode


def test_a_damaged_pool_of_a_further_generator_counts_as_none(study) -> None:
    job = SimpleNamespace(study=study, config=Config.model_validate({"evaluation": {"thorough": True}}))
    for one in (study, further(study, 1)):
        with storage.new_directory(one.pool, {}) as staging:
            storage.write_text(staging / "manifest", "x")
    assert finished_pools(job) == [study.pool, further(study, 1).pool]
    (further(study, 1).pool / "manifest").unlink()
    assert finished_pools(job) == []
