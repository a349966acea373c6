"""How images are sampled: the choices of one call, and noise that depends on class and index alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from diffaug.diffusion.sampling.guidance import GUIDANCE_INTERVAL, DenoiseFunction, Interval
from diffaug.diffusion.sampling.samplers import SOLVERS, integrate
from diffaug.errors import UsageError
from diffaug.runtime import seeding

GUIDANCES = ("classifier_free", "autoguidance")


class SamplingOptions(TypedDict, total=False):
    """The keywords that every way of sampling takes; `Sampling` explains them and has the defaults."""

    solver: str
    num_inference_steps: int
    guidance: str
    guidance_scale: float
    guidance_interval: Interval


@dataclass(frozen=True)
class ClassNoise:
    """The noise of a batch of one class: that of image i depends on (seed, purpose, class, i) alone.

    Attributes:
        seed: Seed of the whole series.
        purpose: Sets series apart that are made of the same class with the same seed.
        class_index: The class.
        indices: Numbers of the images.
        shape: (C, H, W).
        device: Where the noise is wanted.
    """

    seed: int
    purpose: str
    class_index: int
    indices: Sequence[int]
    shape: tuple[int, int, int]
    device: torch.device

    def start(self) -> Tensor:
        """The noise that sampling begins with, standard normal (N, C, H, W)."""
        return self._draw()

    def at(self, step: int) -> Tensor:
        """The noise of step k, standard normal (N, C, H, W)."""
        return self._draw(step)

    def _draw(self, *step: int) -> Tensor:
        streams = (seeding.numpy_generator(self.seed, self.purpose, self.class_index, i, *step) for i in self.indices)
        drawn = [stream.standard_normal(self.shape, dtype=np.float32) for stream in streams]
        return torch.from_numpy(np.array(drawn, np.float32).reshape(-1, *self.shape)).to(self.device)


@dataclass(frozen=True)
class Sampling:
    """How images are sampled.

    Attributes:
        solver: A name in `SOLVERS`.
        num_inference_steps: Solver steps from pure noise; each costs one pass of the network, with Heun two.
        guidance: `classifier_free` or `autoguidance`.
        guidance_scale: 1 samples the class as learnt, in one pass; larger values trade diversity for typicality.
        guidance_interval: Noise levels at which classifier-free guidance acts; each then costs two passes.

    Raises:
        UsageError: A value is out of range.
    """

    solver: str = "dpm_solver_2m"
    num_inference_steps: int = 12
    guidance: str = "classifier_free"
    guidance_scale: float = 1.0
    guidance_interval: Interval = GUIDANCE_INTERVAL

    def __post_init__(self) -> None:
        _require_one_of("solver", self.solver, SOLVERS)
        _require_one_of("guidance", self.guidance, GUIDANCES)
        if not isinstance(self.num_inference_steps, int) or self.num_inference_steps < 1:
            raise UsageError(f"{self.num_inference_steps} steps can't sample an image", fix="num_inference_steps=12")
        if not isinstance(self.guidance_scale, int | float) or not 0 <= self.guidance_scale < float("inf"):
            raise UsageError(f"a guidance scale of {self.guidance_scale} is out of range", fix="1: none; try 1.5")
        try:
            low, high = self.guidance_interval
        except (TypeError, ValueError):
            low, high = 1, 0
        if not 0 <= low <= high:
            raise UsageError(
                f"{self.guidance_interval} is no interval of noise levels", fix=f"guidance_interval={GUIDANCE_INTERVAL}"
            )

    def run(self, denoise: DenoiseFunction, noise: ClassNoise, sigmas: Tensor, known: Tensor | None = None) -> Tensor:
        """Follows the reverse process along `sigmas` from `known` images (N, C, H, W) plus noise, or noise alone."""
        start = float(sigmas[0]) * noise.start()
        return integrate(denoise, start if known is None else known + start, sigmas, SOLVERS[self.solver], noise.at)


def _require_one_of(option: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise UsageError(f"there is no {option} '{value}'", fix=f"{option}: {', '.join(known)}")
