import pytest
import torch

from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.process.objectives import VARIANCE_WEIGHT
from diffaug.diffusion.process.process import SIGMA_DATA, draw_training_sigmas
from diffaug.diffusion.training.batches import Batch
from diffaug.diffusion.training.loss import NoiseUncertainty, TrainingLoss
from diffaug.runtime import seeding

NETWORK = NetworkConfig((8, 8), 1, 3, 1, 16, (1, 2), 1, 0.0)


def make_batch(x0: torch.Tensor, seed: int = 0) -> Batch:
    generator = seeding.torch_generator(seed, "test batch")
    labels = torch.zeros(len(x0), dtype=torch.long)
    noise = torch.randn(x0.shape, generator=generator)
    sigma = draw_training_sigmas(len(x0), generator)
    return Batch(x0, x0, labels, labels + 1, sigma, noise, x0.new_zeros(len(x0), 0))


def white(count: int) -> torch.Tensor:
    return SIGMA_DATA * torch.randn(count, 1, 8, 8, generator=seeding.torch_generator(0, "test"))


@pytest.mark.parametrize("uncertainty", [False, True])
def test_the_denoising_error_is_one_before_training_for_data_of_sigma_data(uncertainty: bool) -> None:
    loss = TrainingLoss(Denoiser(NETWORK), uncertainty=uncertainty).eval()
    total, logged = loss(make_batch(white(512)))
    assert logged.item() == pytest.approx(1.0, abs=0.03)
    assert total.item() == pytest.approx(logged.item() * (1 + VARIANCE_WEIGHT / 2), rel=1e-4)


def test_the_variance_does_not_pull_on_the_mean() -> None:
    denoiser = Denoiser(NETWORK)
    torch.nn.init.normal_(denoiser.unet.head.weight)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 2.0])
    output = denoiser.output(x, sigma, torch.tensor([0, 1]))
    denoiser.objective.losses(torch.randn_like(x), x, sigma, output).variance.sum().backward()
    gradient = denoiser.unet.head.weight.grad
    assert gradient is not None
    assert torch.count_nonzero(gradient[:1]) == 0
    assert torch.count_nonzero(gradient[1:]) > 0


def test_class_balancing_adds_its_term_only_where_labels_tell_images_apart() -> None:
    denoiser = Denoiser(NETWORK).eval()
    with seeding.torch_global_seed(0, "test"):
        for parameter in denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    batch = make_batch(white(8))
    plain, _ = TrainingLoss(denoiser, uncertainty=False)(batch)
    balanced = TrainingLoss(denoiser, uncertainty=False, class_balancing=1.0)
    assert balanced(batch)[0] > plain
    assert torch.allclose(balanced(batch._replace(other_labels=batch.labels))[0], plain)


def test_the_target_is_what_is_learnt() -> None:
    loss = TrainingLoss(Denoiser(NETWORK).eval(), uncertainty=False)
    batch = make_batch(white(8))
    assert loss(batch._replace(target=batch.x0 + 1))[0] > loss(batch)[0]


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
