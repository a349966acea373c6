import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from diffaug.configuration.sampling import Solver
from diffaug.diffusion.process.process import SIGMA_DATA, Moments, karras_sigmas
from diffaug.diffusion.sampling.samplers import SOLVERS, Point, Step, integrate


def gaussian(x: Tensor, sigma: Tensor) -> Moments:
    """The exact moments for N(0, .5^2)."""
    total = SIGMA_DATA**2 + sigma**2
    return Moments(x * SIGMA_DATA**2 / total, torch.full_like(x, (SIGMA_DATA**2 * sigma**2 / total).item()))


def nonlinear(x: Tensor, sigma: Tensor) -> Moments:
    return Moments(torch.tanh(x * 0.3 / (0.3 + sigma**2)), torch.zeros_like(x))


def start_of(count: int) -> Tensor:
    return 80.0 * torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def noise_like(x: Tensor) -> Callable[[int], Tensor]:
    return lambda step: torch.randn(x.shape, generator=torch.Generator().manual_seed(step + 1))


def relative_error(solver: str, steps: int) -> float:
    start = torch.full((1, 1, 1, 1), 80.0, dtype=torch.float64)
    exact = 80 * SIGMA_DATA / (80**2 + SIGMA_DATA**2) ** 0.5
    return integrate(gaussian, start, karras_sigmas(steps), SOLVERS[solver]).item() / exact - 1


@pytest.mark.parametrize(
    ("solver", "errors"),
    [
        ("euler", {10: -0.270, 18: -0.154, 32: -0.088, 64: -0.044, 128: -0.022}),
        ("heun", {10: 0.220, 18: 0.055, 32: 0.016, 64: 0.0037, 128: 0.00088}),
        ("dpm_solver_2m", {10: 0.159, 18: 0.062, 32: 0.017, 64: 0.0038, 128: 0.00090}),
    ],
)
def test_error_and_order_on_the_gaussian_with_known_solution(solver: str, errors: dict[int, float]) -> None:
    for steps, expected in errors.items():
        assert relative_error(solver, steps) == pytest.approx(expected, rel=0.02)
    order = 1 if solver == "euler" else 2
    assert relative_error(solver, 256) / relative_error(solver, 128) == pytest.approx(0.5**order, abs=0.02)


def test_ipndm_converges_in_second_order_and_is_ahead_in_few_evaluations() -> None:
    assert relative_error("ipndm", 256) / relative_error("ipndm", 128) < 0.25
    for steps in (5, 8, 10, 12, 18):
        assert abs(relative_error("ipndm", steps)) < abs(relative_error("dpm_solver_2m", steps))
        assert abs(relative_error("ipndm", steps)) < abs(relative_error("euler", steps)) / 3


def test_ipndm_is_of_fourth_order_where_steps_are_equal_and_the_history_is_there() -> None:
    """For this denoiser the slope (x - D) / sigma is cos(sigma), so x = sin(sigma)."""

    def denoise(x: Tensor, sigma: Tensor) -> Moments:
        return Moments(x - sigma * sigma.cos(), torch.zeros_like(x))

    def point(x: Tensor, sigma: Tensor) -> Point:
        return Point(x, float(sigma), denoise(x, sigma))

    def error(steps: int) -> float:
        sigmas = torch.linspace(3, 1, steps + 1, dtype=torch.float64)
        exact = sigmas.sin().reshape(-1, 1, 1, 1)
        points = [point(exact[k], sigmas[k]) for k in range(4)]
        for following in sigmas[4:]:
            points.append(point(SOLVERS["ipndm"](Step(points, float(following), denoise, Tensor)), following))
        return abs(points[-1].x.item() - math.sin(1))

    assert error(128) / error(64) == pytest.approx(1 / 16, rel=0.1)


@pytest.mark.parametrize(("solver", "expected"), [*((name, 12) for name in SOLVERS if name != "heun"), ("heun", 23)])
def test_evaluations(solver: str, expected: int) -> None:
    seen: list[float] = []

    def counting(x: Tensor, sigma: Tensor) -> Moments:
        seen.append(sigma.item())
        return gaussian(x, sigma)

    x = torch.ones(1, 1, 1, 1)
    integrate(counting, x, karras_sigmas(12), SOLVERS[solver], noise_like(x))
    assert len(seen) == expected
    assert sorted(set(seen), reverse=True) == karras_sigmas(12)[:-1].tolist()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_images_their_type_and_one_step_returns_the_denoised_noise(solver: str, dtype: torch.dtype) -> None:
    start = start_of(2).to(dtype)
    before = start.clone()
    noise = noise_like(start)
    assert integrate(gaussian, start, karras_sigmas(5), SOLVERS[solver], lambda k: noise(k).to(dtype)).dtype == dtype
    assert torch.equal(start, before)
    one_step = integrate(gaussian, start, karras_sigmas(1), SOLVERS[solver])
    assert torch.equal(one_step, gaussian(start, torch.tensor(80.0, dtype=torch.float64)).mean)


def test_every_solver_can_be_chosen_and_a_stochastic_one_without_noise_says_so() -> None:
    assert set(get_args(Solver)) == set(SOLVERS)
    with pytest.raises(ValueError, match="noise_at"):
        integrate(gaussian, start_of(1), karras_sigmas(3), SOLVERS["ancestral"])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_rising_level_diffuses_again_and_forgets_the_history(solver: str) -> None:
    start = start_of(2)
    noise = noise_like(start)
    levels = torch.tensor([4.0, 2.0, 1.0, 3.0, 1.5, 0.5, 0.0], dtype=torch.float64)
    down = integrate(nonlinear, start, levels[:3], SOLVERS[solver], noise)
    again = integrate(nonlinear, down + 8**0.5 * noise(2), levels[3:], SOLVERS[solver], lambda k: noise(k + 3))
    assert torch.allclose(integrate(nonlinear, start, levels, SOLVERS[solver], noise), again, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "lower", "upper"),
    [(5, 0.359, 4.70), (10, 0.604, 1.93), (20, 0.757, 1.34), (50, 0.889, 1.12), (200, 0.970, 1.03)],
)
@pytest.mark.parametrize("kind", ["none", "exact", "sigma squared"])
def test_deviation_of_ancestral_samples_by_variance(steps: int, lower: float, upper: float, kind: str) -> None:
    """Exact: the sampler is linear here, so responses to group noises give the variance."""

    def denoise(x: Tensor, sigma: Tensor) -> Moments:
        mean, exact = gaussian(x, sigma)
        return Moments(mean, {"none": 0 * exact, "exact": exact, "sigma squared": torch.full_like(x, sigma**2)}[kind])

    groups = torch.eye(steps + 1, dtype=torch.float64)[..., None, None, None]
    sigmas, solver = karras_sigmas(steps), SOLVERS["ancestral"]
    responses = integrate(denoise, 80 * groups[0], sigmas, solver, lambda step: groups[step + 1])
    ratio = responses.square().sum().sqrt().item() / SIGMA_DATA
    expected = {"none": lower, "exact": 1.0, "sigma squared": upper}[kind]
    assert ratio == pytest.approx(expected, rel=1e-4 if kind == "exact" else 0.005)


def edm_step(scheduler: object, index: int, timestep: Tensor, x: Tensor) -> Tensor:
    """One step of an EDM scheduler, which wants the raw output F and applies c_skip and c_out itself."""
    sigma = scheduler.sigmas[index]
    total = sigma**2 + SIGMA_DATA**2
    raw = (nonlinear(x, sigma).mean - SIGMA_DATA**2 / total * x) / (sigma * SIGMA_DATA / total.sqrt())
    if hasattr(scheduler, "is_scale_input_called"):
        scheduler.is_scale_input_called = True
    return scheduler.step(raw, timestep, x, return_dict=False)[0]


@pytest.mark.parametrize("steps", [2, 7, 12, 20])
@pytest.mark.parametrize("solver", ["dpm_solver_2m", "euler"])
def test_agrees_with_the_edm_schedulers_of_diffusers(solver: str, steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    common = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": SIGMA_DATA, "final_sigmas_type": "zero"}
    if solver == "euler":
        scheduler = diffusers.EDMEulerScheduler(**common)
    else:
        scheduler = diffusers.EDMDPMSolverMultistepScheduler(
            solver_order=2, algorithm_type="dpmsolver++", lower_order_final=False, euler_at_final=True, **common
        )
    scheduler.set_timesteps(steps)
    x = start_of(2)
    for index, timestep in enumerate(scheduler.timesteps):
        x = edm_step(scheduler, index, timestep, x)
    assert torch.allclose(integrate(nonlinear, start_of(2), karras_sigmas(steps), SOLVERS[solver]), x, atol=3e-4)


@pytest.mark.parametrize("steps", [4, 12])
@pytest.mark.parametrize("solver", ["heun", "ancestral"])
def test_agrees_with_the_discrete_schedulers_of_diffusers(solver: str, steps: int) -> None:
    """Theirs is ancestral without a variance of the clean image, as `nonlinear` has none."""
    diffusers = pytest.importorskip("diffusers")
    name = {"heun": "HeunDiscreteScheduler", "ancestral": "EulerAncestralDiscreteScheduler"}[solver]
    scheduler = getattr(diffusers, name)(prediction_type="epsilon")
    scheduler.set_timesteps(steps)
    sigmas = torch.unique_consecutive(scheduler.sigmas.double())
    noises = torch.Generator().manual_seed(5)
    x = start = start_of(2) / 80 * float(sigmas[0])
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(x, timestep)
        before = scheduler.step_index
        sigma = scheduler.sigmas[before]
        epsilon = (x - nonlinear(x, sigma).mean) / sigma
        more = {"generator": noises} if solver == "ancestral" else {}
        x = scheduler.step(epsilon, timestep, x, return_dict=False, **more)[0]
    replay = torch.Generator().manual_seed(5)
    ours = integrate(nonlinear, start, sigmas, SOLVERS[solver], lambda _: torch.randn(x.shape, generator=replay))
    assert torch.allclose(ours, x, atol=1e-4)


def test_agrees_with_ipndm_of_diffusers() -> None:
    """Theirs walks in variance-preserving coordinates x / sqrt(1 + sigma^2) and wants v; its levels are replaced."""
    diffusers = pytest.importorskip("diffusers")
    sigmas = karras_sigmas(9)[:-1]
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(len(sigmas))
    scheduler.alphas, scheduler.betas = 1 / (1 + sigmas**2).sqrt(), sigmas / (1 + sigmas**2).sqrt()
    start = start_of(2).double()
    x = start * scheduler.alphas[0]
    columns = sigmas[:-1], scheduler.alphas, scheduler.betas, scheduler.timesteps
    for sigma, alpha, beta, timestep in zip(*columns, strict=False):
        slope = (x / alpha - nonlinear(x / alpha, sigma).mean) / sigma
        x = scheduler.step((slope - beta * x) / alpha, timestep, x, return_dict=False)[0]
    assert torch.allclose(integrate(nonlinear, start, sigmas, SOLVERS["ipndm"]), x / scheduler.alphas[-1], atol=1e-6)


class Mixture:
    """Two classes with shares .7 and .3, means and full covariances; moments in closed form."""

    shares = torch.tensor([0.7, 0.3], dtype=torch.float64)
    means = torch.tensor([[0.6, -0.2, 0.4, 0.0], [-0.5, 0.5, -0.3, 0.2]], dtype=torch.float64)

    def __init__(self) -> None:
        factors = torch.randn(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.06
        self.covariances = factors @ factors.mT + 0.0025 * torch.eye(4, dtype=torch.float64)

    def responsibilities(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """p(class | x) of (N, 4) at a noise level, (N, 2)."""
        spread = self.covariances + sigma**2 * torch.eye(4, dtype=torch.float64)
        density = torch.distributions.MultivariateNormal(self.means, spread).log_prob(x[:, None])
        return (density + self.shares.log()).softmax(dim=1)

    def denoise(self, x: Tensor, sigma: Tensor) -> Moments:
        flat, level = x.flatten(1), float(sigma)
        gains = self.covariances @ torch.linalg.inv(self.covariances + level**2 * torch.eye(4, dtype=torch.float64))
        means = self.means + torch.einsum("kij,nkj->nki", gains, flat[:, None] - self.means)
        variances = (self.covariances - gains @ self.covariances).diagonal(dim1=1, dim2=2)
        weights = self.responsibilities(flat, level)[..., None]
        mean = (weights * means).sum(1)
        variance = (weights * (variances + means**2)).sum(1) - mean**2
        return Moments(mean.reshape(x.shape), variance.clamp(min=0).reshape(x.shape))


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("solver", "steps"), [("dpm_solver_2m", 48), ("heun", 48), ("ipndm", 48), ("ancestral", 150), ("euler", 300)]
)
def test_a_mixture_is_sampled_with_the_right_shares_means_and_covariances(solver: str, steps: int) -> None:
    mixture, count = Mixture(), 6000
    generator = torch.Generator().manual_seed(2)

    def noise(_: int) -> Tensor:
        return torch.randn(count, 1, 2, 2, dtype=torch.float64, generator=generator)

    sampled = integrate(mixture.denoise, 80 * noise(0), karras_sigmas(steps), SOLVERS[solver], noise).flatten(1)
    labels = mixture.responsibilities(sampled).argmax(dim=1)
    standard_error = (0.7 * 0.3 / count) ** 0.5
    assert (labels == 1).double().mean().item() == pytest.approx(0.3, abs=4 * standard_error + 0.005)
    for label in (0, 1):
        own = sampled[labels == label]
        deviations = mixture.covariances[label].diagonal().sqrt()
        assert ((own.mean(0) - mixture.means[label]).abs() < 0.08 * deviations).all()
        difference = own.T.cov() - mixture.covariances[label]
        assert difference.norm() < 0.1 * mixture.covariances[label].norm()
