import pytest
import torch
from torch import Tensor, nn

from diffaug import seeding
from diffaug.diffusion.denoiser import Denoiser, denoising_loss, guided
from diffaug.diffusion.process import SIGMA_DATA, draw_training_sigmas
from diffaug.diffusion.unet import NetworkConfig


def network(image_size: tuple[int, int] = (8, 8), channels: int = 1, patch: int = 1) -> NetworkConfig:
    return NetworkConfig(image_size, channels, 3, patch, 16, (1, 2), 1, 0.0)


@pytest.mark.parametrize(
    ("size", "channels", "patch"),
    [((8, 8), 1, 1), ((28, 28), 1, 2), ((30, 30), 3, 2), ((127, 90), 3, 8), ((5, 13), 1, 1)],
)
def test_any_size_and_channels(size: tuple[int, int], channels: int, patch: int) -> None:
    denoiser = Denoiser(network(size, channels, patch))
    x = torch.randn(2, channels, *size)
    assert denoiser(x, torch.tensor([0.1, 5.0]), torch.tensor([0, 3])).shape == x.shape


def test_loss_is_one_before_training_for_data_of_sigma_data() -> None:
    generator = seeding.torch_generator(0, "test")
    x0 = SIGMA_DATA * torch.randn(512, 1, 8, 8, generator=generator)
    sigma = draw_training_sigmas(512, generator)
    loss = denoising_loss(
        Denoiser(network()).eval(),
        x0,
        torch.zeros(512, dtype=torch.long),
        sigma,
        torch.randn(x0.shape, generator=generator),
    )
    assert loss.shape == (512,)
    assert loss.mean().item() == pytest.approx(1.0, abs=0.03)


def test_labels_and_noise_levels_matter_once_trained_a_step() -> None:
    denoiser = Denoiser(network())
    with seeding.torch_global_seed(0, "test"):
        for parameter in denoiser.parameters():
            nn.init.normal_(parameter, std=0.1)
    x, sigma = torch.ones(1, 1, 8, 8), torch.tensor([0.5])
    base = denoiser(x, sigma, torch.tensor([0]))
    assert not torch.allclose(base, denoiser(x, sigma, torch.tensor([1])))
    assert not torch.allclose(base, denoiser(x, sigma, torch.tensor([3])))
    raw = denoiser.unet(x, torch.tensor([0.1]), torch.tensor([0]))
    assert not torch.allclose(raw, denoiser.unet(x, torch.tensor([0.3]), torch.tensor([0])))


class LabelEcho(nn.Module):
    """Answers with the label, and counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[int] = []

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        self.passes.append(len(x))
        return labels.to(x.dtype)[:, None, None, None].expand_as(x)


@pytest.mark.parametrize(("scale", "expected", "rows"), [(0.0, 9.0, 4), (1.0, 2.0, 4), (1.5, -1.5, 8), (3.0, -12.0, 8)])
def test_guidance_extrapolates_and_passes_once(scale: float, expected: float, rows: int) -> None:
    echo = LabelEcho()
    denoise = guided(echo, torch.full((4,), 2), null_label=9, guidance_scale=scale)
    result = denoise(torch.zeros(4, 1, 2, 2), torch.tensor(1.0))
    assert torch.allclose(result, torch.full_like(result, expected))
    assert echo.passes == [rows]
