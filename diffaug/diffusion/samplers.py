"""Solvers of the reverse process, pure in (denoise, noise, sigmas)."""

from __future__ import annotations

import torch
from torch import Tensor

from diffaug.diffusion.denoiser import DenoiseFunction


@torch.no_grad()
def dpm_solver_2m(denoise: DenoiseFunction, noise: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): second order, one evaluation a step.

    With alpha = 1 and lambda = -ln sigma, a step of size h goes to (sigma'/sigma) x + (1 - e^-h) D, where D
    extrapolates the last two denoised images. The last step, to sigma 0, is the denoised image itself.

    Args:
        denoise: The denoiser with labels fixed.
        noise: Standard normal (N, C, H, W).
        sigmas: Decreasing noise levels, the last one 0, float64.
    """
    levels = sigmas.tolist()
    x: Tensor = noise * levels[0]
    previous: Tensor | None = None
    previous_step = 0.0
    for index in range(len(levels) - 1):
        denoised = denoise(x, sigmas[index].to(x.device)).mean
        if levels[index + 1] == 0:
            return denoised
        ratio = levels[index + 1] / levels[index]
        step = -float(torch.log(sigmas[index + 1] / sigmas[index]))
        direction = denoised
        if previous is not None:
            direction = denoised + (step / (2 * previous_step)) * (denoised - previous)
        x = ratio * x + (1 - ratio) * direction
        previous, previous_step = denoised, step
    return x


@torch.no_grad()
def heun(denoise: DenoiseFunction, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's method as in EDM's algorithm 1 without churn: second order, two evaluations a step.

    Slower than `dpm_solver_2m` at equal quality; the reference that tests compare with.
    """
    x = noise * float(sigmas[0])
    for index in range(len(sigmas) - 1):
        now, after = sigmas[index].to(x.device), sigmas[index + 1].to(x.device)
        slope = (x - denoise(x, now).mean) / now
        predicted = x + (after - now) * slope
        if after > 0:
            slope = (slope + (predicted - denoise(predicted, after).mean) / after) / 2
            predicted = x + (after - now) * slope
        x = predicted.to(noise.dtype)
    return x
