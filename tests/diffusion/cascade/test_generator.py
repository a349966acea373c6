import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffaug.configuration.sampling import Sampling
from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages, UnlabeledImages
from diffaug.diffusion.cascade import upscaler as upscaler_module
from diffaug.diffusion.cascade.crops import Crops
from diffaug.diffusion.cascade.files import BASE, UPSCALER, write_scale
from diffaug.diffusion.cascade.generator import CascadeGenerator
from diffaug.diffusion.cascade.planning import plan_of_upscaler
from diffaug.diffusion.cascade.reducing import Reduction
from diffaug.diffusion.generator.files import GeneratorRecord, write_generator
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.network_files import write_network
from diffaug.diffusion.planning.planning import make_plan
from diffaug.diffusion.process.boxes import ClassBoxes
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.diffusion.training.batches import TrainingData, UnlabeledPart
from diffaug.diffusion.training.training import new_state, train
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage

pytestmark = pytest.mark.e2e
SIZE, SMALL = (15, 21), (6, 8)
FEW = {"num_inference_steps": 5}


def halves(count: int = 24, boxes: bool = False) -> LabeledImages:
    """RGB images whose upper or lower half is lit and finely striped."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 40, (count, *SIZE, 3), dtype=np.uint8)
    labels = np.arange(count) % 2
    for image, label in zip(pixels, labels, strict=True):
        image[(slice(0, 8) if label == 0 else slice(8, 15))] += 150
        image[:, ::2] += 40
    shapes = np.array([[15, 21], [15, 11]])[np.arange(count) // 2 % 2] if boxes else None
    return LabeledImages(pixels, labels.astype(np.int64), ("top", "bottom"), tuple(map(str, range(count))), shapes)


def make(folder: Path, images: LabeledImages) -> Path:
    """A cascade after a few steps."""
    reduction, settings = Reduction(SIZE, SMALL), DiffusionSettings(images_seen=16 * 16, batch_size=16)
    small = reduction.images(images)
    plan = replace(make_plan(small, settings, "cpu", base_channels=16), image_size=SIZE)
    data, crops = TrainingData.of(small, "cpu"), Crops.of(images, SMALL, "cpu")
    above = plan_of_upscaler(plan, 2)
    above = replace(above, unet=replace(above.network, blocks=1, base_channels=32))
    for part, own, source in ((BASE, plan, data), (UPSCALER, above, crops)):
        state = new_state(own, "cpu", 0)
        for _ in train(state, source, own, 0):
            pass
        normalization = data.normalization if part == BASE else crops.scale.normalization
        write_network(folder / part, own.network, normalization, state.averaged.state_dict(), state.guide)
    write_scale(folder / UPSCALER, crops.scale, 0.1, 16)
    record = GeneratorRecord("cascade", SIZE, 3, images.counts_by_name, {"seed": 0}, boxes=crops.class_boxes(2))
    write_generator(folder, record)
    storage.commit_directory(folder, {})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("study") / "generator", halves())


@pytest.fixture(scope="module")
def generator(folder) -> CascadeGenerator:
    loaded = Generator.load(folder)
    assert isinstance(loaded, CascadeGenerator)
    return loaded


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_no_images_are_no_error(generator, scale) -> None:
    none = np.empty((0, *SIZE, 3), np.uint8)
    made = [
        generator.sample("top", [], guidance_scale=scale),
        generator.variations(none, "top", [], strength=0.5, guidance_scale=scale),
        generator.inpaint(none, none[..., 0] > 0, "top", [], guidance_scale=scale),
    ]
    assert [one.shape for one in made] == 3 * [(0, *SIZE, 3)]
    assert generator.denoising_errors(halves(0), seed=0).shape == (0,)


def test_images_are_full_size_and_each_depends_on_its_seed_class_and_index(generator, folder) -> None:
    first = generator.sample("top", range(4), seed=1, **FEW)
    assert (first.dtype, first.shape) == (np.uint8, (4, *SIZE, 3))
    assert (generator.image_size, generator.channels) == (SIZE, 3)
    assert np.array_equal(first, Generator.load(folder.parent).sample(0, range(4), seed=1, **FEW))
    for label, indices, seed in ((1, range(4), 1), (0, range(4), 2), (0, range(4, 8), 1)):
        assert not np.array_equal(first, generator.sample(label, indices, seed=seed, **FEW))
    alone = generator.sample("top", [2], seed=1, **FEW)
    assert np.abs(alone[0].astype(int) - first[2]).max() <= 2


def test_how_many_are_enlarged_at_once_is_not_seen(generator, monkeypatch) -> None:
    together = generator.sample("top", range(5), **FEW)
    monkeypatch.setattr(upscaler_module, "CHUNK", 2)
    assert np.abs(generator.sample("top", range(5), **FEW).astype(int) - together).max() <= 2


def test_both_networks_name_the_weights(generator, folder, tmp_path) -> None:
    for part in (BASE, UPSCALER):
        other = Path(shutil.copytree(folder, tmp_path / part))
        file = other / part / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-4] + bytes(4))
        with pytest.raises(DamagedError):
            Generator.load(other)
        storage.commit_directory(other, {})  # though the files were declared whole again
        assert Generator.load(other).weights_sha256 != generator.weights_sha256


def test_guidance_of_both_kinds_changes_images_and_keeps_their_range(generator) -> None:
    plain = generator.sample("top", range(3), **FEW)
    for method in ("classifier_free", "autoguidance"):
        options = {"guidance_method": method, "guidance_scale": 3.0, "guidance_interval": (0.0, 100.0)}
        assert not np.array_equal(plain, generator.sample("top", range(3), **FEW, **options))
    unguided = replace(generator, upscaler=replace(generator.upscaler, guide=None))
    with pytest.raises(UsageError, match="guide"):
        unguided.sample("top", range(3), guidance_method="autoguidance", guidance_scale=2.0)


def test_weak_variations_keep_the_image_and_its_detail_and_stronger_ones_less(generator) -> None:
    images = halves(6).pixels
    distances = []
    for strength in (0.02, 0.15, 0.3, 0.6, 1.0):
        varied = generator.variations(images, "top", range(6), strength=strength, **FEW)
        distances.append(np.abs(varied.astype(float) - images).mean())
    assert distances[0] < 4
    assert distances == sorted(distances)
    for strength in (0.0, 1.1):
        with pytest.raises(UsageError, match="strength"):
            generator.variations(images, "top", range(6), strength=strength)


def test_a_weak_variation_does_not_ask_the_base(generator, monkeypatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(type(generator.base), "draw", fail)
    generator.variations(halves(2).pixels, "top", range(2), strength=0.1, **FEW)
    with pytest.raises(AssertionError):
        generator.variations(halves(2).pixels, "top", range(2), strength=0.3, **FEW)


def test_inpainting_keeps_what_is_outside_and_fits_to_it(generator) -> None:
    images = halves(4).pixels
    masks = np.zeros((4, *SIZE), np.bool_)
    masks[:, 4:12, 5:13] = True
    made = generator.inpaint(images, masks, "top", range(4), resamplings=1, **FEW)
    assert np.array_equal(made[~masks], images[~masks])
    assert not np.array_equal(made[masks], images[masks])
    nothing = np.zeros_like(masks)
    assert np.array_equal(generator.inpaint(images, nothing, "top", range(4), resamplings=0, **FEW), images)


@pytest.fixture
def plain(generator) -> CascadeGenerator:
    """The same cascade, whose upscaler is not trusted."""
    return replace(generator, upscaler=replace(generator.upscaler, level="plain"))


def test_plain_samples_are_those_of_the_base_enlarged(plain) -> None:
    small = plain.base.sample("top", range(3))
    expected = [np.asarray(Image.fromarray(one).resize(SIZE[::-1], Image.Resampling.BICUBIC)) for one in small]
    difference = np.abs(plain.sample("top", range(3)).astype(int) - np.stack(expected))
    assert difference.mean() < 6  # Pillow's kernel has a = -0.5, torch's -0.75
    guided = Sampling(guidance_method="autoguidance", guidance_scale=2)
    replace(plain, upscaler=replace(plain.upscaler, guide=None)).require_sampling(guided)  # it samples nothing


def test_plain_variations_and_inpaintings_keep_what_is_real(plain) -> None:
    images, masks = halves(4).pixels, np.zeros((4, *SIZE), np.bool_)
    weak = plain.variations(images, "top", range(4), strength=0.1)
    assert 0 < np.abs(weak.astype(int) - images).mean() < 25  # not the image itself, which would be a copy
    masks[:, 3:9, 4:12] = True
    painted = plain.inpaint(images, masks, "bottom", range(4))
    assert np.array_equal(painted[~masks], images[~masks])
    assert (painted[masks] != images[masks]).mean() > 0.5


def test_errors_are_larger_for_images_of_another_kind(generator) -> None:
    images = halves(8)
    own = generator.denoising_errors(images, seed=0)
    noise = np.random.default_rng(0).integers(0, 256, images.pixels.shape, dtype=np.uint8)
    other = generator.denoising_errors(replace(images, pixels=noise), seed=0)
    assert own.shape == (8,)
    assert own.max() < other.min()


def test_images_with_proportions_go_through_both_networks(tmp_path) -> None:
    images = halves(16, boxes=True)
    generator = Generator.load(make(tmp_path / "generator", images))
    assert isinstance(generator, CascadeGenerator)
    assert generator.boxes == ClassBoxes.of(images.boxes, images.labels, 2)
    assert generator.base.boxes.by_class[0] == ((6, 4, 4), (6, 8, 4))
    assert generator.sample("top", range(3), **FEW).shape == (3, *SIZE, 3)
    drawing = Drawing(0, range(4), Sampling(num_inference_steps=10))
    varied = generator.draw(drawing.varying(images.pixels[:4], 0.2, images.boxes[:4]))
    assert varied.finite.all()
    assert np.abs(varied.pixels.astype(float) - images.pixels[:4]).mean() < 25


def test_a_network_that_is_not_finite_is_reported_and_gives_black_images(generator) -> None:
    broken = replace(generator, upscaler=replace(generator.upscaler, level=float("nan")))
    assert not broken.sample("top", range(2), **FEW).any()


def test_crops_are_drawn_from_all_images_and_depend_on_seed_and_step_alone() -> None:
    images = halves(12)
    others = UnlabeledImages(images.pixels[:4] // 2, tuple("abcd"), np.ones(4))
    crops = Crops.of(images, SMALL, "cpu", unlabeled=UnlabeledPart(others, 0.5))
    plan = make_plan(Reduction(SIZE, SMALL).images(images), DiffusionSettings(images_seen=640), "cpu")
    plan = replace(plan_of_upscaler(replace(plan, image_size=SIZE), 2), batch_size=64)
    batch, again = crops.draw(plan, 0, 3), Crops.of(images, SMALL, "cpu", unlabeled=UnlabeledPart(others, 0.5))
    for one, other in zip(batch, again.draw(plan, 0, 3), strict=True):
        assert one is None or torch.equal(one, other)
    assert not torch.equal(batch.x0, crops.draw(plan, 0, 4).x0)
    assert 0.4 < (batch.labels == 2).float().mean() < 0.75  # unlabeled ones, and hidden labels
    assert len(batch.part(slice(0, 5)).labels) == 5
