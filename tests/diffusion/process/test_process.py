import math

import numpy as np
import pytest
import torch

from diffaug.diffusion.process.edm import LOG_SIGMA_MEAN, LOG_SIGMA_STD, Edm
from diffaug.diffusion.process.process import SIGMA_DATA, diffuse, karras_sigmas, noise_scale_of, precondition
from diffaug.runtime import seeding

SIGMAS = torch.logspace(-3, 2, 30, dtype=torch.float64)


def test_preconditioned_input_and_target_have_unit_variance_for_data_of_sigma_data() -> None:
    c_skip, c_out, c_in, _ = precondition(SIGMAS)
    assert torch.allclose(c_skip, SIGMA_DATA**2 / (SIGMA_DATA**2 + SIGMAS**2))  # the exact denoiser of Gaussian data
    assert torch.allclose(c_in**2 * (SIGMA_DATA**2 + SIGMAS**2), torch.ones_like(SIGMAS))
    target_variance = ((1 - c_skip) ** 2 * SIGMA_DATA**2 + c_skip**2 * SIGMAS**2) / c_out**2
    assert torch.allclose(target_variance, torch.ones_like(SIGMAS))


def test_each_image_gets_noise_of_its_own_level() -> None:
    x0, noise = torch.full((2, 1, 1, 2), 0.3), torch.tensor([[[[1.0, -2.0]]], [[[0.5, 1.0]]]])
    noisy = diffuse(x0, torch.tensor([0.5, 3.0]), noise)
    assert noisy.flatten().tolist() == pytest.approx([0.8, -0.7, 1.8, 3.3])


def test_training_sigmas_fill_every_stratum_once_and_have_the_published_quantiles() -> None:
    sigmas = Edm().draw_sigmas(64, seeding.torch_generator(0, "test"))
    standard = (sigmas.log() - LOG_SIGMA_MEAN) / LOG_SIGMA_STD
    strata = (torch.special.ndtr(standard) * 64).floor().clamp(0, 63).int()
    assert torch.bincount(strata, minlength=64).max() <= 2  # rounding at a border may move one
    assert len(strata.unique()) >= 62
    assert not torch.equal(sigmas, sigmas.sort().values)
    sigmas = torch.cat([Edm().draw_sigmas(256, seeding.torch_generator(0, "test", k)) for k in range(40)])
    assert np.allclose(np.quantile(sigmas.numpy(), [0.05, 0.5, 0.95]), [0.042, 0.30, 2.17], rtol=0.02)


def test_karras_grid_has_the_published_values() -> None:
    sigmas = karras_sigmas(18)
    assert sigmas.dtype == torch.float64
    assert sigmas[:3].tolist() == pytest.approx([80, 57.586, 40.786], abs=1e-3)
    assert sigmas[-3:].tolist() == pytest.approx([0.0075, 0.002, 0], abs=1e-4)
    assert len(karras_sigmas(1)) == 2
    assert math.isclose(karras_sigmas(1)[0].item(), 80)


def test_larger_images_lose_a_block_of_pixels_at_the_same_place_of_the_process() -> None:
    """The signal-to-noise ratio of the mean over a block that 64 px show as one pixel is that of the pixel."""
    assert [noise_scale_of(size) for size in ((8, 8), (64, 64), (32, 128), (128, 128), (256, 64))] == [1, 1, 1, 2, 2]
    randomness = seeding.torch_generator(0, "blocks")
    plain, shifted = karras_sigmas(12), karras_sigmas(12, noise_scale=noise_scale_of((128, 128)))
    for sigma, larger in zip(plain[:-1].tolist(), shifted[:-1].tolist(), strict=True):
        noise = larger * torch.randn(1, 128, 128, generator=randomness)
        block_means = torch.nn.functional.avg_pool2d(noise, 2)
        assert block_means.std().item() == pytest.approx(sigma, rel=0.03)
    draws = [Edm(scale).draw_sigmas(256, seeding.torch_generator(0, "test")) for scale in (1.0, 2.0)]
    assert torch.allclose(2 * draws[0], draws[1])
    assert torch.allclose(karras_sigmas(7, 0.5, 2.0), 2 * karras_sigmas(7, 0.5))
