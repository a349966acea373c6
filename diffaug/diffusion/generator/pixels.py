"""The generator that denoises pixels, trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.configuration.sampling import Sampling
from diffaug.diffusion.generator.denoising_errors import CHUNK, denoising_errors
from diffaug.diffusion.generator.files import GeneratorRecord
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.guided import guided, require_guide
from diffaug.diffusion.generator.network_files import WEIGHTS, read_network, require_fitting
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.process.normalization import Decoded, Normalization
from diffaug.diffusion.process.process import karras_sigmas
from diffaug.diffusion.sampling.class_noise import ClassNoise
from diffaug.diffusion.sampling.editing import inpaint, require_images, vary
from diffaug.diffusion.sampling.framing import Framing
from diffaug.diffusion.sampling.guidance import DenoiseFunction
from diffaug.diffusion.sampling.samplers import run_solver
from diffaug.files import storage
from diffaug.runtime.devices import repeatable_kernels


@dataclass(frozen=True, kw_only=True)
class PixelGenerator(Generator):
    """A generator whose network denoises the pixels themselves.

    Attributes:
        denoiser: The network with averaged weights, in evaluation mode.
        guide: The same network after less training, for autoguidance. None if none was kept.
    """

    denoiser: Denoiser
    normalization: Normalization
    guide: Denoiser | None = None

    @classmethod
    def open(cls, folder: Path, record: GeneratorRecord, device: str) -> Self:
        """See `Generator.open`."""
        network = read_network(folder, device)
        require_fitting(record, network.denoiser.config, folder)
        return cls(
            classes=record.classes,
            weights_sha256=storage.sha256_file(folder / WEIGHTS),
            folder=folder,
            dataset_class_to_idx=record.dataset_class_to_idx,
            intensity=record.intensity,
            boxes=record.boxes,
            copied_classes=record.copied_classes,
            denoiser=network.denoiser,
            normalization=network.normalization,
            guide=network.guide,
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in px."""
        return self.denoiser.config.image_size

    @property
    def channels(self) -> int:
        """1 gray, 3 RGB."""
        return self.denoiser.config.channels

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.denoiser.parameters()).device

    @repeatable_kernels()
    def draw_samples(self, label: str | int, indices: Sequence[int], sampling: Sampling, seed: int) -> Decoded:
        """See `Generator.draw_samples`."""
        noise = self._noise("sample", seed, label, indices)
        framing = self._framing(noise)
        denoise = self._denoise(noise, sampling, framing)
        sigmas = karras_sigmas(sampling.num_inference_steps, noise_scale=self.denoiser.config.noise_scale)
        return framing.squeezed(self.normalization.to_pixels(run_solver(sampling, denoise, noise, sigmas)))

    @repeatable_kernels()
    def draw_variations(
        self,
        images: NDArray[np.uint8],
        label: str | int,
        indices: Sequence[int],
        *,
        strength: float,
        sampling: Sampling,
        seed: int,
        boxes: NDArray[np.int64] | None = None,
    ) -> Decoded:
        """See `Generator.draw_variations`."""
        images = require_images(images, (len(indices), *self.image_size, self.channels))
        noise = self._noise("variation", seed, label, indices)
        framing = self._framing(noise) if boxes is None else self.framing(boxes)
        denoise, known = self._denoise(noise, sampling, framing), self.framed(images, framing)
        scale = self.denoiser.config.noise_scale
        made = vary(denoise, known, noise, sampling, strength, noise_scale=scale)
        return framing.squeezed(self.normalization.to_pixels(made))

    @repeatable_kernels()
    def draw_inpainted(
        self,
        images: NDArray[np.uint8],
        masks: NDArray[np.bool_],
        label: str | int,
        indices: Sequence[int],
        *,
        sampling: Sampling,
        seed: int,
        resamplings: int,
    ) -> Decoded:
        """See `Generator.draw_inpainted`."""
        noise = self._noise("inpaint", seed, label, indices)
        framing = self._framing(noise)
        denoise, replaced = self._denoise(noise, sampling, framing), framing.boxed_masks(masks).to(self.device)
        known = self.framed(images, framing)
        scale = self.denoiser.config.noise_scale
        made = inpaint(denoise, known, replaced, noise, sampling, resamplings=resamplings, noise_scale=scale)
        return framing.squeezed(self.normalization.to_pixels(made))

    def denoising_errors(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        seed: int,
        boxes: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """See `Generator.denoising_errors`."""
        scale, parts = self.denoiser.config.noise_scale, [np.empty(0)]
        for begin in range(0, len(images), CHUNK):
            part = slice(begin, begin + CHUNK)
            framing = self.framing(None if boxes is None else boxes[part])
            x0, own = self.framed(images[part], framing), torch.from_numpy(labels[part]).to(self.device)
            parts.append(denoising_errors(self.denoiser, x0, own, seed=seed, masks=framing.masks, noise_scale=scale))
        return np.concatenate(parts)

    def framing(self, boxes: NDArray[np.int64] | None) -> Framing:
        """How images with these boxes (N, 2) lie in the frame; all of it, if the generator knows no boxes."""
        return Framing(None if self.boxes is None else boxes, self.image_size, self.device)

    def framed(self, images: NDArray[np.uint8], framing: Framing) -> Tensor:
        """Images (N, H, W, C) as the network sees them, normalized (N, C, H, W), zero outside of their boxes."""
        known = self.normalization.to_network(torch.from_numpy(framing.framed(images)).to(self.device))
        return known if framing.masks is None else known * framing.masks

    def require_sampling(self, sampling: Sampling) -> None:
        """Raises a UsageError if the method is autoguidance and no guide was kept."""
        require_guide(sampling, self.guide)

    def _noise(self, purpose: str, seed: int, label: str | int, indices: Sequence[int]) -> ClassNoise:
        shape = (self.channels, *self.image_size)
        return ClassNoise(seed, purpose, self.class_index(label), indices, shape, self.device)

    def _framing(self, noise: ClassNoise) -> Framing:
        """A box for each image, drawn from those of its class."""
        if self.boxes is None:
            return self.framing(None)
        return self.framing(self.boxes.draw(noise.class_index, noise.indices, noise.seed, noise.purpose))

    def _denoise(self, noise: ClassNoise, sampling: Sampling, framing: Framing) -> DenoiseFunction:
        return framing.inside(guided(self.denoiser, self.guide, noise, sampling))
