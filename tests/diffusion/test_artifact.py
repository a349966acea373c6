import json

import numpy as np
import pytest

from diffaug import storage
from diffaug.diffusion.artifact import Generator, write_generator
from diffaug.diffusion.batches import TrainingData
from diffaug.diffusion.normalization import Normalization
from diffaug.diffusion.training import new_state, train
from diffaug.errors import DamagedError, UsageError


@pytest.fixture
def folder(tmp_path, blobs, plan, settings):
    data = TrainingData.of(blobs, settings, "cpu")
    state = new_state(plan, settings, "cpu", 0)
    for _ in train(state, data, plan, settings, 0):
        pass
    folder = tmp_path / "generator"
    folder.mkdir()
    write_generator(
        folder,
        network=plan.network,
        weights=state.averaged.state_dict(),
        normalization=data.normalization,
        counts=blobs.counts_by_name,
        training={"images seen": 192},
    )
    storage.commit_directory(folder, {})
    return folder


def test_sampling_is_deterministic_and_differs_by_index_class_and_seed(folder) -> None:
    generator = Generator.load(folder)
    first = generator.sample("top", range(4), seed=1, num_inference_steps=4)
    assert first.dtype == np.uint8
    assert first.shape == (4, 6, 5, 1)
    assert np.array_equal(first, Generator.load(folder).sample(0, range(4), seed=1, num_inference_steps=4))
    assert len(np.unique(first.reshape(4, -1), axis=0)) == 4
    for other in (
        generator.sample(1, range(4), seed=1, num_inference_steps=4),
        generator.sample(0, range(4), seed=2, num_inference_steps=4),
        generator.sample(0, range(4, 8), seed=1, num_inference_steps=4),
    ):
        assert not np.array_equal(first, other)


def test_an_image_depends_on_its_own_index_only(folder) -> None:
    generator = Generator.load(folder)
    together = generator.sample(0, [3, 7, 5, 11], num_inference_steps=4).astype(int)
    alone = generator.sample(0, [5, 1, 2, 0], num_inference_steps=4).astype(int)
    assert np.abs(together[2] - alone[0]).max() <= 1


def test_loads_from_the_study_too_and_describes_itself(folder) -> None:
    generator = Generator.load(folder.parent)
    assert generator.classes == ("top", "bottom")
    assert generator.image_size == (6, 5)
    assert generator.channels == 1
    assert "| bottom | 4 |" in (folder / "README.md").read_text()
    assert json.loads((folder / "config.json").read_text())["train_counts"] == {"top": 12, "bottom": 4}


def test_unknown_class_names_the_known_ones(folder) -> None:
    for label in ("left", 2, -1):
        with pytest.raises(UsageError, match="top, bottom"):
            Generator.load(folder).sample(label, [0])


def test_every_flipped_bit_is_found(folder) -> None:
    weights = folder / "model.safetensors"
    original = weights.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(original), 20):
        content = bytearray(original)
        content[position] ^= 4
        weights.write_bytes(bytes(content))
        with pytest.raises(DamagedError):
            Generator.load(folder)


def test_missing_generator_says_how_to_get_one(tmp_path) -> None:
    with pytest.raises(UsageError, match="diffaug fit"):
        Generator.load(tmp_path)


def test_weights_of_another_network_are_refused(folder, plan) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["network"]["base_channels"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    storage.commit_directory(folder, {})
    with pytest.raises(DamagedError, match="don't fit"):
        Generator.load(folder)


def test_normalization_is_restored(folder, blobs) -> None:
    assert Generator.load(folder).normalization == Normalization.of(blobs.pixels)
