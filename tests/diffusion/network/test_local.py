import pytest
import torch

from diffaug.diffusion.cascade.tiles import in_tiles
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.local import MAX_LEVEL, reach
from diffaug.diffusion.network.unet import NetworkConfig

CONFIG = NetworkConfig((50, 39), 2, 3, 2, 16, (1,), 2, 0.0, architecture="local")


@pytest.fixture
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(CONFIG).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(0.15 * torch.randn_like(parameter))
    return network


@pytest.fixture
def inputs() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    conditions = torch.randn(2, 3, 50, 39)
    conditions[:, -1] = torch.tensor([0.1, 0.4])[:, None, None]
    return torch.randn(2, 2, 50, 39), torch.tensor([0.5, 2.0]), torch.tensor([0, 3]), conditions


def test_an_untrained_network_knows_nothing(inputs) -> None:
    x, sigma, labels, conditions = inputs
    assert not Denoiser(CONFIG).output(x, sigma, labels, conditions).any()


def test_a_pixel_depends_on_those_within_reach_alone(denoiser, inputs) -> None:
    x, sigma, labels, conditions = inputs
    before = denoiser.output(x, sigma, labels, conditions)
    changed, seen = x.clone(), conditions.clone()
    changed[:, :, 20, 18] += 5
    seen[:, :2, 20, 18] -= 3
    rows, columns = (denoiser.output(changed, sigma, labels, seen) != before).any(1).any(0).nonzero().unbind(1)
    assert rows.min() >= 20 - reach(CONFIG) and rows.max() <= 21 + reach(CONFIG)
    assert columns.min() >= 18 - reach(CONFIG) and columns.max() <= 19 + reach(CONFIG)
    assert rows.max() - rows.min() > reach(CONFIG)  # or the test would say nothing


@pytest.mark.parametrize("tile", [1, 3, 8, 64])
def test_tiles_are_not_seen(denoiser, inputs, tile) -> None:
    x, sigma, labels, conditions = inputs
    whole, tiled = denoiser(x, sigma, labels, conditions), in_tiles(denoiser, conditions, tile)(x, sigma, labels)
    for expected, found in zip(whole, tiled, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_conditions_are_repeated_for_guidance(denoiser, inputs) -> None:
    x, sigma, labels, conditions = inputs
    denoise = in_tiles(denoiser, conditions)
    both = denoise(torch.cat([x, x]), sigma.repeat(2), torch.cat([labels, labels]))
    torch.testing.assert_close(both.mean[:2], denoise(x, sigma, labels).mean)
    torch.testing.assert_close(both.mean[2:], both.mean[:2])


def test_a_level_of_zero_is_as_if_there_were_no_levels(denoiser, inputs) -> None:
    x, sigma, labels, conditions = inputs
    conditions = conditions.clone()
    conditions[:, -1] = 0
    before = denoiser.output(x, sigma, labels, conditions)
    denoiser.unet.embedding.conditions.weight.normal_()
    assert torch.equal(before, denoiser.output(x, sigma, labels, conditions))
    conditions[:, -1] = MAX_LEVEL
    assert not torch.equal(before, denoiser.output(x, sigma, labels, conditions))
