import tracemalloc

import numpy as np
import pytest
import torch

from diffaug.diffusion.process import normalization
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.process import SIGMA_DATA


@pytest.mark.parametrize("channels", [1, 3])
def test_normalized_images_have_mean_zero_and_deviation_sigma_data(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(10, 90, (40, 7, 9, channels), dtype=np.uint8)
    images = Normalization.of(pixels).to_network(torch.from_numpy(pixels))
    assert images.shape == (40, channels, 7, 9)
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(channels), atol=1e-5)
    assert torch.allclose(images.std((0, 2, 3), correction=0), torch.full((channels,), SIGMA_DATA), atol=1e-5)


def test_every_pixel_value_survives_the_round_trip() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    normalization = Normalization.of(pixels)
    assert np.array_equal(normalization.to_pixels(normalization.to_network(torch.from_numpy(pixels))).pixels, pixels)


def test_constant_images_stay_finite_values_are_clipped_and_a_non_finite_image_becomes_zero() -> None:
    normalization = Normalization.of(np.full((2, 3, 3, 1), 7, np.uint8))
    assert torch.isfinite(normalization.to_network(torch.full((1, 3, 3, 1), 7, dtype=torch.uint8))).all()
    assert normalization.to_pixels(torch.full((1, 1, 2, 2), 1e9)).pixels.max() == 255
    images = torch.full((2, 1, 2, 2), -9.0)  # black, which is no failure
    images[0, 0, 0, 0] = float("nan")
    pixels, finite = Normalization((0.0,), (0.5,)).to_pixels(images)
    assert not pixels.any()
    assert finite.tolist() == [False, True]


def test_mean_and_deviation_are_numpys_whatever_the_chunks(monkeypatch) -> None:
    pixels = np.random.default_rng(0).integers(3, 256, (150, 5, 4, 3), dtype=np.uint8)
    scaled = pixels.reshape(-1, 3) / 127.5 - 1
    measured = Normalization.of(pixels)
    assert measured.mean == pytest.approx(tuple(scaled.mean(axis=0)), rel=1e-9)
    assert measured.std == pytest.approx(tuple(scaled.std(axis=0)), rel=1e-9)
    monkeypatch.setattr(normalization, "CHUNK", 7)
    assert Normalization.of(pixels) == measured


def test_measuring_takes_little_memory_beside_the_images() -> None:
    pixels = np.zeros((2000, 32, 32, 3), np.uint8)
    tracemalloc.start()
    Normalization.of(pixels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.5 * pixels.nbytes
