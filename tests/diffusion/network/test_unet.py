import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn

from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import Dropout, NetworkConfig, SelfAttention, UNet, cosine_transform
from diffaug.diffusion.process.process import SIGMA_DATA, diffuse, per_image, precondition
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
    sigma, gain = torch.tensor([0.1, 3.0]), torch.tensor([0.5, -1.0, 2.0])
    with torch.no_grad():
        network.skip.gain.bias.copy_(gain.repeat_interleave(16))
    mean, variance = network(x, sigma.log() / 4, torch.tensor([0, 2])).chunk(2, dim=1)
    assert torch.allclose(mean, -SIGMA_DATA * gain[:, None, None] * x / per_image(sigma), atol=1e-4)
    assert not variance.any()
    assert UNet(NetworkConfig((9, 6), 3, 2, 2, 16, (1, 2), 1, 0.0)).skip is None


@pytest.mark.parametrize("side", [1, 2, 8])
def test_the_transform_of_a_patch_is_the_orthonormal_cosine_transform(side: int) -> None:
    transform, patch = cosine_transform(side), np.random.default_rng(0).standard_normal((side, side))
    assert np.allclose(transform.numpy() @ patch @ transform.numpy().T, dctn(patch, norm="ortho"), atol=1e-5)


def test_the_skip_can_be_the_wiener_filter_of_gaussian_patches() -> None:
    """With signal variances S per frequency the best denoiser multiplies each frequency by S / (S + sigma^2)."""
    torch.manual_seed(0)
    signal, sigma = torch.logspace(-4, -0.7, 64), torch.full((512,), 0.2)
    transform = torch.kron(cosine_transform(8), cosine_transform(8))
    x0 = ((torch.randn(512, 64) * signal.sqrt()) @ transform).reshape(512, 1, 8, 8)
    x = diffuse(x0, sigma, torch.randn(x0.shape))
    denoiser = Denoiser(NetworkConfig((8, 8), 1, 1, 8, 64, (1,), 1, 0.0))
    wiener = signal / (signal + 0.2**2)
    with torch.no_grad():
        denoiser.unet.skip.gain.bias.copy_(1 - wiener / precondition(sigma[:1]).c_skip)
        mean = denoiser(x, sigma, torch.zeros(512, dtype=torch.int64)).mean
    expected = ((x.flatten(1) @ transform.T * wiener) @ transform).reshape(x.shape)
    assert torch.allclose(mean, expected, atol=1e-5)
    least = float((signal * 0.2**2 / (signal + 0.2**2)).mean())
    assert float((mean - x0).square().mean()) == pytest.approx(least, rel=0.03)
