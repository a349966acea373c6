import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from diffaug.configuration.sampling import Sampling
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.files import GeneratorRecord, write_generator
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.network_files import write_network
from diffaug.diffusion.latent import files
from diffaug.diffusion.latent.autoencoder import open_autoencoder
from diffaug.diffusion.latent.cache import LatentCache
from diffaug.diffusion.latent.codec import Codec
from diffaug.diffusion.latent.data import LatentData
from diffaug.diffusion.latent.files import write_autoencoder
from diffaug.diffusion.latent.folder import AutoencoderFolder
from diffaug.diffusion.latent.generator import LatentGenerator
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.process import Moments, karras_sigmas
from diffaug.diffusion.sampling.class_noise import ClassNoise
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.diffusion.sampling.samplers import run_solver
from diffaug.diffusion.training.training import new_state, train
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from tests.diffusion.latent.autoencoders import write_exact

pytestmark = pytest.mark.e2e
SIZE, CLASSES, IMAGES_SEEN = (7, 10), ("dark", "bright"), 128 * 80
SHORT = {"num_inference_steps": 4}


def toy(count: int = 2048) -> LabeledImages:
    """Gray images, flat in squares of 2 px, of two levels that all squares of an image share a part of."""
    rng = np.random.default_rng(0)
    labels = (rng.random(count) < 0.3).astype(np.int64)
    level = np.where(labels == 1, 180, 80)[:, None, None] + rng.normal(0, 20, (count, 1, 1))
    small = np.clip(level + rng.normal(0, 12, (count, 4, 5)), 0, 255).round().astype(np.uint8)
    pixels = small.repeat(2, axis=1).repeat(2, axis=2)[:, : SIZE[0], : SIZE[1], None]
    return LabeledImages(np.ascontiguousarray(pixels), labels, CLASSES, tuple(map(str, range(count))))


@pytest.fixture(scope="module")
def gray_folder(tmp_path_factory) -> Path:
    return write_exact(tmp_path_factory.mktemp("gray"), channels=1)


@pytest.fixture(scope="module")
def original(gray_folder, tmp_path_factory) -> Path:
    """A generator on disk that was trained on the toy images, with the autoencoder in its folder."""
    images, folder = toy(), tmp_path_factory.mktemp("study") / "generator"
    autoencoder = AutoencoderFolder.find(gray_folder)
    codec = Codec(open_autoencoder(autoencoder, "cpu"), SIZE, 1)
    cache = LatentCache.of(codec, autoencoder.sha256, tmp_path_factory.mktemp("latents"))
    data = LatentData.encode(images, "cpu", cache)
    channels, *latent_size = codec.latent_shape
    network = NetworkConfig(tuple(latent_size), channels, 2, 1, 16, (1,), 1, 0.0)
    plan = Plan(SIZE, 1, network, 128, 4e-3, IMAGES_SEEN, images_seen=IMAGES_SEEN)
    state = new_state(plan, "cpu", 0)
    for _ in train(state, data, plan, 0):
        pass
    write_network(folder, network, data.latent_normalization, state.averaged.state_dict(), state.guide)
    write_autoencoder(folder, autoencoder, None)
    write_generator(folder, GeneratorRecord("latent", SIZE, 1, images.counts_by_name, {"images seen": IMAGES_SEEN}))
    storage.commit_directory(folder, {})
    return folder


@pytest.fixture(scope="module")
def generator(original) -> Generator:
    return Generator.load(original)


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "generator"))


def test_it_is_a_generator_of_images_of_the_training_size(generator) -> None:
    assert isinstance(generator, LatentGenerator)
    assert (generator.image_size, generator.channels, generator.classes) == (SIZE, 1, CLASSES)
    made = generator.sample("dark", range(3), **SHORT)
    assert (made.dtype, made.shape) == (np.uint8, (3, *SIZE, 1))
    assert np.array_equal(made[:, 0:6:2], made[:, 1:7:2])  # squares of the decoder
    assert generator.sample("dark", [], **SHORT).shape == (0, *SIZE, 1)


def test_gray_images_get_no_bias_from_three_equal_channels_of_an_rgb_autoencoder(tmp_path) -> None:
    """With the exact denoiser of each class. Sampling begins at a finite level, which keeps 4 % of the way to the mean.

    That is 1.3 gray levels of 30, and the mean of 512 samples has a standard error of 0.9.
    """
    autoencoder, images = AutoencoderFolder.find(write_exact(tmp_path / "rgb")), toy()
    codec = Codec(open_autoencoder(autoencoder, "cpu"), SIZE, 1)
    data = LatentData.encode(images, "cpu", LatentCache.of(codec, autoencoder.sha256, tmp_path))
    known = data.latent_normalization.normalize(data.latents.mean.float())
    for label, mean in ((0, 80), (1, 180)):
        noise = ClassNoise(0, "sample", label, range(512), codec.latent_shape, torch.device("cpu"))
        made = run_solver(
            Sampling(), gaussian(known[torch.from_numpy(images.labels == label)]), noise, karras_sigmas(18)
        )
        decoded = codec.decode(data.latent_normalization.denormalize(made))
        assert decoded.pixels.mean() == pytest.approx(mean, abs=1.3 + 3 * 0.9)


def gaussian(images: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], Moments]:
    """The exact denoiser of images with the mean and covariance of those given."""
    flat = images.flatten(1).double()
    center, (variances, axes) = flat.mean(dim=0), torch.linalg.eigh(torch.cov(flat.T))

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Moments:
        along = (x.flatten(1).double() - center) @ axes
        mean = center + along * (variances / (variances + sigma.double().reshape(-1, 1) ** 2)) @ axes.T
        return Moments(mean.float().view_as(x), torch.zeros_like(x))

    return denoise


def test_each_index_is_alone_and_class_and_seed_count(generator) -> None:
    together = generator.sample(0, [3, 7, 5, 11], seed=3, **SHORT)
    assert np.array_equal(together, generator.sample("dark", [3, 7, 5, 11], seed=3, **SHORT))
    alone = generator.sample(0, [5, 1], seed=3, **SHORT)
    assert np.abs(together[2].astype(int) - alone[0]).max() <= 1
    for label, indices, seed in ((1, [3, 7, 5, 11], 3), (0, [3, 7, 5, 11], 4), (0, [0, 1, 2, 4], 3)):
        assert not np.array_equal(together, generator.sample(label, indices, seed=seed, **SHORT))


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one(generator, original, tmp_path) -> None:
    program = (
        "import sys, numpy as np\n"
        "from diffaug.diffusion.generator.generator import Generator\n"
        "made = Generator.load(sys.argv[1]).sample(1, range(4, 8), seed=2, num_inference_steps=4)\n"
        "np.save(sys.argv[2], made)\n"
    )
    file = tmp_path / "made.npy"
    subprocess.run([sys.executable, "-c", program, original, file], check=True)
    assert np.array_equal(np.load(file), generator.sample(1, range(4, 8), seed=2, **SHORT))


def test_inpainting_and_variations_keep_of_images_what_they_should(generator) -> None:
    images = toy().pixels[:6]
    masks = np.zeros((6, *SIZE), bool)
    masks[:, 2:5, 3:8] = True
    made = generator.inpaint(images, masks, "bright", range(6), resamplings=1, **SHORT)
    assert np.array_equal(made[~masks], images[~masks])
    assert not np.array_equal(made[masks], images[masks])
    weak, strong = (generator.variations(images, 0, range(6), strength=one, **SHORT) for one in (1e-6, 1.0))
    assert np.abs(weak.astype(int) - images).max() <= 1
    assert np.array_equal(strong, generator.variations(images[::-1], 0, range(6), strength=1.0, **SHORT))
    everything = generator.inpaint(images, np.ones_like(masks), "bright", range(6), resamplings=0)
    assert abs(everything.mean() - 180) < 15


def test_latents_outside_of_a_mask_stay_as_they_are(generator) -> None:
    images, masks = toy().pixels[:3], np.zeros((3, *SIZE), bool)
    masks[:, 0, 0] = True  # of the square of four pixels, all are made anew
    drawn = generator.draw(Drawing(0, range(3), Sampling(**SHORT)).painting(images, masks, 0))
    changed = np.abs(drawn.pixels.astype(int) - images).max(axis=(0, 3)) > 1
    assert changed[:2, :2].all()
    assert not changed[2:].any()
    assert not changed[:, 2:].any()


def test_trained_classes_are_denoised_better_under_their_label(generator) -> None:
    images = toy()
    few = images.select(np.arange(200))
    wrong = dataclasses.replace(few, labels=1 - few.labels)
    right, wrong = (generator.denoising_errors(one, seed=0) for one in (few, wrong))
    assert right.shape == (200,)
    assert (right < wrong).mean() > 0.8


def test_the_guide_is_kept_and_used(generator) -> None:
    plain = generator.sample(0, range(3), **SHORT)
    guided = generator.sample(0, range(3), guidance_method="autoguidance", guidance_scale=3.0, **SHORT)
    assert not np.array_equal(plain, guided)
    with pytest.raises(UsageError, match="without one"):
        dataclasses.replace(generator, guide=None).require_sampling(Sampling(guidance_method="autoguidance"))


def test_an_image_with_values_that_are_not_finite_is_black(generator) -> None:
    broken = dataclasses.replace(generator, normalization=dataclasses.replace(generator.normalization, mean=(1e39,)))
    made = broken.draw(Drawing(0, range(2), Sampling(**SHORT)))
    assert (made.finite.tolist(), made.pixels.any()) == ([False, False], False)


def test_a_small_autoencoder_is_copied_and_its_loss_is_found(folder) -> None:
    assert (folder / "autoencoder" / "config.json").is_file()
    weights = folder / "autoencoder" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(DamagedError):
        Generator.load(folder)
    storage.commit_directory(folder, {})  # though the files were declared whole again
    with pytest.raises(DamagedError, match="autoencoder was changed"):
        Generator.load(folder)


def test_a_large_autoencoder_is_found_where_it_was_or_missed(
    generator, folder, tmp_path, gray_folder, monkeypatch
) -> None:
    elsewhere = Path(shutil.copytree(gray_folder, tmp_path / "autoencoder"))
    shutil.rmtree(folder / "autoencoder")
    monkeypatch.setattr(files, "LARGEST_COPY", 100)
    write_autoencoder(folder, AutoencoderFolder.find(elsewhere), None)
    storage.commit_directory(folder, {})
    assert not (folder / "autoencoder").exists()
    loaded = Generator.load(folder)
    assert loaded.weights_sha256 == generator.weights_sha256
    assert np.array_equal(loaded.sample(0, [1], **SHORT), generator.sample(0, [1], **SHORT))
    elsewhere.rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="no longer where it was") as caught:
        Generator.load(folder)
    assert "ln -s NEW OLD" in str(caught.value.fix)
    elsewhere.symlink_to(tmp_path / "moved")
    Generator.load(folder)
    config = elsewhere / "config.json"
    config.write_text(config.read_text().replace('"scaling_factor": 1.0', '"scaling_factor": 2.0'))
    with pytest.raises(UsageError, match="not the one"):
        Generator.load(folder)


def test_the_hash_of_the_weights_covers_network_and_autoencoder(generator, folder) -> None:
    assert Generator.load(folder).weights_sha256 == generator.weights_sha256
    record = files.read_latent_record(folder)
    changed = dataclasses.replace(record.autoencoder, sha256="0" * 64)
    assert generator.weights_sha256 not in (storage.sha256_file(folder / "model.safetensors"), changed.sha256)
    config = folder / "autoencoder" / "config.json"
    config.write_text(config.read_text() + "\n")
    write_autoencoder(folder, AutoencoderFolder.find(folder / "autoencoder"), None)
    storage.commit_directory(folder, {})
    assert Generator.load(folder).weights_sha256 != generator.weights_sha256
    assert torch.equal(
        next(iter(Generator.load(folder).denoiser.parameters())), next(iter(generator.denoiser.parameters()))
    )
