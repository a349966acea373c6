"""A pipeline behind the interface of all generators, against what diffusers itself makes of the same noise."""

import numpy as np
import pytest
import torch

from diffaug.configuration.sampling import Sampling
from diffaug.data.images import LabeledImages
from diffaug.diffusion.sampling.class_noise import ClassNoise
from diffaug.errors import UsageError

pytest.importorskip("peft")
pytestmark = pytest.mark.e2e
QUICK = ("sd", "flux")
ALL = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in ("sdxl", "sd3", "pixart", "dit"))]
WIDE = (0.0, 1e6)
"""Guidance at all levels, as in diffusers."""


def noise_of(generator, indices, seed=0):
    shape = generator.frame.latent_shape(generator.loaded)
    return ClassNoise(seed, "sample", 0, indices, shape, torch.device("cpu")).at()


def peer(base_of, family, generator, steps, scale, noise):
    """Images of diffusers' own pipeline, (N, H, W, 3) in [0, 1], by Euler's method at the same noise levels."""
    from diffusers import DiffusionPipeline, EulerDiscreteScheduler

    absent = dict.fromkeys(generator.loaded.layout.absent)
    pipe = DiffusionPipeline.from_pretrained(base_of(family), local_files_only=True, **absent)
    pipe.set_progress_bar_config(disable=True)
    height, width = generator.frame.inner
    shared = {"output_type": "np", "height": height, "width": width, "num_inference_steps": steps}
    prompts = ["a photo of a cat"] * len(noise)
    if family in ("sd3", "flux"):
        parts = np.arange(steps, 0, -1) / steps
        if family == "flux":
            count, channels, rows, columns = noise.shape
            noise = pipe._pack_latents(noise, count, channels, rows, columns)
            return pipe(prompts, sigmas=parts.tolist(), latents=noise, max_sequence_length=256, **shared).images
        return pipe(prompts, sigmas=parts.tolist(), latents=noise, guidance_scale=scale, **shared).images
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    levels = (generator._levels.path(steps, 1.0) / 0.5).tolist()  # with the 0 at the end
    extra = {"use_resolution_binning": False, "clean_caption": False} if family == "pixart" else {}
    return pipe(prompts, sigmas=levels, latents=noise, guidance_scale=scale, **extra, **shared).images


@pytest.mark.parametrize("family", [name for name in ALL if "dit" not in str(name)])
def test_samples_are_those_of_diffusers(family, open_pipeline, base_of):
    """Prompts, levels, guidance, latents and decoding are independent code, which meets in the pixels."""
    generator = open_pipeline(family, size=(16, 16), channels=3)
    scale = 1.0 if family == "flux" else 2.5
    noise = noise_of(generator, [0, 1])
    wanted = peer(base_of, family, generator, 4, scale, noise)
    made = generator.sample(
        "cat", [0, 1], num_inference_steps=4, guidance_scale=scale, guidance_interval=WIDE, solver="euler"
    )
    assert wanted.shape == made.shape
    assert np.abs(wanted * 255 - made).max() <= 2  # both round


def test_one_step_of_a_class_conditional_pipeline_is_that_of_diffusers(open_pipeline, base_of):
    """The pipeline of diffusers counts on 1000 classes for guidance, so it is asked without."""
    from diffusers import DDIMScheduler, DiTPipeline

    generator = open_pipeline("dit", size=(16, 16), channels=3)
    noise = noise_of(generator, [0])
    pipe = DiTPipeline.from_pretrained(base_of("dit"), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *args, **kwargs: noise)
        wanted = pipe([10], guidance_scale=1.0, num_inference_steps=1, output_type="np").images  # "no class"
    made = generator.sample("cat", [0], num_inference_steps=1, guidance_scale=1.0)  # which a new class begins as
    assert np.abs(wanted * 255 - made).max() <= 2


@pytest.mark.parametrize("family", ALL)
def test_every_family_samples_varies_and_inpaints_gray_images_that_are_not_square(family, open_pipeline, monkeypatch):
    """Not by the pipeline's own call, which adds watermarks and filters, and counts on 1000 classes."""
    generator = open_pipeline(family)
    monkeypatch.setattr(type(generator.loaded.pipe), "__call__", lambda *args, **options: pytest.fail("was called"))
    images = generator.sample("cat", range(3), num_inference_steps=2)
    assert images.shape == (3, 12, 20, 1)
    assert generator.sample("cat", []).shape == (0, 12, 20, 1)
    assert images.std() > 0
    masks = np.zeros((3, 12, 20), bool)
    masks[:, 3:9, 5:11] = True
    painted = generator.inpaint(images, masks, "big_dog", range(3), num_inference_steps=2, resamplings=1)
    assert np.array_equal(painted[~masks], images[~masks])
    assert not np.array_equal(painted[masks], images[masks])
    weak, strong = (generator.variations(images, "cat", range(3), strength=s, num_inference_steps=4) for s in (0.1, 1))
    assert not np.array_equal(weak, strong)
    assert np.array_equal(
        strong, generator.variations(255 - images, "cat", range(3), strength=1, num_inference_steps=4)
    )
    shown = LabeledImages(images, np.array([0, 1, 0]), generator.classes, tuple("abc"))
    errors = generator.denoising_errors(shown, seed=0)
    assert errors.shape == (3,)
    assert np.isfinite(errors).all()


def test_image_i_depends_on_seed_class_and_i(open_pipeline):
    generator = open_pipeline("sd", template="{class}")
    made = generator.sample("cat", range(4), num_inference_steps=2)
    assert np.array_equal(made, generator.sample("cat", range(4), num_inference_steps=2))
    alone = generator.sample("cat", [2], num_inference_steps=2)
    assert np.abs(alone[0].astype(int) - made[2]).max() <= 1  # convolutions round differently by batch size
    for other in (generator.sample("big_dog", [2], num_inference_steps=2), generator.sample("cat", [3], seed=1)):
        assert not np.array_equal(other[0], made[2])


def test_a_strength_of_less_than_one_step_takes_one(open_pipeline):
    """Image-to-image of diffusers fails deep inside where steps times strength is below 1."""
    generator = open_pipeline("sd")
    image = np.full((1, 12, 20, 1), 90, np.uint8)
    assert generator.variations(image, "cat", [0], strength=0.01, num_inference_steps=4).shape == image.shape
    with pytest.raises(UsageError, match="out of range"):
        generator.variations(image, "cat", [0], strength=0.0)


def test_a_chunk_is_split_into_the_same_parts_wherever_it_is_made(open_pipeline, monkeypatch):
    generator = open_pipeline("sd")
    whole = generator.sample("cat", range(5), num_inference_steps=2)
    monkeypatch.setattr("diffaug.integrations.pipelines.frame.PIXELS_AT_ONCE", 2 * 12 * 20)
    assert generator.frame.at_once == 2
    parts = generator.sample("cat", range(5), num_inference_steps=2)
    assert np.abs(parts.astype(int) - whole).max() <= 1


def test_autoguidance_is_refused_with_what_to_do(open_pipeline):
    generator = open_pipeline("sd")
    with pytest.raises(UsageError, match="no guide"):
        generator.require_sampling(Sampling(guidance_method="autoguidance"))
    generator.require_sampling(Sampling(guidance_method="classifier_free"))


def test_little_guidance_is_usual_and_none_where_the_network_was_distilled_without(open_pipeline):
    assert open_pipeline("sd").usual.guidance_scale == (2.0, 3.0)
    assert open_pipeline("flux").usual.guidance_scale == 1.0


def test_a_distilled_network_is_told_the_scale(build, open_pipeline, tmp_path):
    build("flux", distilled=True).save_pretrained(tmp_path)
    generator = open_pipeline("flux", folder=tmp_path)
    weak, strong = (generator.sample("cat", [0], num_inference_steps=1, guidance_scale=scale) for scale in (1.0, 50.0))
    assert not np.array_equal(weak, strong)


def test_a_size_that_the_pipeline_does_not_take_is_brought_to_one_that_it_does(open_pipeline):
    generator = open_pipeline("pixart", size=(13, 19), channels=3)
    assert all(side % 4 == 0 for side in generator.frame.inner)
    assert generator.sample("cat", [0], num_inference_steps=1).shape == (1, 13, 19, 3)


def test_masks_cover_every_latent_that_shows_a_masked_pixel(open_pipeline):
    generator = open_pipeline("sd", size=(12, 20))
    one = np.zeros((1, 12, 20), bool)
    one[0, 11, 19] = True
    assert generator.frame.latent_masks(one, generator.loaded).flatten().nonzero().tolist() == [[59]]
    large = open_pipeline("sd", size=(48, 80))  # several pixels per latent
    one = np.zeros((1, 48, 80), bool)
    one[0, 1, 2] = True
    assert large.frame.latent_masks(one, large.loaded).sum() == 1
