"""Trainings on data whose answer is known in closed form."""

import numpy as np
import pytest
import torch

from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.network_files import for_inference
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.training import new_state, train

pytestmark = pytest.mark.e2e


def fit(pixels, labels, images: int, patch: int = 1, augmentation: float = 0.0) -> tuple[PixelGenerator, TrainingData]:
    classes = tuple(map(str, range(labels.max() + 1)))
    labeled = LabeledImages(pixels[..., None], labels, classes, tuple(map(str, range(len(labels)))))
    network = NetworkConfig(pixels.shape[1:], 1, len(classes), patch, 16, (1,), 1, 0.0, 9)
    plan = Plan(network.image_size, 1, network, 128, 4e-3, images, images_seen=images, augmentation=augmentation)
    state, data = new_state(plan, "cpu", 0), TrainingData.of(labeled, "cpu")
    for _ in train(state, data, plan, 0):
        pass
    return PixelGenerator(
        classes=classes,
        weights_sha256="",
        denoiser=for_inference(state.averaged, "cpu"),
        normalization=data.normalization,
    ), data


def test_two_classes_of_different_width_are_denoised_and_sampled_with_their_means_and_covariances() -> None:
    """The classes are Gaussian, so the moments of the clean image are known; the pixels of one class are correlated."""
    rng = np.random.default_rng(0)
    labels = (rng.random(4096) < 0.3).astype(np.int64)
    bright = (labels == 1)[:, None, None]
    shared, own = (np.where(bright, *widths) for widths in ((25, 4), (10, 14)))
    level = np.where(bright, 180, 80) + shared * rng.normal(0, 1, (4096, 1, 1))
    pixels = np.clip(level + own * rng.normal(0, 1, (4096, 4, 4)), 0, 255).round().astype(np.uint8)
    generator, data = fit(pixels, labels, 128 * 600)
    normalized = data.normalization.to_network(data.pixels).double()
    for label in (0, 1):
        x0 = normalized[data.labels == label].flatten(1)
        center, prior = x0.mean(dim=0), torch.cov(x0.T)
        for sigma in (0.15, 0.5, 1.5):
            x = x0 + sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
            gain = prior @ torch.linalg.inv(prior + sigma**2 * torch.eye(16))
            mean, variance = center + (x - center) @ gain.T, (prior - gain @ prior).diagonal().mean().item()
            rows = torch.full((len(x),), label)
            moments = generator.denoiser(x.float().reshape(-1, 1, 4, 4), torch.full((len(x),), sigma), rows)
            assert moments.variance.mean().item() == pytest.approx(variance, rel=0.25), (label, sigma)
            assert (moments.mean.flatten(1) - mean).square().mean().item() < 0.05 * variance, (label, sigma)
        real = pixels[labels == label].reshape(-1, 16).astype(np.float64)
        sampled = generator.sample(label, range(1024), num_inference_steps=24).reshape(-1, 16).astype(np.float64)
        assert sampled.mean() == pytest.approx(real.mean(), abs=4)
        covariance, expected = np.cov(sampled.T), np.cov(real.T)
        assert covariance.mean() == pytest.approx(expected.mean(), rel=0.15)
        assert np.diag(covariance).mean() == pytest.approx(np.diag(expected).mean(), rel=0.15)
    # Guidance of 0 asks with the label hidden; classes then come as often as they were drawn.
    free = generator.sample(0, range(1024), guidance_scale=0.0, guidance_interval=(0.0, 100.0), num_inference_steps=24)
    share = (free.mean((1, 2, 3)) > 140).mean()
    assert share == pytest.approx(data.draw_probabilities[labels == 1].sum(), abs=0.06)


def test_augmentation_does_not_leak_into_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "AUGMENTATION_STRENGTH", 1.0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 40, (256, 8, 8))
    pixels[:, :, 5:] += 200  # lit on the right, always
    generator, _ = fit(pixels.astype(np.uint8), np.zeros(256, dtype=np.int64), 128 * 350, augmentation=0.5)
    sampled = generator.sample(0, range(64)).astype(np.float64)[..., 0]
    lit = sampled[:, :, 5:].mean((1, 2)) - sampled[:, :, :4].mean((1, 2))
    assert (lit > 120).mean() > 0.95


def test_a_network_narrower_than_what_it_folds_leaves_no_noise_in_samples() -> None:
    rng, side = np.random.default_rng(0), np.linspace(0, 1, 16)
    slopes, levels = rng.uniform(-60, 60, (2, 512, 1, 1)), rng.uniform(100, 150, (512, 1, 1))
    pixels = (levels + slopes[0] * side[:, None] + slopes[1] * side).clip(0, 255).astype(np.uint8)
    generator, _ = fit(pixels, np.zeros(512, dtype=np.int64), 128 * 150, patch=8)
    sampled = generator.sample(0, range(64)).astype(np.float64)[..., 0]
    assert np.abs(np.diff(sampled, axis=2)).mean() < 16  # 41 where nothing passes by
