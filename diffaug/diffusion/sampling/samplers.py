"""The reverse process: its noise, one loop over noise levels, and the solvers that take its steps."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import log, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from diffaug.configuration.sampling import Sampling
from diffaug.diffusion.process.process import Moments, reverse_step
from diffaug.diffusion.sampling.class_noise import ClassNoise
from diffaug.diffusion.sampling.guidance import DenoiseFunction

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)

NoiseSource = Callable[[int], Tensor]
"""Standard normal noise (N, C, H, W) of step k."""


class Point(NamedTuple):
    """A point of the trajectory: noisy images, their noise level and what the denoiser made of them."""

    x: Tensor
    sigma: float
    clean: Moments

    @property
    def slope(self) -> Tensor:
        """dx/dsigma of the probability-flow ODE; EDM eq. 3."""
        return (self.x - self.clean.mean) / self.sigma


@dataclass(frozen=True)
class Step:
    """All that a solver sees of the way to the next noise level, which is above 0 and below the latest.

    `points` are the last ones of the trajectory, the latest last; a step starts at `points[-1]`.
    """

    points: Sequence[Point]
    next_sigma: float
    denoise: DenoiseFunction
    draw_noise: Callable[[], Tensor]


Solver = Callable[[Step], Tensor]
"""Takes one step: the noisy images at its `next_sigma`."""


def euler(step: Step) -> Tensor:
    """Euler's method, which is DDIM (Song et al. 2021, arXiv 2010.02502): first order, one evaluation per step."""
    return _interpolate(step.points[-1], step.next_sigma, step.points[-1].clean.mean)


def heun(step: Step) -> Tensor:
    """Heun's method, EDM's algorithm 1 without churn: second order, two evaluations per step."""
    now = step.points[-1]
    predicted = euler(step)
    after = Point(predicted, step.next_sigma, step.denoise(predicted, _scalar(step.next_sigma)))
    return now.x + (step.next_sigma - now.sigma) / 2 * (now.slope + after.slope)


def dpm_solver_2m(step: Step) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): second order, one evaluation per step.

    With lambda = -ln sigma the step is Euler's towards an extrapolation of the last two denoised images.
    """
    now = step.points[-1]
    direction = now.clean.mean
    if len(step.points) > 1:
        before = step.points[-2]
        ratio = log(now.sigma / step.next_sigma) / log(before.sigma / now.sigma)
        direction = direction + ratio / 2 * (direction - before.clean.mean)
    return _interpolate(now, step.next_sigma, direction)


def ipndm(step: Step) -> Tensor:
    """Adams-Bashforth on up to four slopes: iPNDM (Zhang & Chen 2023, arXiv 2204.13902), one evaluation per step.

    The coefficients are those of equal steps, which Karras levels are not, so the order of convergence is 2.
    """
    recent = list(step.points)[-len(ADAMS_BASHFORTH) :]
    weights = ADAMS_BASHFORTH[len(recent) - 1]
    slopes = [weight * point.slope for weight, point in zip(weights, reversed(recent), strict=True)]
    return recent[-1].x + (step.next_sigma - recent[-1].sigma) * torch.stack(slopes).sum(dim=0)


def ancestral(step: Step) -> Tensor:
    """Draws from `reverse_step`: the learned variance keeps diversity in few steps. One evaluation per step."""
    now = step.points[-1]
    mean, variance = reverse_step(now.x, now.clean, now.sigma, step.next_sigma)
    return mean + variance.sqrt() * step.draw_noise()


SOLVERS: dict[str, Solver] = {solver.__name__: solver for solver in (dpm_solver_2m, heun, ipndm, ancestral, euler)}


def no_noise(step: int) -> Tensor:
    """The source of noise for solvers that draw none."""
    raise ValueError(f"step {step} draws noise: pass noise_at")


@torch.no_grad()
def integrate(
    denoise: DenoiseFunction,
    start: Tensor,
    sigmas: Tensor,
    solver: Solver = dpm_solver_2m,
    noise_at: NoiseSource = no_noise,
) -> Tensor:
    """Follows the reverse process from images (N, C, H, W) at level `sigmas[0]` to level `sigmas[-1]`.

    A step to level 0 is the denoised image itself, whatever the solver. A step to a higher level diffuses again and
    makes the solver forget what came before. The levels are float64 on the CPU.
    """
    x = start
    points: deque[Point] = deque(maxlen=len(ADAMS_BASHFORTH))
    for number, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        if next_sigma > sigma:
            x = x + sqrt(next_sigma**2 - sigma**2) * noise_at(number)
            points.clear()
            continue
        points.append(Point(x, sigma, denoise(x, _scalar(sigma))))
        if next_sigma == 0:
            x = points[-1].clean.mean
        else:
            x = solver(Step(points, next_sigma, denoise, partial(noise_at, number)))
    return x


def run_solver(
    sampling: Sampling, denoise: DenoiseFunction, noise: ClassNoise, sigmas: Tensor, known: Tensor | None = None
) -> Tensor:
    """Follows the reverse process along `sigmas` from `known` images (N, C, H, W) plus noise, or from noise alone."""
    start = float(sigmas[0]) * noise.at()
    return integrate(denoise, start if known is None else known + start, sigmas, SOLVERS[sampling.solver], noise.at)


def _interpolate(now: Point, next_sigma: float, clean: Tensor) -> Tensor:
    """The point at `next_sigma` on the line from `now` to `clean` at 0."""
    ratio = next_sigma / now.sigma
    return ratio * now.x + (1 - ratio) * clean


def _scalar(sigma: float) -> Tensor:
    return torch.tensor(sigma, dtype=torch.float64)
