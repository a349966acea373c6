import dataclasses
import json

import numpy as np
import pytest
import torch

from diffaug.diffusion.generator.files import write_generator
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.sampling.samplers import SOLVERS
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.training import new_state, train
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage


@pytest.fixture
def write(tmp_path, blobs, plan, settings):
    """Trains, and writes the generator with or without the weights halfway as its guide."""

    def trained_and_written(*, guided: bool):
        data = TrainingData.of(blobs, settings, "cpu")
        state = new_state(plan, settings, "cpu", 0)
        for record in train(state, data, plan, settings, 0):
            if record.step == plan.steps // 2:
                halfway = {name: tensor.clone() for name, tensor in state.averaged.state_dict().items()}
        folder = tmp_path / "generator"
        folder.mkdir()
        write_generator(
            folder,
            network=plan.network,
            weights=state.averaged.state_dict(),
            normalization=data.normalization,
            counts=blobs.counts_by_name,
            training={"images seen": 192},
            guide=halfway if guided else None,
        )
        storage.commit_directory(folder, {})
        return folder

    return trained_and_written


@pytest.fixture
def folder(write):
    return write(guided=False)


@pytest.fixture
def generator(folder):
    return Generator.load(folder)


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
    for options in (
        {"solver": "ancestral"},
        {"solver": "heun"},
        {"guidance_scale": 3.0, "guidance_interval": (0.0, 80.0)},
    ):
        assert not np.array_equal(plain, generator.sample(0, range(3), num_inference_steps=4, **options))
    nowhere = generator.sample(0, range(3), num_inference_steps=4, guidance_scale=3.0, guidance_interval=(81, 99))
    assert np.array_equal(plain, nowhere)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"solver": "plms"}, "dpm_solver_2m"),
        ({"guidance": "classifier"}, "autoguidance"),
        ({"num_inference_steps": 0}, "steps"),
        ({"num_inference_steps": 12.0}, "steps"),
        ({"guidance_scale": "1.5"}, "out of range"),
        ({"guidance_interval": 1.0}, "no interval"),
        ({"guidance_interval": (0, 1, 2)}, "no interval"),
        ({"guidance_scale": -1.0}, "out of range"),
        ({"guidance_scale": float("nan")}, "out of range"),
        ({"guidance_interval": (2.0, 1.0)}, "\\(2.0, 1.0\\) is no interval"),
        ({"guidance": "autoguidance", "guidance_scale": 2.0}, "without keeping one"),
    ],
)
def test_wrong_options_say_what_to_do(generator, options, reason) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        generator.sample(0, [0], **options)
    assert caught.value.fix


@pytest.mark.parametrize("label", [True, 2.0, 9, np.int64(9), "nothing", None])
def test_what_names_no_class_is_refused(generator, label) -> None:
    with pytest.raises(UsageError, match="knows no class") as caught:
        generator.sample(label, [0])
    assert "top" in caught.value.fix


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
    for resamplings in (-1, 1.5):
        with pytest.raises(UsageError, match="resamplings"):
            generator.inpaint(images, masks, 0, range(2), resamplings=resamplings)


def test_the_guide_is_kept_and_used(write) -> None:
    folder = write(guided=True)
    generator = Generator.load(folder)
    assert not generator.guide.training
    own, guide = (dict(network.state_dict()) for network in (generator.denoiser, generator.guide))
    assert any(not np.array_equal(own[name], guide[name]) for name in own)
    options = {"num_inference_steps": 4, "guidance": "autoguidance"}
    plain = generator.sample(0, range(3), num_inference_steps=4)
    assert np.array_equal(plain, generator.sample(0, range(3), guidance_scale=1.0, **options))
    guided = generator.sample(0, range(3), guidance_scale=3.0, **options)
    assert not np.array_equal(plain, guided)
    itself = dataclasses.replace(generator, guide=generator.denoiser)
    difference = plain.astype(int) - itself.sample(0, range(3), guidance_scale=3.0, **options)
    assert np.abs(difference).max() <= 1


def test_a_damaged_or_missing_guide_is_found(write) -> None:
    folder = write(guided=True)
    file = folder / "guide.safetensors"
    weights = file.read_bytes()
    file.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(DamagedError):
        Generator.load(folder)
    file.unlink()
    with pytest.raises(DamagedError):
        Generator.load(folder)


def test_a_stray_guide_is_not_loaded(folder) -> None:
    (folder / "guide.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert Generator.load(folder).guide is None


# --- Variations of real images


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_variation_of_hardly_any_strength_is_the_image(generator, blobs, solver) -> None:
    images = blobs.pixels[:3]
    made = generator.variations(images, "top", range(3), strength=1e-6, solver=solver)
    assert made.shape == images.shape
    assert np.abs(made.astype(int) - images).max() <= 1


def test_variations_go_further_with_strength(generator, blobs) -> None:
    images = blobs.pixels[:8]
    distances = [
        np.abs(generator.variations(images, "top", range(8), strength=strength).astype(int) - images).mean()
        for strength in (0.01, 0.2, 0.35, 0.7)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 2 < 10 < distances[-1]


def test_full_strength_forgets_the_image(generator, blobs) -> None:
    some, others = (
        generator.variations(images, 0, range(4), strength=1.0) for images in (blobs.pixels[:4], blobs.pixels[8:12])
    )
    assert np.array_equal(some, others)
    assert not np.array_equal(some, generator.variations(blobs.pixels[:4], 0, range(4, 8), strength=1.0))


def test_variations_are_deterministic_and_each_index_is_another(generator, blobs) -> None:
    images = np.repeat(blobs.pixels[:1], 3, axis=0)
    made = generator.variations(images, 0, [4, 9, 2], strength=0.5, solver="ancestral", num_inference_steps=6)
    again = generator.variations(images, 0, [9, 0, 1], strength=0.5, solver="ancestral", num_inference_steps=6)
    assert len(np.unique(made.reshape(3, -1), axis=0)) == 3
    assert np.abs(made[1].astype(int) - again[0]).max() <= 1


def test_variations_refuse_what_they_cannot_use(generator, blobs) -> None:
    images = blobs.pixels[:2]
    for wrong, reason in (
        (images / 255, "not uint8"),
        (images[:1], "not \\(2, 6, 5, 1\\)"),
        (images[:, :5], "not \\(2, 6, 5, 1\\)"),
        (images[..., 0], "not \\(2, 6, 5, 1\\)"),
    ):
        with pytest.raises(UsageError, match=reason) as caught:
            generator.variations(wrong, 0, [0, 1], strength=0.5)
        assert caught.value.fix
    for strength in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(UsageError, match="strength") as caught:
            generator.variations(images, 0, [0, 1], strength=strength)
        assert "0.5" in caught.value.fix


# --- Inpainting


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


def test_inpainting_refuses_what_it_cannot_use(generator, blobs) -> None:
    images, masks = blobs.pixels[:2], np.ones((2, 6, 5), bool)
    for wrong_images, wrong_masks, reason in (
        (images, masks.astype(np.uint8), "not bool"),
        (images, masks[..., None], "not \\(2, 6, 5\\)"),
        (images, masks[:1], "not \\(2, 6, 5\\)"),
        (images.astype(np.float32), masks, "not uint8"),
    ):
        with pytest.raises(UsageError, match=reason) as caught:
            generator.inpaint(wrong_images, wrong_masks, 0, [0, 1])
        assert caught.value.fix
    with pytest.raises(UsageError, match="resamplings"):
        generator.inpaint(images, masks, 0, [0, 1], resamplings=-1)


def test_sampling_takes_repeatable_kernels_and_leaves_the_settings_alone(generator, monkeypatch) -> None:
    cudnn, seen = torch.backends.cudnn, []
    monkeypatch.setattr(cudnn, "benchmark", True)
    generator.denoiser.register_forward_pre_hook(lambda *_: seen.append((cudnn.benchmark, cudnn.deterministic)))
    image, mask = np.zeros((1, 6, 5, 1), np.uint8), np.ones((1, 6, 5), bool)
    generator.sample(0, [0], num_inference_steps=1)
    generator.variations(image, 0, [0], strength=0.5, num_inference_steps=1)
    generator.inpaint(image, mask, 0, [0], num_inference_steps=1)
    assert set(seen) == {(False, True)}
    assert (cudnn.benchmark, cudnn.deterministic) == (True, False)
