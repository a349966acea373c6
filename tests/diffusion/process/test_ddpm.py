import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from diffaug.diffusion.process import ddpm
from diffaug.diffusion.process.ddpm import Ddpm, PixelBins
from diffaug.diffusion.process.discrete import DiscreteProcess, cosine_betas, gather
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.process import SIGMA_DATA, per_image, reverse_step
from diffaug.runtime import seeding

COSINE = DiscreteProcess.of(cosine_betas(1000))
EVERY_T = torch.arange(1000)
LEVELS = torch.linspace(-1, 1, 256, dtype=torch.float64)


def images(*shape: int, purpose: str = "images") -> Tensor:
    return torch.randn(shape, generator=seeding.torch_generator(0, purpose), dtype=torch.float64)


def optimal_v(data_std: float = SIGMA_DATA) -> Tensor:
    """The v of minimal divergence (T,) for N(0, data_std^2): that of the exact variance of x_{t-1} given x_t.

    Derived without the package's inversion: x_{t-1} given x_t is conditioned in the joint Gaussian of both.
    """
    before = COSINE.previous_alpha_bars
    variance_before = before * data_std**2 + 1 - before
    precision = 1 / variance_before.clamp(min=1e-300) + COSINE.alphas / COSINE.betas
    log_variance = -precision.log()
    lowest, highest = COSINE.posterior_log_variance, COSINE.betas.log()
    return 2 * (log_variance - lowest) / (highest - lowest) - 1


def gaussian_variance(sigma: Tensor, data_std: float = SIGMA_DATA) -> Tensor:
    return data_std**2 * sigma**2 / (data_std**2 + sigma**2)


def oracle_output(x: Tensor, sigma: Tensor, v: Tensor) -> Tensor:
    """What a perfect network answers for N(0, .5^2), with v for each image."""
    sigma = per_image(sigma)
    noise = x * sigma / (sigma**2 + SIGMA_DATA**2)
    return torch.cat([noise, per_image(v).expand_as(x)], dim=1)


def test_v_walks_from_the_posterior_variance_to_beta() -> None:
    lowest, betas = COSINE.posterior_log_variance, COSINE.betas
    low, middle, high = (ddpm.log_variance_of_range(torch.tensor(v), betas, lowest) for v in (-1.0, 0.0, 1.0))
    assert torch.equal(low, lowest)
    assert torch.allclose(middle.exp(), (lowest.exp() * betas).sqrt())
    assert torch.equal(high, betas.log())


@given(values=st.tuples(st.floats(-3, 3), st.floats(-8, 3), st.floats(-3, 3), st.floats(-8, 3)))
def test_kl_agrees_with_torch(values: tuple[float, ...]) -> None:
    arguments = torch.tensor(values, dtype=torch.float64)
    ours = ddpm.gaussian_kl(*arguments)
    first = torch.distributions.Normal(arguments[0], (arguments[1] / 2).exp())
    second = torch.distributions.Normal(arguments[2], (arguments[3] / 2).exp())
    assert torch.allclose(ours, torch.distributions.kl_divergence(first, second), atol=1e-12)
    assert ours >= -1e-15
    assert ddpm.gaussian_kl(*arguments[:2], *arguments[:2]) == 0


def test_the_mass_of_all_bins_is_one_whatever_the_normalization() -> None:
    normalization = Normalization((-0.7, 0.4), (0.1, 0.6))
    bins = PixelBins.of(normalization)
    pixels = np.arange(256, dtype=np.uint8)[:, None, None, None].repeat(2, axis=3)
    levels = normalization.to_network(torch.from_numpy(pixels)).double()
    assert torch.allclose(levels[1] - levels[0], 2 * torch.as_tensor(bins.half_width).double(), rtol=1e-4)
    assert torch.allclose(levels[0], torch.as_tensor(bins.low).double(), rtol=1e-5)
    assert torch.allclose(levels[255], torch.as_tensor(bins.high).double(), rtol=1e-5)
    logs = ddpm.discretized_gaussian_log_likelihood(levels, levels * 0 + 0.2, levels * 0 - 4, bins)
    assert torch.allclose(logs.exp().sum(0), torch.ones(2, 1, 1, dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.05), (0.9, 0.01), (-0.3, 2.0), (0.5, 0.002), (-1.4, 1.65)])
def test_bins_keep_their_digits_in_both_tails_and_their_mass_is_one(mean: float, std: float) -> None:
    means, log_variances = torch.full_like(LEVELS, mean), torch.full_like(LEVELS, 2 * math.log(std))
    logs = ddpm.discretized_gaussian_log_likelihood(LEVELS, means, log_variances, PixelBins())
    assert logs.exp().sum().item() == pytest.approx(1, abs=1e-13)
    center, half = LEVELS.numpy(), 1 / 255
    left, right = stats.norm.logcdf([center - half, center + half], mean, std)
    left_tail, right_tail = stats.norm.logsf([center - half, center + half], mean, std)
    with np.errstate(divide="ignore"):
        below = right + np.log1p(-np.exp(left - right))
        above = left_tail + np.log1p(-np.exp(right_tail - left_tail))
        expected = np.where(center < mean, below, above)
    expected[0], expected[-1] = right[0], left_tail[-1]
    assert torch.allclose(logs, torch.from_numpy(expected), rtol=1e-9)


@given(gap=st.floats(-4, 4), log_variance=st.floats(-20, 5))
def test_likelihood_of_float32_has_a_finite_gradient_of_the_right_sign(gap: float, log_variance: float) -> None:
    free = torch.tensor(log_variance, requires_grad=True)
    value = ddpm.discretized_gaussian_log_likelihood(torch.tensor(0.1), torch.tensor(0.1 + gap), free, PixelBins())
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(free.grad)
    if abs(gap) > math.exp(log_variance / 2) + 0.1:  # the mean lies deviations away: widening must help
        assert free.grad > 0


def test_optimal_v_means_the_exact_variance_of_the_clean_image() -> None:
    v = optimal_v()
    x = images(1000, 1, 1, 1)
    moments = Ddpm().moments(x, COSINE.sigmas, oracle_output(x, COSINE.sigmas, v))
    sigma = COSINE.sigmas.view(-1, 1, 1, 1)
    assert torch.allclose(moments.variance, gaussian_variance(sigma), rtol=1e-5)
    assert torch.allclose(moments.mean, x * SIGMA_DATA**2 / (SIGMA_DATA**2 + sigma**2), atol=1e-6)
    for data_std, bound in ((0.0, -1.0), (1.0, 1.0)):  # a point wants the posterior variance, a unit Gaussian beta
        v, t = optimal_v(data_std)[1:], EVERY_T[1:]  # the bound of t = 0 is clipped
        assert torch.allclose(v, torch.full_like(v, bound), atol=1e-6)
        variance = ddpm.clean_variance(per_image(v), t, COSINE).flatten()
        assert torch.allclose(variance, gaussian_variance(COSINE.sigmas[1:], data_std), rtol=1e-5, atol=1e-6)


def test_variance_is_exact_in_float32_where_the_bounds_nearly_meet() -> None:
    x = torch.zeros(1000, 1, 1, 1)
    output = torch.cat([x, optimal_v().float().view(-1, 1, 1, 1)], dim=1)
    variance = Ddpm().moments(x, COSINE.sigmas.float(), output).variance.flatten()
    assert variance.dtype == torch.float32
    assert torch.allclose(variance.double(), gaussian_variance(COSINE.sigmas), rtol=1e-3)


@given(t=st.floats(0, 999))
def test_between_time_steps_the_variance_is_interpolated(t: float) -> None:
    v = optimal_v()
    position = torch.tensor([t], dtype=torch.float64)
    near = torch.lerp(v[math.floor(t)], v[math.ceil(t)], position - math.floor(t))
    lower, upper = COSINE.sigmas[[math.floor(t), math.ceil(t)]].log()
    sigma = torch.lerp(lower, upper, t - math.floor(t)).exp()[None]
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    variance = Ddpm().moments(x, sigma, oracle_output(x, sigma, near)).variance
    assert variance.item() == pytest.approx(gaussian_variance(sigma).item(), rel=0.02 if t > 3 else 0.2)


def test_below_the_lowest_sigma_the_variance_falls_with_its_square() -> None:
    x, v = torch.zeros(2, 1, 1, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    sigma = COSINE.sigmas[0] * torch.tensor([1.0, 0.1], dtype=torch.float64)
    lowest, lower = Ddpm().moments(x, sigma, oracle_output(x, sigma, v)).variance.flatten().tolist()
    assert lower == pytest.approx(0.01 * lowest)


@given(v=st.floats(-30, 3), t=st.integers(0, 999))
def test_variance_is_finite_and_never_negative(v: float, t: int) -> None:
    variance = ddpm.clean_variance(torch.full((1, 1, 1, 1), v), torch.tensor([t]), COSINE)
    assert torch.isfinite(variance).all()
    assert (variance >= 0).all()


@pytest.mark.parametrize("k", [1, 20, 400, 999])
@pytest.mark.parametrize("v", [-1.0, -0.4, 0.0, 0.7, 1.0])
def test_the_reverse_step_has_the_mean_and_the_learned_range_variance(k, v) -> None:
    t, sigma = torch.tensor([k]), COSINE.sigmas[[k]]
    x, noise = images(2, 1, 3, 4, 4)
    objective = Ddpm()
    moments = objective.moments(x, sigma, torch.cat([noise, torch.full_like(x, v)], dim=1))
    step = reverse_step(x, moments, COSINE.sigmas[k].item(), COSINE.sigmas[k - 1].item())
    root = COSINE.alpha_bars[k - 1].sqrt()  # from EDM's coordinates to DDPM's
    expected = COSINE.posterior(moments.mean, x * gather(COSINE.alpha_bars.sqrt(), t, x), t).mean
    log_variance = ddpm.log_variance_of_range(torch.tensor(v), COSINE.betas[k], COSINE.posterior_log_variance[k])
    assert torch.allclose(step.mean * root, expected, atol=1e-9)
    assert torch.allclose(step.variance * root**2, log_variance.exp(), rtol=1e-6)


@pytest.mark.parametrize("k", [1, 20, 400, 980])
@pytest.mark.parametrize("v", [-1.0, 0.3, 1.0])
def test_the_reverse_step_agrees_with_diffusers_learned_range(k: int, v: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        1000,
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        clip_sample=False,
        prediction_type="epsilon",
    )
    x_t, noise = images(2, 1, 3, 4, 4)
    output = torch.cat([noise, torch.full_like(x_t, v)], dim=1)
    theirs = scheduler.step(output, k, x_t, generator=seeding.torch_generator(0, "noise")).prev_sample
    drawn = torch.randn(x_t.shape, generator=seeding.torch_generator(0, "noise"), dtype=torch.float64)
    x = x_t / COSINE.alpha_bars[k].sqrt()
    moments = Ddpm().moments(x, COSINE.sigmas[[k]], output)
    step = reverse_step(x, moments, COSINE.sigmas[k].item(), COSINE.sigmas[k - 1].item())
    ours = (step.mean + step.variance.sqrt() * drawn) * COSINE.alpha_bars[k - 1].sqrt()
    assert torch.allclose(theirs, ours, atol=5e-4)


@pytest.mark.parametrize("steps", [5, 20, 200, 1000])
def test_ancestral_sampling_keeps_the_gaussians_deviation_however_respaced(steps) -> None:
    original = torch.linspace(999, 0, steps, dtype=torch.float64).round().long().flip(0)
    kept = COSINE.alpha_bars[original]  # arXiv 2102.09672, eq. 19
    respaced = DiscreteProcess.of(1 - kept / torch.cat([kept.new_ones(1), kept[:-1]]))
    v = optimal_v()[original]
    levels = [0.0, *respaced.sigmas.tolist()]
    variance = SIGMA_DATA**2 + levels[-1] ** 2
    objective, one = Ddpm(), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for k in reversed(range(steps)):
        sigma = respaced.sigmas[[k]]
        moments = objective.moments(one, sigma, oracle_output(one, sigma, v[[k]]))
        step = reverse_step(one, moments, levels[k + 1], levels[k])
        variance = step.mean.item() ** 2 * variance + step.variance.item()
    assert math.sqrt(variance) / SIGMA_DATA == pytest.approx(1, abs=1e-3)


def test_gradient_of_the_variational_term_reaches_v_alone() -> None:
    objective = Ddpm()
    sigma = COSINE.sigmas[[0, 1, 300, 999]]
    x0 = SIGMA_DATA * images(4, 2, 3, 3)
    x = x0 + per_image(sigma) * images(4, 2, 3, 3, purpose="noise")
    output = (0.5 * images(4, 4, 3, 3, purpose="output")).requires_grad_()
    losses = objective.losses(x0, x, sigma, output)
    (variational,) = torch.autograd.grad(losses.variance.sum(), output, retain_graph=True)
    assert (variational[:, :2] == 0).all()
    assert (variational[:, 2:] != 0).all()
    (simple,) = torch.autograd.grad(losses.denoising.sum(), output)
    assert (simple[:, :2] != 0).all()
    assert (simple[:, 2:] == 0).all()


def test_weight_of_the_variational_term_is_lambda_t() -> None:
    k = 500
    x0, x, noise = images(3, 1, 1, 4, 4)
    output = torch.cat([noise, torch.full_like(x, 0.2)], dim=1)
    term = Ddpm().losses(x0, x, COSINE.sigmas[[k]], output).variance.item()
    error = (x - COSINE.sigmas[k] * noise - x0).square()
    coefficient = COSINE.previous_alpha_bars[k].sqrt() * COSINE.betas[k] / (1 - COSINE.alpha_bars[k])
    true = torch.distributions.Normal(torch.zeros_like(error), COSINE.posterior_variance[k].sqrt())
    spread = (0.6 * COSINE.betas[k].log() + 0.4 * COSINE.posterior_variance[k].log()).div(2).exp()
    model = torch.distributions.Normal(coefficient * error.sqrt(), spread)
    nats = torch.distributions.kl_divergence(true, model).mean()
    assert term == pytest.approx(nats.item() / math.log(2), rel=1e-6)


def test_the_first_time_step_is_scored_by_the_discretized_likelihood() -> None:
    x0, noise = images(2, 1, 1, 4, 4).clamp(-1, 1)
    x = x0 + COSINE.sigmas[0] * noise
    output = torch.cat([torch.zeros_like(x), torch.ones_like(x)], dim=1)
    log_beta = COSINE.betas[0].log().expand_as(x)
    expected = -ddpm.discretized_gaussian_log_likelihood(x0, x, log_beta, PixelBins()).mean() / math.log(2)
    assert Ddpm().losses(x0, x, COSINE.sigmas[:1], output).variance.item() == pytest.approx(expected.item(), rel=1e-6)


def test_simple_loss_is_the_squared_error_of_the_noise() -> None:
    x0, noise, guess = images(3, 5, 1, 4, 4)
    sigma = COSINE.sigmas[[0, 10, 300, 700, 950]]
    x = x0 + per_image(sigma) * noise
    losses = Ddpm().losses(x0, x, sigma, torch.cat([guess, guess], dim=1))
    assert torch.allclose(losses.denoising, (noise - guess).square().flatten(1).mean(dim=1))
    assert losses.denoising.shape == losses.variance.shape == (5,)


def test_losses_are_finite_in_float32_at_every_time_step() -> None:
    x0 = SIGMA_DATA * images(1000, 1, 2, 2).float()
    sigma = COSINE.sigmas.float()
    x = x0 + per_image(sigma) * images(1000, 1, 2, 2, purpose="noise").float()
    output = images(1000, 2, 2, 2, purpose="output").float().requires_grad_()
    losses = Ddpm().losses(x0, x, sigma, output)
    (losses.denoising + losses.variance).sum().backward()
    for values in (*losses, output.grad):
        assert torch.isfinite(values).all()
    exact = Ddpm().losses(x0.double(), x.double(), COSINE.sigmas, output.detach().double())
    assert torch.allclose(losses.variance.double(), exact.variance, rtol=1e-2, atol=1e-5)


def test_draws_are_time_steps_and_cover_them_evenly() -> None:
    sigmas = Ddpm().draw_sigmas(1000, seeding.torch_generator(0, "test"))
    t = COSINE.timestep_of(sigmas).round().long()
    assert sigmas.dtype == torch.float32
    assert torch.equal(COSINE.sigmas[t].float(), sigmas)
    assert torch.equal(t.sort().values, EVERY_T)
    assert not torch.equal(t, EVERY_T)
    batches = [Ddpm().draw_sigmas(7, seeding.torch_generator(0, "test", k)) for k in range(600)]
    counts = torch.bincount(COSINE.timestep_of(torch.cat(batches)).round().long() // 50, minlength=20)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_moments_have_the_images_shape_and_dtype() -> None:
    x = torch.zeros(2, 3, 4, 5)
    moments = Ddpm().moments(x, torch.tensor([0.01, 70.0]), torch.zeros(2, 6, 4, 5, dtype=torch.bfloat16))
    assert moments.mean.shape == moments.variance.shape == x.shape
    assert moments.mean.dtype == moments.variance.dtype == torch.float32
