import copy

import pytest
import torch
from torch import nn

from diffaug.diffusion.network.denoiser import ALIGNMENT, join_weights

BATCH = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GroupNorm(1, 5), nn.SiLU(), nn.Conv2d(5, 7, 3))
    return layers.to(memory_format=torch.channels_last)


def test_values_outputs_and_memory_formats_stay(network: nn.Sequential) -> None:
    before, expected = copy.deepcopy(network), network(BATCH)
    block = join_weights(network)
    assert torch.equal(network(BATCH), expected)
    for old, new in zip(before.parameters(), network.parameters(), strict=True):
        assert torch.equal(old, new)
        assert old.stride() == new.stride()
        assert new.data_ptr() % (ALIGNMENT * new.element_size()) == block.data_ptr() % (ALIGNMENT * new.element_size())
    assert block.count_nonzero() == sum(int(old.count_nonzero()) for old in before.parameters())


def test_training_the_block_is_training_the_parameters(network: nn.Sequential) -> None:
    apart = copy.deepcopy(network)
    block = join_weights(network)
    one = torch.optim.AdamW([block], lr=0.01, weight_decay=0.0)
    many = torch.optim.AdamW(apart.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(3):
        one.zero_grad(set_to_none=False)
        many.zero_grad()
        network(BATCH).square().mean().backward()
        apart(BATCH).square().mean().backward()
        norms = [nn.utils.clip_grad_norm_(weights, 0.1) for weights in ([block], apart.parameters())]
        assert norms[0].item() == pytest.approx(norms[1].item(), rel=1e-5)
        one.step()
        many.step()
    for joined, separate in zip(network.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(joined, separate)


def test_loaded_weights_reach_the_block_and_have_no_gradient_unless_trained(network: nn.Sequential) -> None:
    untrained = copy.deepcopy(network).requires_grad_(False)
    block = join_weights(network)
    network.load_state_dict({name: torch.ones_like(value) for name, value in network.state_dict().items()})
    assert block.sum() == sum(parameter.numel() for parameter in network.parameters())
    assert join_weights(untrained).grad is None
    assert all(parameter.grad is None for parameter in untrained.parameters())
