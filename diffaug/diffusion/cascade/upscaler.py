"""Enlarges images of the base: draws the detail that they lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.configuration.sampling import Sampling
from diffaug.diffusion.cascade.detail import DetailScale, View
from diffaug.diffusion.cascade.tiles import in_tiles
from diffaug.diffusion.generator.guided import require_guide
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.process.process import SIGMA_DATA, Moments, karras_sigmas
from diffaug.diffusion.sampling.class_noise import ClassNoise
from diffaug.diffusion.sampling.editing import keep_known, resampled
from diffaug.diffusion.sampling.guidance import Denoise, DenoiseFunction, autoguidance, classifier_free
from diffaug.diffusion.sampling.samplers import run_solver
from diffaug.diffusion.sampling.thresholding import thresholded

FIRST_STRENGTH = 0.6
"""Where on the noise levels of `karras_sigmas` sampling begins, 5.6: detail has no large structure that would still be
seen through this noise. The base's steps above it are left out."""
POSITIONS_AT_ONCE, CHUNK = 32_768, 64
"""Positions of the network, and images, in one pass. 64 channels of one layer then take 8 MiB."""

PLAIN: Final = "plain"
Level = float | Literal["plain"]
"""Of the noise on the small images when sampling, in [0, MAX_LEVEL]; plain: nothing is drawn, images are enlarged."""


@dataclass(frozen=True)
class Task:
    """What is drawn: images of one class.

    Attributes:
        purpose, class_index, indices, seed: Name the random numbers, see `ClassNoise`.
    """

    purpose: str
    class_index: int
    indices: Sequence[int]
    seed: int
    sampling: Sampling

    def part(self, chosen: slice) -> Task:
        """Some of the images."""
        return replace(self, indices=list(self.indices)[chosen])


@dataclass(frozen=True)
class Known:
    """What images are to look like: full images uint8 (N, H, W, C), and what of it is free.

    Attributes:
        strength: In (0, 1], how strongly their detail is varied.
        masks: Which pixels are free, bool (N, H, W); all if None.
        resamplings: How often steps are repeated to fit the free pixels to the others.
    """

    pixels: NDArray[np.uint8]
    strength: float = 1.0
    masks: NDArray[np.bool_] | None = None
    resamplings: int = 0

    def part(self, chosen: slice) -> Known:
        """Some of the images."""
        masks = None if self.masks is None else self.masks[chosen]
        return replace(self, pixels=self.pixels[chosen], masks=masks)


@dataclass(frozen=True)
class Upscaler:
    """A super-resolution network that is ready to sample.

    Attributes:
        denoiser: With averaged weights, in evaluation mode; see `LocalNetwork`.
        level: See `Level`; as chosen for sampling.
        guide: The network after less training, for autoguidance.
    """

    denoiser: Denoiser
    scale: DetailScale
    level: Level
    guide: Denoiser | None = None

    @property
    def is_plain(self) -> bool:
        """Whether images are only enlarged, since the network would not improve them."""
        return self.level == PLAIN

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.denoiser.parameters()).device

    @property
    def images_at_once(self) -> int:
        """Images per pass, so that memory is bounded."""
        network = self.denoiser.config
        height, width = network.image_size
        return min(CHUNK, max(1, POSITIONS_AT_ONCE * network.patch**2 // (height * width)))

    def enlarge(self, small: NDArray[np.uint8], task: Task, known: Known | None = None) -> Decoded:
        """Draws full images of small ones uint8 (N, h, w, C)."""
        network = self.denoiser.config
        if not len(small):
            return Decoded(np.zeros((0, *network.image_size, network.channels), np.uint8), np.zeros(0, np.bool_))
        parts = [
            self._enlarge(small[one], task.part(one), known and known.part(one)) for one in self._parts(len(small))
        ]
        return Decoded(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def denoise_given(self, view: View) -> Denoise:
        """The denoiser of the details of images with these views."""
        return in_tiles(self.denoiser, view.conditions)

    def view(self, small: NDArray[np.uint8], noise: Tensor, level: float) -> View:
        """The views of small images at one level."""
        on_device = torch.from_numpy(small).to(self.device)
        return self.scale.view(on_device, torch.full((len(small),), level, device=self.device), noise)

    def _parts(self, count: int) -> Iterator[slice]:
        size = self.images_at_once
        return (slice(start, start + size) for start in range(0, count, size))

    def _enlarge(self, small: NDArray[np.uint8], task: Task, known: Known | None) -> Decoded:
        if isinstance(self.level, str):
            return Decoded(self._plain(small, known), np.ones(len(small), np.bool_))
        network, normalization = self.denoiser.config, self.scale.normalization
        drawn = self._noise(task, "view", (network.channels, *self.scale.reduction.base_size))
        view = self.view(small, drawn.at(), self.level)
        noise = self._noise(task, "detail", (network.channels, *network.image_size))
        denoise = self._denoise(view, task)
        return normalization.to_pixels(view.with_detail(self._detail(denoise, noise, task.sampling, view, known)))

    def _plain(self, small: NDArray[np.uint8], known: Known | None) -> NDArray[np.uint8]:
        """Bicubic enlargements, where pixels are free; to vary detail alone changes nothing."""
        if known is None:
            return self.scale.reduction.enlarged_pixels(small)
        if known.masks is None:
            return known.pixels
        return np.where(known.masks[..., None], self.scale.reduction.enlarged_pixels(small), known.pixels)

    def _detail(
        self, denoise: DenoiseFunction, noise: ClassNoise, sampling: Sampling, view: View, known: Known | None
    ) -> Tensor:
        strength = min(FIRST_STRENGTH, 1.0 if known is None else known.strength)
        sigmas = karras_sigmas(max(2, round(strength * sampling.num_inference_steps)), strength)
        if known is None:
            return run_solver(sampling, denoise, noise, sigmas)
        wanted = view.detail(self.scale.normalization.to_network(torch.from_numpy(known.pixels).to(self.device)))
        if known.masks is not None:
            masks = torch.from_numpy(known.masks[:, None]).to(self.device)
            denoise, sigmas = keep_known(denoise, wanted, masks), resampled(sigmas, known.resamplings)
        begun = known.masks is not None or known.strength < FIRST_STRENGTH
        return run_solver(sampling, denoise, noise, sigmas, wanted if begun else None)

    def _noise(self, task: Task, of: str, shape: tuple[int, int, int]) -> ClassNoise:
        return ClassNoise(task.seed, f"{task.purpose} {of}", task.class_index, task.indices, shape, self.device)

    def _denoise(self, view: View, task: Task) -> DenoiseFunction:
        labels = torch.full((len(task.indices),), task.class_index, device=self.device)
        sampling, better = task.sampling, in_tiles(self.denoiser, view.conditions)
        require_guide(sampling, self.guide)
        if sampling.guidance_method == "autoguidance" and self.guide is not None:
            guided = autoguidance(better, in_tiles(self.guide, view.conditions), labels, sampling.guidance_scale)
        else:
            null_label = self.denoiser.config.null_label
            guided = classifier_free(better, labels, null_label, sampling.guidance_scale, sampling.guidance_interval)
        return guided if sampling.guidance_scale <= 1 else self._in_range(guided, view)

    def _in_range(self, denoise: DenoiseFunction, view: View) -> DenoiseFunction:
        """A denoiser whose images keep the range of pixels."""
        normalization = self.scale.normalization
        mean, std = (
            torch.tensor(values, device=self.device)[None, :, None, None]
            for values in (normalization.mean, normalization.std)
        )

        def kept(x: Tensor, sigma: Tensor) -> Moments:
            detail, variance = denoise(x, sigma)
            pixels = thresholded(view.with_detail(detail) * (std / SIGMA_DATA) + mean)
            return Moments(view.detail((pixels - mean) * (SIGMA_DATA / std)), variance)

        return kept
