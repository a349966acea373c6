from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffaug.diffusion.process import SIGMA_DATA, Moments, karras_sigmas
from diffaug.diffusion.samplers import dpm_solver_2m, heun


def gaussian(x: Tensor, sigma: Tensor) -> Moments:
    """The exact moments for N(0, .5^2)."""
    total = SIGMA_DATA**2 + sigma**2
    return Moments(x * SIGMA_DATA**2 / total, torch.full_like(x, (SIGMA_DATA**2 * sigma**2 / total).item()))


def relative_error(solve: Callable[..., Tensor], steps: int) -> float:
    noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    exact = 80 * SIGMA_DATA / (80**2 + SIGMA_DATA**2) ** 0.5
    return solve(gaussian, noise, karras_sigmas(steps)).item() / exact - 1


@pytest.mark.parametrize(
    ("solve", "steps", "expected"),
    [
        (heun, 10, 0.220),
        (heun, 18, 0.055),
        (heun, 32, 0.016),
        (heun, 64, 0.0037),
        (heun, 128, 0.00088),
        (dpm_solver_2m, 10, 0.159),
        (dpm_solver_2m, 18, 0.062),
        (dpm_solver_2m, 32, 0.017),
        (dpm_solver_2m, 64, 0.0038),
        (dpm_solver_2m, 128, 0.00090),
    ],
)
def test_error_on_the_gaussian_with_known_solution(solve: Callable[..., Tensor], steps: int, expected: float) -> None:
    assert relative_error(solve, steps) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("solve", [heun, dpm_solver_2m])
def test_second_order(solve: Callable[..., Tensor]) -> None:
    assert relative_error(solve, 256) / relative_error(solve, 128) == pytest.approx(0.25, abs=0.02)


def test_one_evaluation_a_step() -> None:
    seen: list[float] = []

    def counting(x: Tensor, sigma: Tensor) -> Moments:
        seen.append(sigma.item())
        return gaussian(x, sigma)

    dpm_solver_2m(counting, torch.zeros(1, 1, 1, 1), karras_sigmas(12))
    assert seen == karras_sigmas(12)[:-1].tolist()


def test_one_step_returns_the_denoised_noise() -> None:
    noise = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    sampled = dpm_solver_2m(gaussian, noise, karras_sigmas(1))
    assert torch.equal(sampled, gaussian(noise * 80.0, torch.tensor(80.0, dtype=torch.float64)).mean)


@pytest.mark.parametrize("steps", [2, 7, 12, 20])
def test_dpm_solver_agrees_with_diffusers(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.002,
        sigma_max=80.0,
        sigma_data=SIGMA_DATA,
        solver_order=2,
        algorithm_type="dpmsolver++",
        final_sigmas_type="zero",
        lower_order_final=False,
        euler_at_final=True,
    )
    scheduler.set_timesteps(steps)
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def nonlinear(x: Tensor, sigma: Tensor) -> Moments:
        return Moments(torch.tanh(x * 0.3 / (0.3 + sigma**2)), torch.zeros_like(x))

    x = noise * 80.0
    for index, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[index]
        total = sigma**2 + SIGMA_DATA**2
        denoised = nonlinear(x, sigma).mean
        # diffusers wants the raw network output F and applies c_skip and c_out itself
        raw = (denoised - SIGMA_DATA**2 / total * x) / (sigma * SIGMA_DATA / total.sqrt())
        x = scheduler.step(raw, timestep, x, return_dict=False)[0]
    assert torch.allclose(dpm_solver_2m(nonlinear, noise, karras_sigmas(steps)), x, atol=2e-4)
