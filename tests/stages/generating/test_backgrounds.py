"""Masks on the way from the data folder to the pool: transplants in a study, and what is said of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import diffaug
from diffaug.errors import UsageError
from diffaug.runtime.console import LogNarrator
from diffaug.synthesis.pool.pool import Pool
from diffaug.synthesis.pool.transplants import Backgrounds

from marks import CLEAN, PIT, STAIN, write_marks

pytestmark = pytest.mark.e2e
COUNTS = {CLEAN: 14, PIT: 6, STAIN: 6}
SETTINGS = {
    "diffusion.images_seen": 96,
    "diffusion.batch_size": 16,
    "advanced.pilot": False,
    "advanced.chunk_size": 8,
    "synthesis.num_inference_steps": 2,
    "synthesis.filters": ["constant", "copy"],
    "data.near_duplicates": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_marks(tmp_path_factory.mktemp("marks") / "data", COUNTS, test_count=3, side=16)


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory, small) -> Path:
    study = tmp_path_factory.mktemp("fitted") / "study"
    settings = {**small, **SETTINGS, "advanced.base_channels": 16, "diffusion.preset": "tiny"}
    diffaug.DiffusionAugmenter(study=study, settings=settings, verbose=False).fit(data)
    return study


@pytest.fixture
def study(fitted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(fitted, tmp_path / "study")


def generate(study: Path, **settings: object) -> Pool:
    given = {f"{'advanced' if name == 'background_class' else 'synthesis'}.{name}": settings[name] for name in settings}
    return diffaug.DiffusionAugmenter.open(study, settings=given, verbose=False).generate()


def test_objects_are_transplanted_and_all_around_them_stays_as_it_was(study: Path) -> None:
    pool = generate(study)
    manifest, catalog = pool.manifest, diffaug.DiffusionAugmenter.open(study, verbose=False).inspect()
    images = catalog.images("train")
    painted = manifest[manifest["origin"] == "transplant"]
    assert set(painted["label"]) == {PIT, STAIN}
    backgrounds = Backgrounds(images.classes.index(CLEAN), catalog.masks(), catalog.groups("train"))
    for row in painted.itertuples():
        own = np.flatnonzero(images.labels == row.class_index)
        objects = backgrounds.objects(images, own)
        pair = (objects.ids.index(row.mask_source), objects.ids.index(row.mask_place))
        (mask,) = objects.placed([pair])
        made, real = pool.read(row.Index), images.pixels[images.ids.index(row.source)]
        assert row.source.startswith(f"train/{CLEAN}/")
        np.testing.assert_array_equal(made[~mask], real[~mask])
        assert (made[mask] != real[mask]).any()
    assert any("transplants" in reason for reason in pool.unsafe_to_publish)
    assert (study / "pool-report" / "masks.png").is_file()
    assert generate(study, transplant_fraction=None).manifest.equals(manifest)  # finished, kept


def test_without_masks_of_its_own_a_set_has_masks_drawn(study: Path, tmp_path: Path, small) -> None:
    data = write_marks(tmp_path / "plain", COUNTS, test_count=3, side=16, masks=False)
    settings = {**small, **SETTINGS, "diffusion.images_seen": 16}
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "own", settings=settings, verbose=False).fit(data)
    assert "transplant" not in set(augmenter.generate().manifest["origin"])
    assert not (tmp_path / "own" / "pool-report" / "masks.png").exists()
    again = diffaug.DiffusionAugmenter.open(
        tmp_path / "own", settings={"synthesis.mask_from": "box"}, overwrite=True, verbose=False
    )
    painted = again.generate().manifest.query("origin == 'transplant'")
    assert len(painted)
    assert (tmp_path / "own" / "pool-report" / "masks.png").is_file()


def test_another_class_can_be_the_background_and_an_unknown_one_is_refused(study: Path) -> None:
    with pytest.raises(UsageError, match=r"advanced\.background_class"):
        generate(study, background_class="nothing")
    painted = generate(study, background_class=STAIN, sampling_strategy="all").manifest.query("origin == 'transplant'")
    assert set(painted["label"]) == {PIT}
    assert painted["source"].str.startswith(f"train/{STAIN}/").all()


def test_what_is_planned_and_tried_is_told(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(LogNarrator, "say", lambda self, text: said.append(text))
    monkeypatch.setattr(LogNarrator, "table", lambda self, title, columns, rows: said.append(json.dumps(columns)))
    generate(study, crossed_fraction=0.25, filters=["wrong class"], max_attempts=1)
    assert any("transplants" in text for text in said)
    assert any("crossed variations" in text for text in said)
