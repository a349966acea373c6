import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffaug.diffusion.process.discrete import DiscreteProcess, cosine_betas, gather
from diffaug.runtime import seeding

COSINE = DiscreteProcess.of(cosine_betas(1000))


def image(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None, None, None]


def diffused(x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """A draw from q(x_t | x0), DDPM eq. 4."""
    alpha_bar = gather(COSINE.alpha_bars, t, x0)
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def test_the_schedule_has_the_published_values_and_scales_with_its_length() -> None:
    assert COSINE.betas[[0, -1]].tolist() == pytest.approx([4.12842e-5, 0.999], rel=1e-5)
    assert COSINE.alpha_bars[499].item() == pytest.approx(0.493844, rel=1e-5)
    assert COSINE.alpha_bars[-1].item() == pytest.approx(2.43e-9, rel=2e-3)
    longer = DiscreteProcess.of(cosine_betas(4000))
    assert longer.betas[0].item() == pytest.approx(9.86582e-6, rel=1e-5)
    assert longer.alpha_bars[1999].item() == pytest.approx(0.493844, rel=1e-5)


def test_posterior_mean_equals_its_form_in_the_noise() -> None:
    t = torch.tensor([0, 1, 250, 600, 999])
    x0, noise = torch.randn(2, 5, 3, 4, 4, generator=seeding.torch_generator(0, "test"), dtype=torch.float64)
    x_t = diffused(x0, t, noise)
    beta, alpha, alpha_bar = (gather(table, t, x0) for table in (COSINE.betas, COSINE.alphas, COSINE.alpha_bars))
    expected = (x_t - beta / (1 - alpha_bar).sqrt() * noise) / alpha.sqrt()  # arXiv 2006.11239, eq. 11
    assert torch.allclose(COSINE.posterior(x0, x_t, t).mean, expected, atol=1e-9)


def test_posterior_variance_rises_from_zero_to_beta() -> None:
    ratio = COSINE.posterior_variance / COSINE.betas
    assert ratio[[0, 1, -1]].tolist() == pytest.approx([0, 0.4722, 1], abs=5e-5)
    assert (ratio <= 1).all()
    assert torch.isfinite(COSINE.posterior_log_variance).all()
    assert torch.equal(COSINE.posterior_log_variance[1:], COSINE.posterior_variance[1:].log())
    assert COSINE.posterior_log_variance[0] == COSINE.posterior_log_variance[1]


@pytest.mark.parametrize("k", [1, 30, 500, 990])
def test_posterior_is_the_normalized_product_of_prior_and_likelihood(k: int) -> None:
    x0, x_t = 0.4, 0.9
    before = COSINE.alpha_bars[k - 1].sqrt().item() * x0
    spread = (1 - COSINE.alpha_bars[k - 1]).sqrt().item()
    beta, alpha = COSINE.betas[k].item(), COSINE.alphas[k].item()
    mean, variance = COSINE.posterior(image(x0), image(x_t), torch.tensor([k]))
    reach = 12 * variance.sqrt().item()
    grid = torch.linspace(mean.item() - reach, mean.item() + reach, 20_001, dtype=torch.float64)
    log_density = -0.5 * ((grid - before) / spread) ** 2 - 0.5 * (x_t - math.sqrt(alpha) * grid) ** 2 / beta
    weights = log_density.softmax(0)
    assert (weights @ grid).item() == pytest.approx(mean.item(), abs=1e-9)
    assert (weights @ (grid - mean.item()) ** 2).item() == pytest.approx(variance.item(), rel=1e-6)


@pytest.mark.parametrize("k", [1, 40, 500, 998])
def test_betas_and_posterior_agree_with_diffusers(k: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False
    )
    assert torch.allclose(scheduler.betas, COSINE.betas.float(), rtol=1e-5)
    x0, noise = torch.randn(2, 1, 3, 4, 4, generator=seeding.torch_generator(0, "test"))
    x_t = diffused(x0, torch.tensor([k]), noise)
    generators = [seeding.torch_generator(0, "noise") for _ in range(2)]
    theirs = scheduler.step(x0, k, x_t, generator=generators[0]).prev_sample
    mean, variance = COSINE.posterior(x0, x_t, torch.tensor([k]))
    assert torch.allclose(theirs, mean + variance.sqrt() * torch.randn(x0.shape, generator=generators[1]), atol=2e-4)


def test_sigmas_belong_to_x_t_over_the_root_of_alpha_bar_and_map_to_their_time_steps() -> None:
    t = torch.arange(1000)
    x0, noise = torch.full((2, 1000, 1, 1, 1), 1.0, dtype=torch.float64)
    scaled = diffused(x0, t, noise) / gather(COSINE.alpha_bars.sqrt(), t, x0)
    assert torch.allclose(scaled, x0 + gather(COSINE.sigmas, t, x0) * noise, rtol=1e-9)
    assert torch.allclose(COSINE.timestep_of(COSINE.sigmas), t.double(), atol=1e-6)
    assert torch.equal(COSINE.timestep_of(COSINE.sigmas.float()).round().long(), t)


@given(t=st.floats(0, 999))
def test_between_two_steps_time_is_linear_in_log_sigma(t: float) -> None:
    lower, upper = COSINE.sigmas[[math.floor(t), math.ceil(t)]].log()
    sigma = torch.lerp(lower, upper, t - math.floor(t)).exp()
    assert COSINE.timestep_of(sigma[None]).item() == pytest.approx(t, abs=1e-6)


def test_sigmas_beyond_the_ends_belong_to_the_ends() -> None:
    assert COSINE.timestep_of(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]


def test_float32_images_stay_float32() -> None:
    x0 = torch.zeros(2, 1, 4, 4)
    t = torch.tensor([3, 900])
    assert COSINE.posterior(x0, x0, t).variance.dtype == torch.float32
    assert COSINE.posterior(x0, x0, t).variance.shape == x0.shape
