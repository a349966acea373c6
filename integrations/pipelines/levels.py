"""Noise levels: between sigma of diffaug and the time that a pretrained network was trained with.

Latents are scaled such that they have the deviation that diffaug counts on, `SIGMA_DATA`, instead of 1. Then solvers,
guidance intervals and measured levels mean the same for all generators: x = x0 + sigma n, with n standard normal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.diffusion.process.process import SIGMA_DATA, per_image

SMALLEST_ALPHA_BAR = 1e-6  # of schedules that end in pure noise
MOST_FLOW = 0.999


class Levels(ABC):
    """How a network sees noisy latents, and what its output says."""

    @abstractmethod
    def path(self, steps: int, strength: float) -> Tensor:
        """Noise levels of so many steps, falling, then 0, float64 (steps + 1,).

        They are equally far apart in the network's own time, as in diffusers' image-to-image pipelines, and begin at
        the fraction `strength`, in (0, 1], of it.
        """

    @abstractmethod
    def draw(self, uniform: Tensor) -> Tensor:
        """Noise levels (N,) to train at, of numbers (N,) uniform in (0, 1)."""

    @abstractmethod
    def times(self, sigma: Tensor) -> Tensor:
        """The network's time (N,) at noise levels (N,)."""

    @abstractmethod
    def inputs(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What the network sees of noisy latents (N, C, H, W) at levels (N,)."""

    @abstractmethod
    def clean(self, x: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
        """The clean latents that the network's output for noisy ones (N, C, H, W) at levels (N,) stands for."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """What the network should give out for clean latents and noise (N, C, H, W) at levels (N,)."""


@dataclass(frozen=True)
class VariancePreserving(Levels):
    """DDPM's levels in discrete steps (Ho et al. 2020, arXiv 2006.11239), interpolated between the steps.

    Attributes:
        log_ratios: ln sqrt((1 - alpha_bar) / alpha_bar) of each step, rising, float64 (T,).
        prediction: epsilon, v_prediction (Salimans & Ho 2022, arXiv 2202.00512) or sample.
    """

    log_ratios: NDArray[np.float64]
    prediction: str

    @classmethod
    def of(cls, scheduler: Any) -> VariancePreserving:
        """Those that a scheduler of diffusers was made with."""
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler.from_config(scheduler.config)
        bars = scheduler.alphas_cumprod.double().clamp_min(SMALLEST_ALPHA_BAR).numpy()
        return cls(np.log((1 - bars) / bars) / 2, scheduler.config.prediction_type)

    def path(self, steps: int, strength: float) -> Tensor:
        """See `Levels.path`."""
        times = (len(self.log_ratios) - 1) * strength * np.arange(steps, 0, -1) / steps
        return torch.from_numpy(np.append(self._sigmas(times), 0.0))

    def draw(self, uniform: Tensor) -> Tensor:
        """Each step is equally likely."""
        times = (uniform.double().cpu().numpy() * len(self.log_ratios)).astype(np.int64)
        return torch.from_numpy(self._sigmas(times)).to(uniform)

    def times(self, sigma: Tensor) -> Tensor:
        """See `Levels.times`; levels outside of the network's range count as its first or last."""
        logs = np.log(sigma.double().cpu().numpy() / SIGMA_DATA)
        steps = np.interp(logs, self.log_ratios, np.arange(len(self.log_ratios)))
        return torch.from_numpy(steps).to(sigma)

    def inputs(self, x: Tensor, sigma: Tensor) -> Tensor:
        """See `Levels.inputs`."""
        return x / SIGMA_DATA * self._alpha(sigma)

    def clean(self, x: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
        """See `Levels.clean`."""
        if self.prediction == "sample":
            return output * SIGMA_DATA
        if self.prediction == "v_prediction":
            alpha = self._alpha(sigma)
            return alpha**2 * x - alpha * per_image(sigma) * output
        return x - per_image(sigma) * output

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """See `Levels.target`."""
        if self.prediction == "sample":
            return x0 / SIGMA_DATA
        if self.prediction == "v_prediction":
            alpha = self._alpha(sigma)
            return alpha * noise - alpha * per_image(sigma) / SIGMA_DATA * x0 / SIGMA_DATA
        return noise

    def _sigmas(self, times: NDArray[Any]) -> NDArray[np.float64]:
        logs: NDArray[np.float64] = np.interp(times, np.arange(len(self.log_ratios)), self.log_ratios)
        sigmas: NDArray[np.float64] = SIGMA_DATA * np.exp(logs)
        return sigmas

    @staticmethod
    def _alpha(sigma: Tensor) -> Tensor:
        """sqrt(alpha_bar) of each image, (N, 1, 1, 1)."""
        return per_image((1 + (sigma / SIGMA_DATA) ** 2).rsqrt())


@dataclass(frozen=True)
class FlowMatching(Levels):
    """Rectified flow: x_s = (1 - s) x0 + s n with s in (0, 1) (Esser et al. 2024, arXiv 2403.03206).

    Attributes:
        shift: Of the noise levels towards 1, eq. 23; 1 is none.
        scale: The network's time at s = 1.
    """

    shift: float = 1.0
    scale: float = 1000.0

    def path(self, steps: int, strength: float) -> Tensor:
        """See `Levels.path`."""
        parts = strength * torch.arange(steps, -1, -1, dtype=torch.float64) / steps
        parts = self._shifted(parts).clamp_max(MOST_FLOW)
        return SIGMA_DATA * parts / (1 - parts)

    def draw(self, uniform: Tensor) -> Tensor:
        """Logit-normal (eq. 19), then shifted."""
        normal = 2**0.5 * torch.erfinv(2 * uniform.double() - 1)
        parts = self._shifted(torch.sigmoid(normal)).clamp_max(MOST_FLOW)
        return (SIGMA_DATA * parts / (1 - parts)).to(uniform)

    def times(self, sigma: Tensor) -> Tensor:
        """See `Levels.times`."""
        return self.scale * self._part(sigma)

    def inputs(self, x: Tensor, sigma: Tensor) -> Tensor:
        """See `Levels.inputs`."""
        return x / SIGMA_DATA * (1 - per_image(self._part(sigma)))

    def clean(self, x: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
        """The network gives out n - x0."""
        part = per_image(self._part(sigma))
        return (1 - part) * x - SIGMA_DATA * part * output

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """See `Levels.target`."""
        return noise - x0 / SIGMA_DATA

    def _shifted(self, parts: Tensor) -> Tensor:
        return self.shift * parts / (1 + (self.shift - 1) * parts)

    @staticmethod
    def _part(sigma: Tensor) -> Tensor:
        return sigma / (SIGMA_DATA + sigma)
