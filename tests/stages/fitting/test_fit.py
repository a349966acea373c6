import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from diffaug.augmenter import DiffusionAugmenter
from diffaug.diffusion.training import batches
from diffaug.diffusion.training.batches import Batch
from diffaug.errors import DiffaugError
from diffaug.files import storage
from tests.conftest import SMALL

pytestmark = pytest.mark.e2e

SETTINGS = SMALL | {"diffusion.images_seen": 64, "diffusion.batch_size": 8}


def break_batches(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The batches of the first `count` steps are not finite."""
    draw = batches.draw_batch

    def drawn(*arguments: object) -> Batch:
        batch = draw(*arguments)
        return batch._replace(x0=batch.x0 * float("nan")) if arguments[-1] < count else batch

    monkeypatch.setattr(batches, "draw_batch", drawn)


def fit(images, study, **settings) -> DiffusionAugmenter:
    return DiffusionAugmenter(study=study, settings={**SETTINGS, **settings}, verbose=False).fit(images)


def test_skipped_steps_are_reported_at_the_end(images, tmp_path, monkeypatch, warned) -> None:
    break_batches(monkeypatch, 4)
    augmenter = fit(images, tmp_path / "study")
    assert [text[:12] for text in warned if "not finite" in text] == ["4 of 8 steps"]
    facts = json.loads((augmenter.study.generator / "config.json").read_text())["training"]
    assert facts["steps skipped"] == 4


def test_a_training_of_which_more_than_half_was_skipped_fails(images, tmp_path, monkeypatch) -> None:
    break_batches(monkeypatch, 5)
    with pytest.raises(DiffaugError, match="5 of 8 steps") as caught:
        fit(images, tmp_path / "study")
    assert caught.value.fix == "lower the learning rate: --set diffusion.learning_rate=0.001"
    assert not (tmp_path / "study" / "generator" / "DONE.json").exists()


def test_checkpoints_and_sample_grids_appear_together(images, tmp_path, warned) -> None:
    augmenter = fit(images, tmp_path / "study", **{"advanced.checkpoint_seconds": 1e-9})
    assert not [text for text in warned if "not finite" in text]
    grids = sorted(path.name for path in (augmenter.study.generator / "samples").iterdir())
    assert grids == [f"images-{8 * step:09d}.png" for step in range(9)]
    with Image.open(augmenter.study.generator / "samples" / grids[-1]) as grid:
        assert np.asarray(grid).std() > 0
    assert not (augmenter.study.generator / "checkpoints").exists()  # removed at the end


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("call", "place"), [("write_json", "DONE.json"), ("discard_directory", "checkpoints")])
def test_a_kill_at_the_very_end_loses_no_training(images, tmp_path, monkeypatch, call, place) -> None:
    settings, folder = {"advanced.checkpoint_seconds": 1e-9}, tmp_path / "study" / "generator"
    original = getattr(storage, call)

    def dies(path: Path, *arguments: object) -> None:
        if path == folder / place:
            raise Killed
        original(path, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(storage, call, dies)
        fit(images, tmp_path / "study", **settings)
    trained = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(batches, "draw_batch", Mock(side_effect=AssertionError("it trains again")))
    fit(images, tmp_path / "study", **settings)
    assert (folder / "model.safetensors").read_bytes() == trained
    assert storage.changes_since_commit(folder) == {}


def test_the_width_of_the_network_belongs_to_the_generator_and_is_remembered(images, tmp_path) -> None:
    augmenter = fit(images, tmp_path / "study")
    assert augmenter.generator_.denoiser.config.base_channels == 16
    again = DiffusionAugmenter.open(tmp_path / "study", verbose=False)
    assert again.config.advanced.base_channels == 16
    with pytest.raises(DiffaugError, match="base_channels 16 -> 32"):
        fit(images, tmp_path / "study", **{"advanced.base_channels": 32})
    assert torch.equal(next(again.generator_.denoiser.parameters()), next(augmenter.generator_.denoiser.parameters()))
