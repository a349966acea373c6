import numpy as np
import pytest
import torch

from diffaug.diffusion.cascade.detail import DetailScale
from diffaug.diffusion.cascade.reducing import Reduction
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.process import SIGMA_DATA

REDUCTION = Reduction((20, 14), (8, 6))


@pytest.fixture
def pixels() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = rng.integers(60, 180, (256, 1, 1, 3))
    return np.clip(smooth + rng.normal(0, [5, 15, 40], (256, 20, 14, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def scale(pixels) -> DetailScale:
    return DetailScale.of(pixels, REDUCTION.reduced(pixels), REDUCTION, Normalization.of(pixels))


def test_detail_has_the_deviation_that_the_denoiser_expects_at_every_level(pixels, scale) -> None:
    small = torch.from_numpy(REDUCTION.reduced(pixels))
    images = scale.normalization.to_network(torch.from_numpy(pixels))
    for level in (0.0, 0.1, 0.5):
        noise = torch.randn(256, 3, 8, 6, generator=torch.Generator().manual_seed(1))
        detail = scale.view(small, torch.full((256,), level), noise).detail(images)
        deviations = detail.square().mean((0, 2, 3)).sqrt()
        torch.testing.assert_close(deviations, torch.full((3,), SIGMA_DATA), rtol=0.03, atol=0)


def test_a_view_and_its_detail_make_the_image(pixels, scale) -> None:
    images = scale.normalization.to_network(torch.from_numpy(pixels[:4]))
    small, levels = torch.from_numpy(REDUCTION.reduced(pixels[:4])), torch.tensor([0.0, 0.1, 0.3, 0.5])
    view = scale.view(small, levels, torch.randn(4, 3, 8, 6))
    torch.testing.assert_close(view.with_detail(view.detail(images)), images, rtol=0, atol=1e-5)


def test_a_level_of_zero_is_no_noise_at_all(pixels, scale) -> None:
    small, levels = torch.from_numpy(REDUCTION.reduced(pixels[:4])), torch.zeros(4)
    noisy = scale.view(small, levels, torch.randn(4, 3, 8, 6))
    assert torch.equal(noisy.enlarged, REDUCTION.enlarged(scale.normalization.to_network(small)))
    assert torch.equal(noisy.conditions[:, -1], torch.zeros(4, 20, 14))


def test_images_that_lose_nothing_have_no_detail_to_divide_by() -> None:
    flat = np.full((3, 20, 14, 1), 90, np.uint8)
    flat[0] = 40
    scale = DetailScale.of(flat, REDUCTION.reduced(flat), REDUCTION, Normalization.of(flat))
    view = scale.view(torch.from_numpy(REDUCTION.reduced(flat)), torch.zeros(3), torch.zeros(3, 1, 8, 6))
    assert view.detail(scale.normalization.to_network(torch.from_numpy(flat))).abs().max() < 1e-3


def test_a_smooth_image_is_expected_to_have_less_detail(pixels, scale) -> None:
    smooth = (pixels[:8].astype(float).mean(axis=(1, 2), keepdims=True) * 0.9 + pixels[:8] * 0.1).astype(np.uint8)
    both = torch.from_numpy(REDUCTION.reduced(np.concatenate([pixels[:8], smooth])))
    rough, calm = scale.view(both, torch.zeros(16), torch.zeros(16, 3, 8, 6)).scale.split(8)
    assert (calm[:, 1:] < 0.2 * rough[:, 1:]).all()
