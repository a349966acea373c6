import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffaug.diffusion.network.unet import Dropout, NetworkConfig, SelfAttention, UNet
from diffaug.runtime import seeding


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dropout_drops_its_share_scales_the_rest_and_repeats_itself(memory_format: torch.memory_format) -> None:
    dropout, ones = Dropout(0.25), torch.ones(5, 32, 25, 25).contiguous(memory_format=memory_format)
    with seeding.torch_global_seed(0, "test"):
        dropped = dropout(ones)
    with seeding.torch_global_seed(0, "test"):
        assert torch.equal(dropout(ones), dropped)
    assert dropped.is_contiguous(memory_format=memory_format)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    share = (dropped == 0).float()
    for axes in ((0, 1, 2, 3), (0, 1, 2), (0, 2, 3), (1, 2, 3)):  # overall, and of each column, channel and image
        count = ones.numel() / max(1, share.mean(axes).numel())
        assert (share.mean(axes) - 0.25).abs().max().item() < 5 * (0.25 * 0.75 / count) ** 0.5


def test_nothing_is_dropped_outside_training_or_at_zero_and_nearly_all_may_be() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert torch.isfinite(Dropout(0.999)(x)).all()


@given(sixteenths=st.integers(1, 40))
def test_attention_divides_any_width_among_its_heads(sixteenths: int) -> None:
    channels = 16 * sixteenths
    attention, x = SelfAttention(channels), torch.randn(1, channels, 1, 2)
    assert attention(x).shape == x.shape
    assert attention.heads == channels // 32 or channels % 32


def test_a_network_no_wider_than_what_it_folds_passes_the_image_by_to_the_mean_alone() -> None:
    network, x = UNet(NetworkConfig((9, 6), 3, 2, 4, 48, (1, 2), 1, 0.0)), torch.randn(2, 3, 9, 6)
    gain = torch.tensor([0.5, -1.0, 2.0])
    with torch.no_grad():
        network.gain.bias.copy_(gain)
    mean, variance = network(x, torch.zeros(2), torch.tensor([0, 2])).chunk(2, dim=1)
    assert torch.equal(mean, gain[:, None, None] * x)
    assert not variance.any()
    assert UNet(NetworkConfig((9, 6), 3, 2, 2, 16, (1, 2), 1, 0.0)).gain is None
