import copy
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from diffaug.configuration.sampling import Sampling
from diffaug.decoding.intensity import IntensityRange
from diffaug.diffusion.generator.files import GeneratorRecord, write_generator
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.grids import contact_sheet
from diffaug.diffusion.generator.network_files import write_network
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.diffusion.sampling.samplers import SOLVERS
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.training import new_state, snapshot, train
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage

pytestmark = pytest.mark.e2e
INTENSITY = IntensityRange(51241, 52181, "12 training files", white=65535, kinds=("integer",))


@pytest.fixture(scope="module")
def trained(blobs, plan, tmp_path_factory) -> dict[bool, Path]:
    """Folders of a trained generator, without and with the weights halfway as its guide."""
    data, state = TrainingData.of(blobs, "cpu"), new_state(plan, "cpu", 0)
    for record in train(state, data, plan, 0):
        if record.step == plan.steps // 2:
            halfway = snapshot(state.averaged)
    folders = {}
    for guided in (False, True):
        folders[guided] = tmp_path_factory.mktemp("study") / "generator"
        folders[guided].mkdir()
        network, about = plan.network, {"images seen": 192}
        record = GeneratorRecord("pixels", network.image_size, network.channels, blobs.counts_by_name, about, INTENSITY)
        guide, weights = halfway if guided else None, state.averaged.state_dict()
        write_network(folders[guided], network, data.normalization, weights, guide)
        write_generator(folders[guided], record)
        storage.commit_directory(folders[guided], {})
    return folders


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(trained[False], tmp_path / "generator"))


@pytest.fixture(scope="module")
def generator(trained) -> Generator:
    return Generator.load(trained[False])


def test_sampling_is_deterministic_and_differs_by_index_class_and_seed(folder) -> None:
    generator = Generator.load(folder)
    first = generator.sample("top", range(4), seed=1, num_inference_steps=4)
    assert (first.dtype, first.shape) == (np.uint8, (4, 6, 5, 1))
    assert np.array_equal(first, Generator.load(folder).sample(0, range(4), seed=1, num_inference_steps=4))
    for label, indices, seed in ((1, range(4), 1), (0, range(4), 2), (0, range(4, 8), 1)):
        assert not np.array_equal(first, generator.sample(label, indices, seed=seed, num_inference_steps=4))


def test_loads_from_the_study_too_and_describes_itself(folder, blobs) -> None:
    (folder / "guide.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    generator = Generator.load(folder.parent)
    assert (generator.classes, generator.image_size, generator.channels) == (("top", "bottom"), (6, 5), 1)
    assert (generator.normalization, generator.intensity) == (Normalization.of(blobs.pixels), INTENSITY)
    assert generator.guide is None  # a stray file is not loaded
    assert "| bottom | 4 |" in (folder / "README.md").read_text()
    assert json.loads((folder / "config.json").read_text())["train_counts"] == {"top": 12, "bottom": 4}


@pytest.mark.parametrize(("guided", "name"), [(False, "model.safetensors"), (True, "guide.safetensors")])
def test_every_flipped_bit_and_missing_file_is_found(trained, tmp_path, guided, name) -> None:
    folder = Path(shutil.copytree(trained[guided], tmp_path / "generator"))
    original = (folder / name).read_bytes()
    for position in np.random.default_rng(0).integers(0, len(original), 4):
        content = bytearray(original)
        content[position] ^= 4
        (folder / name).write_bytes(bytes(content))
        with pytest.raises(DamagedError):
            Generator.load(folder)
    (folder / name).unlink()
    with pytest.raises(DamagedError):
        Generator.load(folder)


def test_missing_generators_and_weights_of_another_network_are_refused(folder, tmp_path) -> None:
    with pytest.raises(UsageError, match="diffaug fit"):
        Generator.load(tmp_path / "nothing")
    config = json.loads((folder / "network.json").read_text())
    config["network"]["base_channels"] = 32
    (folder / "network.json").write_text(json.dumps(config))
    storage.commit_directory(folder, {})
    with pytest.raises(DamagedError, match="don't fit"):
        Generator.load(folder)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_samples_deterministically_and_each_index_alone(generator, solver) -> None:
    options = {"solver": solver, "num_inference_steps": 4, "seed": 3}
    together = generator.sample(0, [3, 7, 5, 11], **options)
    assert np.array_equal(together, generator.sample(0, [3, 7, 5, 11], **options))
    alone = generator.sample(0, [5, 1, 2, 0], **options)
    assert np.abs(together[2].astype(int) - alone[0].astype(int)).max() <= 1
    assert len(np.unique(together.reshape(4, -1), axis=0)) == 4


def test_solvers_and_guidance_make_a_difference(generator) -> None:
    plain = generator.sample(0, range(3), num_inference_steps=4)
    guided = {"guidance_scale": 3.0, "guidance_interval": (0.0, 80.0)}
    for options in ({"solver": "ancestral"}, {"solver": "heun"}, guided):
        assert not np.array_equal(plain, generator.sample(0, range(3), num_inference_steps=4, **options))
    nowhere = generator.sample(0, range(3), num_inference_steps=4, guidance_scale=3.0, guidance_interval=(81, 99))
    assert np.array_equal(plain, nowhere)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"solver": "plms"}, "solver"),
        ({"guidance_method": "classifier"}, "guidance_method"),
        ({"guidance": "autoguidance"}, "guidance"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"guidance_interval": (0, 1, 2)}, "guidance_interval"),
        ({"guidance_interval": (2.0, 1.0)}, "guidance_interval"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_method": "autoguidance", "guidance_scale": 2.0}, "without one"),
    ],
)
def test_wrong_options_say_what_to_do(generator, options, reason) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        generator.sample(0, [0], **options)
    assert caught.value.fix


@pytest.mark.parametrize("label", [(0,), 2.0, 2, -1, np.int64(9), "left", None])
def test_what_names_no_class_is_refused(generator, label) -> None:
    with pytest.raises(UsageError, match=r"no class|not one class") as caught:
        generator.sample(label, [0])
    assert "top, bottom" in str(caught.value)


def test_numbers_of_numpy_name_classes_and_no_indices_give_no_images(generator) -> None:
    options = {"num_inference_steps": 2}
    assert np.array_equal(generator.sample(np.int64(1), [4], **options), generator.sample("bottom", [4], **options))
    assert generator.sample(0, [], **options).shape == (0, 6, 5, 1)


def test_views_and_read_only_images_are_taken_as_they_are(generator) -> None:
    images = generator.sample(0, range(2), num_inference_steps=2)
    mirrored = images[:, :, ::-1]
    options = {"strength": 0.5, "num_inference_steps": 2}
    expected = generator.variations(np.ascontiguousarray(mirrored), 0, range(2), **options)
    images.flags.writeable = False
    assert np.array_equal(generator.variations(mirrored, 0, range(2), **options), expected)
    masks = np.zeros((2, 6, 5), bool)[:, ::-1]
    assert np.array_equal(generator.inpaint(images, masks, 0, range(2), num_inference_steps=2), images)


def test_the_guide_is_kept_and_used(trained) -> None:
    generator = Generator.load(trained[True])
    assert not generator.guide.training
    own, guide = (dict(network.state_dict()) for network in (generator.denoiser, generator.guide))
    assert any(not np.array_equal(own[name], guide[name]) for name in own)
    options = {"num_inference_steps": 4, "guidance_method": "autoguidance"}
    plain = generator.sample(0, range(3), num_inference_steps=4)
    assert np.array_equal(plain, generator.sample(0, range(3), guidance_scale=1.0, **options))
    guided = generator.sample(0, range(3), guidance_scale=3.0, **options)
    assert not np.array_equal(plain, guided)
    itself = dataclasses.replace(generator, guide=generator.denoiser)
    difference = plain.astype(int) - itself.sample(0, range(3), guidance_scale=3.0, **options)
    assert np.abs(difference).max() <= 1


def test_a_black_image_is_finite_and_a_failed_one_is_not(generator) -> None:
    black = dataclasses.replace(generator, normalization=Normalization((-9.0,), (0.1,)))
    made = black.draw(Drawing(0, range(2), Sampling(num_inference_steps=2)))
    assert not made.pixels.any()
    assert made.finite.tolist() == [True, True]
    failed = dataclasses.replace(generator, denoiser=copy.deepcopy(generator.denoiser))
    with torch.no_grad():
        failed.denoiser.unet.offset.bias.fill_(float("nan"))
    made = failed.draw(Drawing(0, range(2), Sampling(num_inference_steps=2)))
    assert not made.pixels.any()
    assert made.finite.tolist() == [False, False]


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_variation_of_hardly_any_strength_is_the_image(generator, blobs, solver) -> None:
    images = blobs.pixels[:3]
    made = generator.variations(images, "top", range(3), strength=1e-6, solver=solver)
    assert made.shape == images.shape
    assert np.abs(made.astype(int) - images).max() <= 1


def test_variations_go_further_with_strength_until_the_image_is_forgotten(generator, blobs) -> None:
    images = blobs.pixels[:4]
    made = [generator.variations(images, 0, range(4), strength=strength) for strength in (0.01, 0.2, 0.35, 0.7, 1.0)]
    distances = [np.abs(varied.astype(int) - images).mean() for varied in made[:-1]]
    assert distances == sorted(distances)
    assert distances[0] < 2 < 10 < distances[-1]
    assert np.array_equal(made[-1], generator.variations(blobs.pixels[8:12], 0, range(4), strength=1.0))
    assert not np.array_equal(made[-1], generator.variations(images, 0, range(4, 8), strength=1.0))


def test_variations_of_one_image_differ_by_index_and_depend_on_nothing_else(generator, blobs) -> None:
    images = np.repeat(blobs.pixels[:1], 3, axis=0)
    options = {"strength": 0.5, "solver": "ancestral", "num_inference_steps": 6}
    made, again = (generator.variations(images, 0, indices, **options) for indices in ([4, 9, 2], [9, 0, 1]))
    assert len(np.unique(made.reshape(3, -1), axis=0)) == 3
    assert np.abs(made[1].astype(int) - again[0]).max() <= 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": np.zeros((2, 6, 5, 1))}, "not uint8"),
        ({"images": np.zeros((1, 6, 5, 1), np.uint8)}, "not \\(2, 6, 5, 1\\)"),
        ({"images": np.zeros((2, 6, 5), np.uint8)}, "not \\(2, 6, 5, 1\\)"),
        *(({"strength": strength}, "strength") for strength in (0.0, -0.1, 1.01, float("nan"))),
        ({"masks": np.ones((2, 6, 5), np.uint8)}, "not bool"),
        ({"masks": np.ones((2, 6, 5, 1), bool)}, "not \\(2, 6, 5\\)"),
        ({"masks": np.ones((1, 6, 5), bool)}, "not \\(2, 6, 5\\)"),
        *(({"resamplings": resamplings}, "resamplings") for resamplings in (-1, 1.5)),
    ],
)
def test_editing_refuses_what_it_cannot_use(generator, change, reason) -> None:
    good = {"images": np.zeros((2, 6, 5, 1), np.uint8), "label": 0, "indices": [0, 1]}
    ways = {generator.variations: {"strength": 0.5}, generator.inpaint: {"masks": np.ones((2, 6, 5), bool)}}
    for edit, options in ways.items():
        if change.keys() & {"images", *options} or (edit == generator.inpaint and "resamplings" in change):
            with pytest.raises(UsageError, match=reason) as caught:
                edit(**{**good, **options, **change})
            assert caught.value.fix


@pytest.mark.parametrize("solver", SOLVERS)
def test_inpainting_keeps_what_is_not_masked_bit_for_bit(generator, blobs, solver) -> None:
    images = blobs.pixels[:4]
    masks = np.random.default_rng(0).random((4, 6, 5)) < 0.4
    made = generator.inpaint(images, masks, "top", range(4), solver=solver, num_inference_steps=4, resamplings=1)
    assert np.array_equal(made[~masks], images[~masks])
    assert (made[masks] != images[masks]).mean() > 0.8


def test_inpainting_nothing_or_everything(generator, blobs) -> None:
    images, all_of_it = blobs.pixels[:2], np.ones((2, 6, 5), bool)
    assert np.array_equal(generator.inpaint(images, ~all_of_it, 0, [0, 1], num_inference_steps=3), images)
    options = {"num_inference_steps": 3, "resamplings": 0}
    some = generator.inpaint(images, all_of_it, 0, [0, 1], **options)
    others = generator.inpaint(images, all_of_it, 0, [0, 2], **options)
    assert np.abs(some[0].astype(int) - others[0]).max() <= 1
    assert not np.array_equal(some[1], others[1])


def test_sampling_takes_repeatable_kernels_and_leaves_the_settings_alone(folder, monkeypatch) -> None:
    generator, cudnn, seen = Generator.load(folder), torch.backends.cudnn, []
    monkeypatch.setattr(cudnn, "benchmark", True)
    generator.denoiser.register_forward_pre_hook(lambda *_: seen.append((cudnn.benchmark, cudnn.deterministic)))
    image, mask = np.zeros((1, 6, 5, 1), np.uint8), np.ones((1, 6, 5), bool)
    generator.sample(0, [0], num_inference_steps=1)
    generator.variations(image, 0, [0], strength=0.5, num_inference_steps=1)
    generator.inpaint(image, mask, 0, [0], num_inference_steps=1)
    assert set(seen) == {(False, True)}
    assert (cudnn.benchmark, cudnn.deterministic) == (True, False)


def test_small_tiles_are_enlarged_and_laid_out_row_by_row() -> None:
    pixels = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = contact_sheet(pixels, columns=2)
    assert sheet.shape == (2 * 48 + 2, 2 * 48 + 2, 3)
    assert (sheet[:48, :48] == 10).all()
    assert (sheet[:48, 50:] == 20).all()
    assert (sheet[50:, :48] == 30).all()
    assert (sheet[50:, 50:] == 128).all()
    assert contact_sheet(np.zeros((1, 64, 50, 1), np.uint8), columns=4).shape == (64, 4 * 52 - 2, 1)
