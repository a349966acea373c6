import dataclasses
import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

from diffaug.augmenter import DiffusionAugmenter
from diffaug.configuration.settings import Config, DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.warm_start import EarlierGenerator
from diffaug.diffusion.latent import reconstruction
from diffaug.diffusion.latent.codec import Codec
from diffaug.diffusion.latent.generator import LatentGenerator
from diffaug.diffusion.planning.planning import set_length
from diffaug.errors import DataError, Interrupted, MissingExtraError, UsageError
from diffaug.files import storage
from diffaug.runtime.console import LogNarrator
from diffaug.stages.fitting import running
from diffaug.stages.fitting.routes import latent
from diffaug.stages.fitting.routes.latent import LatentRoute
from diffaug.stages.job import Job
from tests.conftest import SMALL
from tests.diffusion.latent.autoencoders import write_exact, write_random_kl

pytestmark = pytest.mark.e2e
WEIGHTS, LAST_LAYER = "diffusion_pytorch_model.safetensors", "decoder.layers.4.weight"
SETTINGS = SMALL | {"diffusion.route": "latent", "diffusion.images_seen": 64, "diffusion.batch_size": 8}


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    return write_exact(tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Gray images of 9 x 14 px in classes of 24, 16 and 12, and unlabeled ones, flat in squares of 2 px."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for position, (name, count) in enumerate({"dark": 24, "middle": 16, "bright": 12, "unlabelled": 10}.items()):
        (root / name).mkdir()
        for number in range(count):
            small = rng.integers(0, 60, (5, 7)) + position % 3 * 80
            pixels = small.repeat(2, axis=0).repeat(2, axis=1)[:9]
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:03d}.png")
    return root


def fit(pictures: Path, study: Path, autoencoder: Path, **settings) -> DiffusionAugmenter:
    own = {"diffusion.autoencoder": str(autoencoder), "data.image_size": 9}
    return DiffusionAugmenter(study=study, settings={**SETTINGS, **own, **settings}, verbose=False).fit(pictures)


def content(folder: Path) -> dict[str, bytes]:
    files = ("model.safetensors", "network.json", "latent.json", "rows.parquet", "autoencoder/config.json")
    return {name: (folder / name).read_bytes() for name in files}


@pytest.fixture(scope="module")
def fitted(pictures, autoencoder, tmp_path_factory) -> Path:
    return fit(pictures, tmp_path_factory.mktemp("runs") / "study", autoencoder).study.path


def test_an_autoencoder_whose_files_were_replaced_is_opened_anew(tmp_path) -> None:
    images = LabeledImages(np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, np.int64), ("a",), ("1",))
    config = Config(diffusion=DiffusionSettings(autoencoder=str(write_exact(tmp_path / "autoencoder"))))
    job = SimpleNamespace(config=config, device="cpu", study=SimpleNamespace(path=tmp_path))
    first, same = (latent._Latents(job, images).codec.autoencoder for _ in range(2))
    file = tmp_path / "autoencoder" / WEIGHTS
    weights = load_file(file)
    save_file({**weights, LAST_LAYER: weights[LAST_LAYER] / 2}, file)
    other = latent._Latents(job, images).codec.autoencoder
    assert same is first and other is not first


def test_a_study_ends_with_a_generator_of_latents(fitted) -> None:
    generator = Generator.load(fitted)
    assert isinstance(generator, LatentGenerator)
    assert (generator.image_size, generator.channels) == ((9, 14), 1)
    assert generator.sample("dark", range(2), num_inference_steps=3).shape == (2, 9, 14, 1)
    card = (fitted / "generator" / "README.md").read_text()
    assert "autoencoder: AutoencoderTiny" in card
    assert "reconstruction: of 42 training images" in card
    assert (fitted / "generator" / "samples" / "images-000000000.png").is_file()
    assert not (fitted / "generator" / "checkpoints").exists()


@pytest.mark.slow
def test_a_pool_is_filled_verified_and_the_same_again(fitted, pictures, tmp_path) -> None:
    copy = Path(shutil.copytree(fitted, tmp_path / "copy"))
    pools = [DiffusionAugmenter.open(path, verbose=False).generate(sampling_strategy="all") for path in (fitted, copy)]
    manifests = [(pool.path / "manifest.parquet").read_bytes() for pool in pools]
    assert manifests[0] == manifests[1]
    assert {"sampled", "variation"} >= set(pools[0].manifest["origin"])


def test_a_stopped_training_resumes_to_the_same_bytes(fitted, pictures, autoencoder, tmp_path, monkeypatch) -> None:
    steps, logged = [], running.TrainingRun._log

    def stop_at_four(self, record) -> None:
        logged(self, record)
        steps.append(record.step)

    monkeypatch.setattr(running.TrainingRun, "_log", stop_at_four)

    @contextmanager
    def stopping():
        yield lambda: len(steps) == 4

    with monkeypatch.context() as interrupted:
        interrupted.setattr(running, "stop_requests", stopping)
        with pytest.raises(Interrupted):
            fit(pictures, tmp_path / "study", autoencoder)
    assert any((tmp_path / "study").rglob("checkpoints/step-*"))
    fit(pictures, tmp_path / "study", autoencoder)
    assert content(tmp_path / "study" / "generator") == content(fitted / "generator")


@pytest.mark.slow
def test_images_are_encoded_once_for_pilot_and_generator(pictures, autoencoder, tmp_path, monkeypatch) -> None:
    encoded, encode = [], Codec.encode

    def counting(self, pixels):
        encoded.extend(storage.sha256_bytes(image.tobytes()) for image in pixels)
        return encode(self, pixels)

    monkeypatch.setattr(Codec, "encode", counting)
    pilot = {"diffusion.images_seen": 6000, "diffusion.batch_size": 64}
    study = fit(pictures, tmp_path / "study", autoencoder, **pilot).study
    assert study.has_pilot
    assert len(encoded) == len(set(encoded)) <= 52


def test_autoencoders_with_a_distribution_work_too(pictures, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reconstruction.Reconstruction, "loses_images", False)  # random weights paint no images
    monkeypatch.setattr(reconstruction, "LARGEST_LOSS", 1.0)
    folder = write_random_kl(tmp_path / "kl")
    generator = fit(pictures, tmp_path / "study", folder, **{"diffusion.horizontal_flip": True}).generator_
    assert generator.normalization.mean != (0.0,) * 4
    assert len(generator.normalization.mean) == 4


def test_an_autoencoder_that_paints_one_color_is_refused(pictures, tmp_path, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(LogNarrator, "say", lambda self, text: said.append(text))
    folder = write_exact(tmp_path / "blind")
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, LAST_LAYER: torch.zeros_like(weights[LAST_LAYER])}, folder / WEIGHTS)
    with pytest.raises(DataError, match="does not know such images") as caught:
        fit(pictures, tmp_path / "study", folder)
    assert caught.value.where == str(folder)
    assert not (tmp_path / "study" / "generator" / "DONE.json").exists()
    assert "diffusion.route=pixels" in str(caught.value.fix)
    assert any("PSNR" in text for text in said)


def job_of(**settings: object) -> Job:
    """As much of a job as planning looks at."""
    config = Config.model_validate({"diffusion": {"route": "latent", **settings}})
    return SimpleNamespace(config=config, device="cpu", study=SimpleNamespace(path=Path("nowhere")))  # type: ignore[return-value]


IMAGES = LabeledImages(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, ("a", "b"), tuple("abcd"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"autoencoder": None}, "no autoencoder is given"),
        ({"autoencoder": "nowhere"}, "no such folder"),
        ({"objective": "ddpm"}, "edm alone"),
        ({"augmentation": 0.1}, "can't be augmented"),
        ({"init": "earlier"}, "leave --init out"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else None,
)
def test_what_latents_cannot_do_is_said_before_anything_is_loaded(autoencoder, settings, reason) -> None:
    given = {"autoencoder": str(autoencoder)}
    assert LatentRoute().possible(job_of(**given), IMAGES) == ""
    assert reason in LatentRoute().possible(job_of(**{**given, **settings}), IMAGES)


def test_images_in_their_own_proportions_are_not_learned(autoencoder) -> None:
    boxed = dataclasses.replace(IMAGES, boxes=np.full((4, 2), 8))
    assert "data.resize=squeeze" in LatentRoute().possible(job_of(autoencoder=str(autoencoder)), boxed)


def test_without_diffusers_the_extra_is_named(autoencoder, monkeypatch) -> None:
    latent._opened.cache_clear()
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match="pretrained"):
        LatentRoute().plan(job_of(autoencoder=str(autoencoder)), IMAGES)


def test_encoding_counts_as_work_besides_the_training(autoencoder, monkeypatch) -> None:
    encode = Codec.encode

    def slow(self, pixels):
        clock[0] += 0.5 * len(pixels)
        return encode(self, pixels)

    clock, job = [0.0], job_of(autoencoder=str(autoencoder))
    monkeypatch.setattr(latent.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(Codec, "encode", slow)
    plan = LatentRoute().plan(job, IMAGES)
    assert LatentRoute().seconds_besides(job, IMAGES, plan) == 0.5 * len(IMAGES)
    assert LatentRoute().seconds_besides(job, IMAGES, dataclasses.replace(plan, horizontal_flip=True)) == len(IMAGES)


def test_the_plan_is_one_of_latents(autoencoder) -> None:
    plan = LatentRoute().plan(job_of(autoencoder=str(autoencoder)), IMAGES)
    assert (plan.image_size, plan.channels) == ((8, 8), 3)
    assert (plan.network.image_size, plan.network.channels, plan.network.conditions) == ((4, 4), 3, 0)
    assert set_length(plan, DiffusionSettings(images_seen=10**6), 10).augmentation == 0


@pytest.mark.slow
def test_another_autoencoder_makes_the_training_begin_anew_and_none_is_no_matter(
    fitted, pictures, autoencoder, tmp_path
) -> None:
    study, folder = tmp_path / "study", Path(shutil.copytree(autoencoder, tmp_path / "autoencoder"))
    first = fit(pictures, study, folder).generator_.weights_sha256
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "scaling_factor": 2.0}))
    assert fit(pictures, study, folder).generator_.weights_sha256 != first
    shutil.rmtree(folder)
    assert fit(pictures, study, folder).generator_.sample(0, [0], num_inference_steps=2).shape == (1, 9, 14, 1)


def test_no_training_continues_from_latents(fitted) -> None:
    with pytest.raises(UsageError, match="kind 'latent'"):
        EarlierGenerator.open(fitted)


def test_the_generator_describes_its_images(fitted) -> None:
    generator = Generator.load(fitted)
    rows = generator.rows()
    assert len(rows) == 42 + 10
    assert dataclasses.replace(generator, folder=None).rows() is None
