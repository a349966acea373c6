import pytest
import torch

from diffaug import seeding
from diffaug.diffusion.denoiser import Denoiser
from diffaug.diffusion.loss import NoiseUncertainty, TrainingLoss
from diffaug.diffusion.process import SIGMA_DATA, draw_training_sigmas
from diffaug.diffusion.unet import NetworkConfig

NETWORK = NetworkConfig((8, 8), 1, 3, 1, 16, (1, 2), 1, 0.0)


@pytest.mark.parametrize("uncertainty", [False, True])
def test_the_denoising_error_is_one_before_training_for_data_of_sigma_data(uncertainty: bool) -> None:
    generator = seeding.torch_generator(0, "test")
    x0 = SIGMA_DATA * torch.randn(512, 1, 8, 8, generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    loss = TrainingLoss(Denoiser(NETWORK), uncertainty=uncertainty).eval()
    sigma = draw_training_sigmas(512, generator)
    losses = loss.per_image(x0, torch.zeros(512, dtype=torch.long), sigma, noise)
    assert losses.denoising.mean().item() == pytest.approx(1.0, abs=0.03)
    assert losses.variance.mean().item() == pytest.approx(0.005, rel=0.03)
    total, logged = loss(x0, torch.zeros(512, dtype=torch.long), sigma, noise)
    assert logged.item() == pytest.approx(losses.denoising.mean().item())
    assert total.item() == pytest.approx((losses.denoising + losses.variance).mean().item())


def test_the_variance_does_not_pull_on_the_mean() -> None:
    denoiser = Denoiser(NETWORK)
    torch.nn.init.normal_(denoiser.unet.head.weight)
    x0, noise = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    loss = TrainingLoss(denoiser, uncertainty=False)
    loss.per_image(x0, torch.tensor([0, 1]), torch.tensor([0.3, 2.0]), noise).variance.sum().backward()
    gradient = denoiser.unet.head.weight.grad
    assert gradient is not None
    assert torch.count_nonzero(gradient[:1]) == 0
    assert torch.count_nonzero(gradient[1:]) > 0


def test_uncertainty_learns_the_log_of_the_error() -> None:
    with seeding.torch_global_seed(0, "test"):
        uncertainty = NoiseUncertainty()
    optimizer = torch.optim.Adam(uncertainty.parameters(), 0.02)
    generator = seeding.torch_generator(0, "test")
    for _ in range(1500):
        sigma = draw_training_sigmas(64, generator)
        log_error = uncertainty(sigma)
        error = 1 / (1 + sigma)
        (error * (-log_error).exp() + log_error).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    sigma = torch.tensor([0.05, 0.3, 2.0])
    assert uncertainty(sigma).tolist() == pytest.approx((1 / (1 + sigma)).log().tolist(), abs=0.1)
