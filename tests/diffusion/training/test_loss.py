import pytest
import torch

from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.process.edm import VARIANCE_WEIGHT, Edm
from diffaug.diffusion.process.process import SIGMA_DATA
from diffaug.diffusion.training.batches import Batch
from diffaug.diffusion.training.loss import NoiseUncertainty, TrainingLoss
from diffaug.runtime import seeding

NETWORK = NetworkConfig((8, 8), 1, 3, 1, 16, (1, 2), 1, 0.0)


@pytest.mark.parametrize("uncertainty", [False, True])
def test_the_denoising_error_is_one_before_training_for_data_of_sigma_data(uncertainty: bool) -> None:
    generator = seeding.torch_generator(0, "test")
    x0, noise = torch.randn(2, 512, 1, 8, 8, generator=generator)
    sigma, labels = Edm().draw_sigmas(512, generator), torch.zeros(512, dtype=torch.long)
    loss = TrainingLoss(Denoiser(NETWORK), uncertainty=uncertainty).eval()
    total, logged = loss(Batch(SIGMA_DATA * x0, labels, sigma, noise, x0.new_zeros(512, 0)))
    assert logged.item() == pytest.approx(1.0, abs=0.03)
    assert total.item() == pytest.approx(logged.item() * (1 + VARIANCE_WEIGHT / 2), rel=1e-4)


def test_the_variance_does_not_pull_on_the_mean() -> None:
    denoiser = Denoiser(NETWORK)
    torch.nn.init.normal_(denoiser.unet.head.weight)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 2.0])
    output = denoiser.output(x, sigma, torch.tensor([0, 1]))
    denoiser.objective.losses(torch.randn_like(x), x, sigma, output).variance.sum().backward()
    gradient = denoiser.unet.head.weight.grad
    assert torch.count_nonzero(gradient[:1]) == 0
    assert torch.count_nonzero(gradient[1:]) > 0


@pytest.mark.e2e
def test_uncertainty_learns_the_log_of_the_error() -> None:
    with seeding.torch_global_seed(0, "test"):
        uncertainty = NoiseUncertainty()
    optimizer = torch.optim.Adam(uncertainty.parameters(), 0.02)
    generator = seeding.torch_generator(0, "test")
    for _ in range(1500):
        sigma = Edm().draw_sigmas(64, generator)
        log_error = uncertainty(sigma)
        error = 1 / (1 + sigma)
        (error * (-log_error).exp() + log_error).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    sigma = torch.tensor([0.05, 0.3, 2.0])
    assert uncertainty(sigma).tolist() == pytest.approx((1 / (1 + sigma)).log().tolist(), abs=0.1)
