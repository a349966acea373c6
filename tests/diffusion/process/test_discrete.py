import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffaug.diffusion.process.discrete import DiscreteProcess, cosine_betas, gather, linear_betas
from diffaug.errors import UsageError
from diffaug.runtime import seeding

LINEAR = DiscreteProcess.of(linear_betas(1000))
COSINE = DiscreteProcess.of(cosine_betas(1000))
PROCESSES = pytest.mark.parametrize("process", [LINEAR, COSINE], ids=["linear", "cosine"])


def image(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None, None, None]


def test_both_schedules_have_the_published_values_and_scale_with_their_length() -> None:
    assert LINEAR.alpha_bars[[0, 499, 999]].tolist() == pytest.approx([0.9999, 0.0785872, 4.036e-5], rel=1e-4)
    assert DiscreteProcess.of(linear_betas(100)).alpha_bars[-1].item() == pytest.approx(2.0e-5, rel=0.02)
    with pytest.raises(UsageError, match="between 0 and 1"):
        DiscreteProcess.of(linear_betas(20))
    assert COSINE.betas[[0, -1]].tolist() == pytest.approx([4.12842e-5, 0.999], rel=1e-5)
    assert COSINE.alpha_bars[499].item() == pytest.approx(0.493844, rel=1e-5)
    assert COSINE.alpha_bars[-1].item() == pytest.approx(2.43e-9, rel=2e-3)
    longer = DiscreteProcess.of(cosine_betas(4000))
    assert longer.betas[0].item() == pytest.approx(9.86582e-6, rel=1e-5)
    assert longer.alpha_bars[1999].item() == pytest.approx(0.493844, rel=1e-5)


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [0.1, 1.0], [0.1, -0.1], [math.nan], [[0.1]]])
def test_impossible_betas_are_refused(betas: list[float]) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        DiscreteProcess.of(torch.tensor(betas))


@PROCESSES
def test_iterating_the_steps_gives_the_closed_form(process: DiscreteProcess) -> None:
    factor, variance = image(1.0), torch.zeros(1, dtype=torch.float64)
    for k in range(len(process)):
        factor = process.step(factor, torch.tensor([k]), torch.zeros_like(factor))
        spread = process.step(image(0.0), torch.tensor([k]), image(1.0)).flatten()
        variance = process.alphas[k] * variance + spread**2
        assert math.isclose(variance.item(), 1 - process.alpha_bars[k].item(), abs_tol=1e-12)
        closed = process.diffuse(image(1.0), torch.tensor([k]), torch.zeros_like(factor))
        assert torch.allclose(factor, closed, rtol=1e-11)
    spread = process.diffuse(image(0.0), torch.tensor([k]), image(1.0)).flatten()
    assert torch.allclose(spread**2, variance, rtol=1e-12)


@PROCESSES
def test_posterior_mean_equals_its_form_in_the_noise(process: DiscreteProcess) -> None:
    t = torch.tensor([0, 1, 250, 600, 999])
    x0, noise = torch.randn(2, 5, 3, 4, 4, generator=seeding.torch_generator(0, "test"), dtype=torch.float64)
    x_t = process.diffuse(x0, t, noise)
    beta, alpha, alpha_bar = (gather(table, t, x0) for table in (process.betas, process.alphas, process.alpha_bars))
    expected = (x_t - beta / (1 - alpha_bar).sqrt() * noise) / alpha.sqrt()  # arXiv 2006.11239, eq. 11
    assert torch.allclose(process.posterior(x0, x_t, t).mean, expected, atol=1e-9)


@pytest.mark.parametrize(("process", "second"), [(LINEAR, 0.4547), (COSINE, 0.4722)])
def test_posterior_variance_rises_from_zero_to_beta(process: DiscreteProcess, second: float) -> None:
    ratio = process.posterior_variance / process.betas
    assert ratio[[0, 1, -1]].tolist() == pytest.approx([0, second, 1], abs=5e-5)
    assert (ratio <= 1).all()
    assert torch.isfinite(process.posterior_log_variance).all()
    assert torch.equal(process.posterior_log_variance[1:], process.posterior_variance[1:].log())
    assert process.posterior_log_variance[0] == process.posterior_log_variance[1]


@PROCESSES
@pytest.mark.parametrize("k", [1, 30, 500, 990])
def test_posterior_is_the_normalized_product_of_prior_and_likelihood(process: DiscreteProcess, k: int) -> None:
    x0, x_t = 0.4, 0.9
    before = process.alpha_bars[k - 1].sqrt().item() * x0
    spread = (1 - process.alpha_bars[k - 1]).sqrt().item()
    beta, alpha = process.betas[k].item(), process.alphas[k].item()
    mean, variance = process.posterior(image(x0), image(x_t), torch.tensor([k]))
    reach = 12 * variance.sqrt().item()
    grid = torch.linspace(mean.item() - reach, mean.item() + reach, 20_001, dtype=torch.float64)
    log_density = -0.5 * ((grid - before) / spread) ** 2 - 0.5 * (x_t - math.sqrt(alpha) * grid) ** 2 / beta
    weights = log_density.softmax(0)
    assert (weights @ grid).item() == pytest.approx(mean.item(), abs=1e-9)
    assert (weights @ (grid - mean.item()) ** 2).item() == pytest.approx(variance.item(), rel=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("k", [1, 40, 500, 998])
def test_betas_and_posterior_agree_with_diffusers(schedule: str, k: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(1000, beta_schedule=schedule, prediction_type="sample", clip_sample=False)
    process = LINEAR if schedule == "linear" else COSINE
    assert torch.allclose(scheduler.betas, process.betas.float(), rtol=1e-5)
    x0, noise = torch.randn(2, 1, 3, 4, 4, generator=seeding.torch_generator(0, "test"))
    x_t = process.diffuse(x0, torch.tensor([k]), noise)
    generators = [seeding.torch_generator(0, "noise") for _ in range(2)]
    theirs = scheduler.step(x0, k, x_t, generator=generators[0]).prev_sample
    mean, variance = process.posterior(x0, x_t, torch.tensor([k]))
    assert torch.allclose(theirs, mean + variance.sqrt() * torch.randn(x0.shape, generator=generators[1]), atol=2e-4)


@PROCESSES
def test_sigmas_belong_to_x_t_over_the_root_of_alpha_bar_and_map_to_their_time_steps(process: DiscreteProcess) -> None:
    t = torch.arange(1000)
    x0, noise = torch.full((2, 1000, 1, 1, 1), 1.0, dtype=torch.float64)
    scaled = process.diffuse(x0, t, noise) / gather(process.alpha_bars.sqrt(), t, x0)
    assert torch.allclose(scaled, x0 + gather(process.sigmas, t, x0) * noise, rtol=1e-9)
    assert torch.allclose(process.timestep_of(process.sigmas), t.double(), atol=1e-6)
    assert torch.equal(process.timestep_of(process.sigmas.float()).round().long(), t)


@given(t=st.floats(0, 999), process=st.sampled_from([LINEAR, COSINE]))
def test_between_two_steps_time_is_linear_in_log_sigma(t: float, process: DiscreteProcess) -> None:
    lower, upper = process.sigmas[[math.floor(t), math.ceil(t)]].log()
    sigma = torch.lerp(lower, upper, t - math.floor(t)).exp()
    assert process.timestep_of(sigma[None]).item() == pytest.approx(t, abs=1e-6)


def test_sigmas_beyond_the_ends_belong_to_the_ends() -> None:
    assert LINEAR.timestep_of(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]
    single = DiscreteProcess.of(cosine_betas(1))
    assert single.timestep_of(torch.tensor([0.1, 1e9])).tolist() == [0, 0]


def test_float32_images_stay_float32() -> None:
    x0 = torch.zeros(2, 1, 4, 4)
    t = torch.tensor([3, 900])
    assert COSINE.step(x0, t, x0).dtype == COSINE.diffuse(x0, t, x0).dtype == torch.float32
    assert COSINE.posterior(x0, x0, t).variance.dtype == torch.float32
    assert COSINE.posterior(x0, x0, t).variance.shape == x0.shape
