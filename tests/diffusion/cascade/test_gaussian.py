"""A super-resolution network trained on Gaussian images, whose detail given a small and noisy view is known."""

import numpy as np
import pytest

from diffaug.configuration.sampling import Sampling
from diffaug.data.images import LabeledImages
from diffaug.diffusion.cascade.crops import Crops
from diffaug.diffusion.cascade.planning import upscaler_network
from diffaug.diffusion.cascade.upscaler import Upscaler
from diffaug.diffusion.generator.network_files import for_inference
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.diffusion.training.training import new_state, train

pytestmark = pytest.mark.e2e
SIDE, SMALL, COUNT = 16, 8, 2048
MEAN, SHARED, OWN = 128.0, 24.0, 16.0
"""Gray level of all pixels, and the deviations of what squares of 2 x 2 pixels share and of what each has alone."""


@pytest.fixture(scope="module")
def crops() -> Crops:
    rng = np.random.default_rng(0)
    shared = rng.normal(0, SHARED, (COUNT, SMALL, SMALL)).repeat(2, axis=1).repeat(2, axis=2)
    pixels = MEAN + shared + rng.normal(0, OWN, (COUNT, SIDE, SIDE))
    images = np.clip(pixels.round(), 0, 255).astype(np.uint8)[..., None]
    labels = np.zeros(COUNT, np.int64)
    return Crops.of(LabeledImages(images, labels, ("one",), tuple(map(str, labels))), (SMALL, SMALL), "cpu")


@pytest.fixture(scope="module")
def upscaler(crops) -> Upscaler:
    network = upscaler_network((SIDE, SIDE), (SMALL, SMALL), channels=1, num_classes=1, width=32, blocks=2)
    plan = Plan((SIDE, SIDE), 1, network, 64, 4e-3, 0, images_seen=64 * 400)
    state = new_state(plan, "cpu", 0)
    for _ in train(state, crops, plan, 0):
        pass
    return Upscaler(for_inference(state.averaged, "cpu"), crops.scale, 0.0)


def linear_maps(crops: Crops) -> tuple[np.ndarray, np.ndarray]:
    """The covariance of the pixels, (256, 256), and what reducing does to them, (64, 256)."""
    squares = np.kron(np.eye(SMALL), np.ones((2, 2)))
    same = np.einsum("ab,cd->acbd", squares, squares).reshape(SIDE**2, SIDE**2)
    covariance = SHARED**2 * same + OWN**2 * np.eye(SIDE**2)
    units = 128 + 100 * np.eye(SIDE**2).reshape(-1, SIDE, SIDE, 1)
    reduced = crops.scale.reduction.reduced(units.round().astype(np.uint8)).reshape(SIDE**2, -1)
    return covariance, (reduced.astype(np.float64).T - 128) / 100


@pytest.mark.parametrize("level", [0.0, 0.15])
def test_detail_is_drawn_from_the_posterior(crops, upscaler, level) -> None:
    covariance, reduce = linear_maps(crops)
    spread = level * crops.images.normalization.std[0] / 0.5 * 127.5  # of the view's noise, in gray levels
    gain = covariance @ reduce.T @ np.linalg.inv(reduce @ covariance @ reduce.T + spread**2 * np.eye(SMALL**2))
    posterior = covariance - gain @ reduce @ covariance
    small = crops.small[:8].numpy()
    count = 64
    drawing = Drawing(0, range(8 * count), Sampling(num_inference_steps=20))
    scaled = Upscaler(upscaler.denoiser, upscaler.scale, level)
    drawn = scaled.enlarge(small.repeat(count, axis=0), drawing).pixels.reshape(8, count, -1).astype(np.float64)
    # The mean over draws of view and detail; the view's own noise adds to the spread of the draws.
    expected = MEAN + (small.reshape(8, -1) - MEAN) @ gain.T
    whole = posterior + gain @ gain.T * spread**2
    error = np.sqrt(np.square(drawn.mean(axis=1) - expected).mean())
    assert error < 0.25 * np.sqrt(np.diag(posterior).mean())
    found = np.mean([np.cov(one.T) for one in drawn], axis=0)
    assert np.diag(found).mean() == pytest.approx(np.diag(whole).mean(), rel=0.1)
    neighbors = np.arange(0, SIDE**2, 2)
    assert found[neighbors, neighbors + 1].mean() == pytest.approx(
        whole[neighbors, neighbors + 1].mean(), abs=0.1 * np.diag(whole).mean()
    )
