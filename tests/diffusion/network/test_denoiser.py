import dataclasses

import pytest
import torch
from torch import nn

from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.process.process import SIGMA_DATA
from diffaug.runtime import seeding

NETWORK = NetworkConfig((8, 8), 1, 3, 1, 16, (1, 2), 1, 0.0)


@pytest.mark.parametrize(
    ("size", "channels", "patch"),
    [((8, 8), 1, 1), ((28, 28), 1, 2), ((12, 12), 4, 2), ((30, 30), 3, 2), ((127, 90), 3, 8), ((5, 13), 1, 1)],
)
def test_any_size_and_channels(size: tuple[int, int], channels: int, patch: int) -> None:
    denoiser = Denoiser(NetworkConfig(size, channels, 3, patch, 16, (1, 2), 1, 0.0))
    x = torch.randn(2, channels, *size)
    moments = denoiser(x, torch.tensor([0.1, 5.0]), torch.tensor([0, 3]))
    assert moments.mean.shape == moments.variance.shape == x.shape


def test_an_untrained_network_gives_the_exact_moments_of_white_data() -> None:
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 5.0])
    moments = Denoiser(NETWORK)(x, sigma, torch.tensor([0, 3]))
    precision = (1 / SIGMA_DATA**2 + 1 / sigma**2)[:, None, None, None]
    assert torch.allclose(moments.variance, (1 / precision).expand_as(x))
    assert torch.allclose(moments.mean, x / sigma[:, None, None, None] ** 2 / precision, rtol=1e-4)


@pytest.mark.parametrize("objective", ["edm", "ddpm"])
def test_the_networks_input_has_unit_variance_for_data_of_sigma_data(objective: str) -> None:
    seen = []
    denoiser = Denoiser(dataclasses.replace(NETWORK, objective=objective))
    denoiser.unet.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[:2]))
    sigma = torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0])
    noise = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    noise /= noise.std(dim=(1, 2, 3), correction=0, keepdim=True)
    x = (SIGMA_DATA**2 + sigma**2).sqrt()[:, None, None, None] * noise
    denoiser(x, sigma, torch.zeros(5, dtype=torch.int64))
    assert torch.allclose(seen[0], noise, rtol=1e-4)
    assert torch.allclose(seen[1], sigma.log() / 4)


def test_labels_and_noise_levels_matter_once_trained_a_step() -> None:
    denoiser = Denoiser(NETWORK)
    with seeding.torch_global_seed(0, "test"):
        for parameter in denoiser.parameters():
            nn.init.normal_(parameter, std=0.1)
    x, sigma = torch.ones(1, 1, 8, 8), torch.tensor([0.5])
    for mean_or_variance in (0, 1):
        base = denoiser(x, sigma, torch.tensor([0]))[mean_or_variance]
        assert not torch.allclose(base, denoiser(x, sigma, torch.tensor([1]))[mean_or_variance])
        assert not torch.allclose(base, denoiser(x, sigma, torch.tensor([3]))[mean_or_variance])
    raw = denoiser.unet(x, torch.tensor([0.1]), torch.tensor([0]))
    assert not torch.allclose(raw, denoiser.unet(x, torch.tensor([0.3]), torch.tensor([0])))
