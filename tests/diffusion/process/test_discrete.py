import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffaug.diffusion.process.discrete import DiscreteProcess, cosine_betas, gather, karras_betas, linear_betas
from diffaug.diffusion.process.process import karras_sigmas
from diffaug.errors import UsageError
from diffaug.runtime import seeding

LINEAR = DiscreteProcess.of(linear_betas(1000))
COSINE = DiscreteProcess.of(cosine_betas(1000))
KARRAS = DiscreteProcess.of(karras_betas(1000))
PROCESSES = pytest.mark.parametrize("process", [LINEAR, COSINE, KARRAS], ids=["linear", "cosine", "karras"])
SCHEDULES = st.sampled_from([linear_betas, cosine_betas, karras_betas])


def image(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None, None, None]


def at(*timesteps: int) -> Tensor:
    return torch.tensor(timesteps)


def test_linear_schedule_has_the_published_values() -> None:
    assert LINEAR.alpha_bars[[0, 499, 999]].tolist() == pytest.approx([0.9999, 0.0785872, 4.036e-5], rel=1e-4)


def test_a_shorter_linear_schedule_still_ends_in_noise() -> None:
    assert DiscreteProcess.of(linear_betas(100)).alpha_bars[-1].item() == pytest.approx(2.0e-5, rel=0.02)


@pytest.mark.parametrize("steps", [0, 1, 20])
def test_a_linear_schedule_too_short_to_scale_is_refused(steps: int) -> None:
    with pytest.raises(UsageError, match="linear schedule"):
        linear_betas(steps)


def test_cosine_schedule_has_the_published_values() -> None:
    assert COSINE.betas[[0, -1]].tolist() == pytest.approx([4.12842e-5, 0.999], rel=1e-5)
    assert COSINE.alpha_bars[499].item() == pytest.approx(0.493844, rel=1e-5)
    assert COSINE.alpha_bars[-1].item() == pytest.approx(2.43e-9, rel=2e-3)
    longer = DiscreteProcess.of(cosine_betas(4000))
    assert longer.betas[0].item() == pytest.approx(9.86582e-6, rel=1e-5)
    assert longer.alpha_bars[1999].item() == pytest.approx(0.493844, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 18, 1000])
def test_karras_schedule_has_edms_sigmas(steps: int) -> None:
    process = DiscreteProcess.of(karras_betas(steps))
    assert torch.allclose(process.sigmas, karras_sigmas(steps)[:-1].flip(0), rtol=1e-9)


@pytest.mark.parametrize(
    ("schedule", "betas"), [("linear", linear_betas(1000)), ("squaredcos_cap_v2", cosine_betas(1000))]
)
def test_betas_agree_with_diffusers(schedule: str, betas: Tensor) -> None:
    diffusers = pytest.importorskip("diffusers")
    assert torch.allclose(diffusers.DDPMScheduler(1000, beta_schedule=schedule).betas, betas.float(), rtol=1e-5)


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [0.1, 1.0], [0.1, -0.1], [math.nan], [[0.1]]])
def test_impossible_betas_are_refused(betas: list[float]) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        DiscreteProcess.of(torch.tensor(betas))


@PROCESSES
def test_iterating_the_steps_gives_the_closed_form(process: DiscreteProcess) -> None:
    factor, variance = image(1.0), torch.zeros(1, dtype=torch.float64)
    for k in range(len(process)):
        factor = process.step(factor, at(k), torch.zeros_like(factor))
        spread = process.step(image(0.0), at(k), image(1.0)).flatten()
        variance = process.alphas[k] * variance + spread**2
        assert math.isclose(variance.item(), 1 - process.alpha_bars[k].item(), abs_tol=1e-12)
        closed = process.diffuse(image(1.0), at(k), torch.zeros_like(factor))
        assert torch.allclose(factor, closed, rtol=1e-11)
    assert torch.allclose(process.diffuse(image(0.0), at(k), image(1.0)).flatten() ** 2, variance, rtol=1e-12)


def test_noised_samples_have_the_closed_forms_moments() -> None:
    generator = seeding.torch_generator(0, "test")
    x = torch.full((20_000, 1, 1, 1), 0.7, dtype=torch.float64)
    for k in range(300):
        t = torch.full((len(x),), k)
        x = LINEAR.step(x, t, torch.randn(x.shape, generator=generator, dtype=torch.float64))
    alpha_bar = LINEAR.alpha_bars[299].item()
    variance = 1 - alpha_bar
    assert abs(x.mean().item() - 0.7 * math.sqrt(alpha_bar)) < 4 * math.sqrt(variance / len(x))
    assert abs(x.var().item() - variance) < 4 * variance * math.sqrt(2 / len(x))


@pytest.mark.parametrize(("process", "ratio"), [(LINEAR, 0.4547), (COSINE, 0.4722)])
def test_posterior_variance_of_the_first_steps(process: DiscreteProcess, ratio: float) -> None:
    assert process.posterior_variance[0] == 0
    assert (process.posterior_variance / process.betas)[1].item() == pytest.approx(ratio, abs=5e-5)
    assert process.posterior_log_variance[0] == process.posterior_log_variance[1]


@PROCESSES
def test_posterior_variance_stays_below_beta_and_approaches_it(process: DiscreteProcess) -> None:
    ratio = process.posterior_variance / process.betas
    assert (ratio <= 1).all()
    assert ratio[-1].item() == pytest.approx(1, abs=1e-4)
    assert torch.isfinite(process.posterior_log_variance).all()
    assert torch.equal(process.posterior_log_variance[1:], process.posterior_variance[1:].log())


@PROCESSES
def test_posterior_mean_equals_its_form_in_the_noise(process: DiscreteProcess) -> None:
    t = at(0, 1, 250, 600, 999)
    generator = seeding.torch_generator(0, "test")
    x0, noise = torch.randn(2, 5, 3, 4, 4, generator=generator, dtype=torch.float64)
    x_t = process.diffuse(x0, t, noise)
    beta, alpha, alpha_bar = (gather(table, t, x0) for table in (process.betas, process.alphas, process.alpha_bars))
    expected = (x_t - beta / (1 - alpha_bar).sqrt() * noise) / alpha.sqrt()
    assert torch.allclose(process.posterior(x0, x_t, t).mean, expected, atol=1e-9)


@PROCESSES
@pytest.mark.parametrize("k", [1, 30, 500, 990])
def test_posterior_is_the_normalised_product_of_prior_and_likelihood(process: DiscreteProcess, k: int) -> None:
    x0, x_t = 0.4, 0.9
    before = process.alpha_bars[k - 1].sqrt().item() * x0
    spread = (1 - process.alpha_bars[k - 1]).sqrt().item()
    beta, alpha = process.betas[k].item(), process.alphas[k].item()
    mean, variance = process.posterior(image(x0), image(x_t), at(k))
    reach = 12 * variance.sqrt().item()
    grid = torch.linspace(mean.item() - reach, mean.item() + reach, 20_001, dtype=torch.float64)
    log_density = -0.5 * ((grid - before) / spread) ** 2 - 0.5 * (x_t - math.sqrt(alpha) * grid) ** 2 / beta
    weights = log_density.softmax(0)
    assert (weights @ grid).item() == pytest.approx(mean.item(), abs=1e-9)
    assert (weights @ (grid - mean.item()) ** 2).item() == pytest.approx(variance.item(), rel=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("k", [1, 40, 500, 998])
def test_posterior_agrees_with_diffusers(schedule: str, k: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(1000, beta_schedule=schedule, prediction_type="sample", clip_sample=False)
    process = LINEAR if schedule == "linear" else COSINE
    x0, noise = torch.randn(2, 1, 3, 4, 4, generator=seeding.torch_generator(0, "test"))
    x_t = process.diffuse(x0, at(k), noise)
    generators = [seeding.torch_generator(0, "noise") for _ in range(2)]
    theirs = scheduler.step(x0, k, x_t, generator=generators[0]).prev_sample
    mean, variance = process.posterior(x0, x_t, at(k))
    assert torch.allclose(theirs, mean + variance.sqrt() * torch.randn(x0.shape, generator=generators[1]), atol=2e-4)


@PROCESSES
@pytest.mark.parametrize("steps", [1, 2, 10, 333, 999])
def test_respacing_keeps_alpha_bar(process: DiscreteProcess, steps: int) -> None:
    respaced, original = process.respaced(steps)
    assert len(respaced) == len(original) == steps
    assert original[-1] == len(process) - 1
    assert torch.allclose(respaced.alpha_bars, process.alpha_bars[original], rtol=1e-9)
    assert torch.allclose(respaced.sigmas, process.sigmas[original], rtol=1e-7)


def test_respacing_recomputes_both_bounds_of_the_variance() -> None:
    respaced, original = LINEAR.respaced(10)
    wanted = 1 - LINEAR.alpha_bars[original[1:]] / LINEAR.alpha_bars[original[:-1]]
    assert torch.allclose(respaced.betas[1:], wanted)
    assert (respaced.betas > 5 * LINEAR.betas[original])[1:].all()  # the unspaced betas would not do
    before, after = 1 - LINEAR.alpha_bars[original[:-1]], 1 - LINEAR.alpha_bars[original[1:]]
    assert torch.allclose(respaced.posterior_log_variance[1:], (wanted * before / after).log())


@PROCESSES
def test_respacing_to_all_steps_changes_no_bit(process: DiscreteProcess) -> None:
    respaced, original = process.respaced(len(process))
    assert torch.equal(original, torch.arange(len(process)))
    for name in ("betas", "alpha_bars", "posterior_variance", "posterior_log_variance", "sigmas"):
        assert torch.equal(getattr(respaced, name), getattr(process, name))


@given(steps=st.integers(21, 300), share=st.floats(0, 1), schedule=SCHEDULES)
@settings(max_examples=40, deadline=None)
def test_any_respacing_keeps_distinct_increasing_steps(steps: int, share: float, schedule: object) -> None:
    process = DiscreteProcess.of(schedule(steps))  # type: ignore[operator]
    respaced, original = process.respaced(1 + round(share * (steps - 1)))
    assert (original.diff() > 0).all()
    assert original[0] >= 0
    assert (respaced.sigmas.diff() > 0).all()


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_an_impossible_respacing_is_refused(steps: int) -> None:
    with pytest.raises(UsageError, match="1000 time steps"):
        LINEAR.respaced(steps)


def test_the_end_of_the_process_is_close_to_an_isotropic_gaussian() -> None:
    extremes = torch.stack([torch.ones(1, 4, 4), -torch.ones(1, 4, 4)]).double()
    assert LINEAR.prior_kl(extremes).tolist() == pytest.approx([2.91e-5] * 2, rel=2e-3)
    assert (COSINE.prior_kl(extremes) < 1e-8).all()
    assert (KARRAS.prior_kl(extremes) < 2e-4).all()


@pytest.mark.parametrize("value", [-2.0, 0.0, 0.3, 1.0])
def test_prior_kl_agrees_with_torch(value: float) -> None:
    process = DiscreteProcess.of(linear_betas(1000)[:200])
    alpha_bar = process.alpha_bars[-1]
    last = torch.distributions.Normal(alpha_bar.sqrt() * value, (1 - alpha_bar).sqrt())
    standard = torch.distributions.Normal(torch.zeros_like(alpha_bar), 1.0)
    expected = torch.distributions.kl_divergence(last, standard) / math.log(2)
    assert process.prior_kl(image(value)).item() == pytest.approx(expected.item(), rel=1e-9)


@PROCESSES
def test_x_in_edms_coordinates_is_x_t_over_the_root_of_alpha_bar(process: DiscreteProcess) -> None:
    t = torch.arange(1000)
    x0, noise = torch.full((2, 1000, 1, 1, 1), 1.0, dtype=torch.float64)
    scaled = process.diffuse(x0, t, noise) / gather(process.alpha_bars.sqrt(), t, x0)
    assert torch.allclose(scaled, x0 + gather(process.sigma_of(t), t, x0) * noise, rtol=1e-9)


@PROCESSES
def test_time_steps_and_sigmas_map_both_ways(process: DiscreteProcess) -> None:
    t = torch.arange(1000)
    assert torch.equal(process.sigma_of(t), process.sigmas)
    assert torch.allclose(process.timestep_of(process.sigmas), t.double(), atol=1e-6)
    assert torch.equal(process.timestep_of(process.sigmas.float()).round().long(), t)


@given(t=st.floats(0, 999), process=st.sampled_from([LINEAR, COSINE, KARRAS]))
def test_fractional_time_steps_survive_the_round_trip(t: float, process: DiscreteProcess) -> None:
    there = process.sigma_of(torch.tensor([t], dtype=torch.float64))
    assert process.timestep_of(there).item() == pytest.approx(t, abs=1e-6)
    assert process.sigmas[math.floor(t)] * (1 - 1e-12) <= there <= process.sigmas[math.ceil(t)] * (1 + 1e-12)


def test_halfway_between_two_steps_is_the_geometric_mean_of_their_sigmas() -> None:
    halfway = COSINE.sigma_of(torch.tensor([500.5], dtype=torch.float64))
    assert halfway.item() == pytest.approx((COSINE.sigmas[500] * COSINE.sigmas[501]).sqrt().item())


def test_sigmas_beyond_the_ends_belong_to_the_ends() -> None:
    assert LINEAR.timestep_of(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]
    single = DiscreteProcess.of(cosine_betas(1))
    assert single.timestep_of(torch.tensor([0.1, 1e9])).tolist() == [0, 0]


def test_float32_images_stay_float32() -> None:
    x0 = torch.zeros(2, 1, 4, 4)
    t = at(3, 900)
    assert COSINE.step(x0, t, x0).dtype == COSINE.diffuse(x0, t, x0).dtype == torch.float32
    assert COSINE.posterior(x0, x0, t).variance.dtype == COSINE.prior_kl(x0).dtype == torch.float32
    assert COSINE.posterior(x0, x0, t).variance.shape == x0.shape
