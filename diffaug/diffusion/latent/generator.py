"""The generator that denoises the latents of a frozen autoencoder (Rombach et al. 2022, arXiv 2112.10752)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.configuration.sampling import Sampling
from diffaug.diffusion.generator.denoising_errors import denoising_errors
from diffaug.diffusion.generator.files import GeneratorRecord
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.guided import guided, require_guide
from diffaug.diffusion.generator.network_files import WEIGHTS, read_network
from diffaug.diffusion.latent.codec import Codec
from diffaug.diffusion.latent.files import open_recorded, read_latent_record
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.process.normalization import Decoded, Normalization
from diffaug.diffusion.process.process import karras_sigmas
from diffaug.diffusion.sampling.class_noise import ClassNoise
from diffaug.diffusion.sampling.editing import inpaint, require_images, vary
from diffaug.diffusion.sampling.guidance import DenoiseFunction
from diffaug.diffusion.sampling.samplers import run_solver
from diffaug.files import storage
from diffaug.runtime.devices import repeatable_kernels


@dataclass(frozen=True, kw_only=True)
class LatentGenerator(Generator):
    """A generator whose network denoises latents. Noise levels and strengths are those of the latents.

    Attributes:
        codec: Between pixels and latents.
        denoiser: The network with averaged weights, in evaluation mode.
        normalization: Of the latents.
        guide: The same network after less training, for autoguidance. None if none was kept.
    """

    packages: ClassVar[tuple[str, ...]] = (*Generator.packages, "diffusers")

    codec: Codec
    denoiser: Denoiser
    normalization: Normalization
    guide: Denoiser | None = None

    @classmethod
    def open(cls, folder: Path, record: GeneratorRecord, device: str) -> Self:
        """See `Generator.open`; for errors about the autoencoder see `open_recorded`."""
        network, autoencoder = read_network(folder, device), open_recorded(folder, device)
        hashes = storage.sha256_file(folder / WEIGHTS), read_latent_record(folder).autoencoder.sha256
        return cls(
            classes=record.classes,
            weights_sha256=storage.sha256_bytes(" ".join(hashes).encode()),
            folder=folder,
            dataset_class_to_idx=record.dataset_class_to_idx,
            intensity=record.intensity,
            copied_classes=record.copied_classes,
            codec=Codec(autoencoder, record.image_size, record.channels),
            denoiser=network.denoiser,
            normalization=network.normalization,
            guide=network.guide,
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in px."""
        return self.codec.image_size

    @property
    def channels(self) -> int:
        """1 gray, 3 RGB."""
        return self.codec.channels

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.denoiser.parameters()).device

    @repeatable_kernels()
    def draw_samples(self, label: str | int, indices: Sequence[int], sampling: Sampling, seed: int) -> Decoded:
        """See `Generator.draw_samples`."""
        noise = self._noise("sample", seed, label, indices)
        sigmas = karras_sigmas(sampling.num_inference_steps, noise_scale=self._noise_scale)
        return self._decoded(run_solver(sampling, self._denoise(noise, sampling), noise, sigmas))

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
        del boxes
        images = require_images(images, (len(indices), *self.image_size, self.channels))
        noise = self._noise("variation", seed, label, indices)
        denoise, known = self._denoise(noise, sampling), self._encoded(images)
        return self._decoded(vary(denoise, known, noise, sampling, strength, noise_scale=self._noise_scale))

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
        """See `Generator.draw_inpainted`; each latent position with a masked pixel in its square is made anew."""
        noise = self._noise("inpaint", seed, label, indices)
        replaced = self.codec.covered(torch.from_numpy(masks[:, None]).to(self.device))
        denoise, known = self._denoise(noise, sampling), self._encoded(images)
        scale = self._noise_scale
        made = inpaint(denoise, known, replaced, noise, sampling, resamplings=resamplings, noise_scale=scale)
        return self._decoded(made)

    def denoising_errors(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        seed: int,
        boxes: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """See `Generator.denoising_errors`; these are errors of latents."""
        del boxes
        on_device = torch.from_numpy(labels).to(self.device)
        known, scale = self._encoded(images), self._noise_scale
        return denoising_errors(self.denoiser, known, on_device, seed=seed, noise_scale=scale)

    def require_sampling(self, sampling: Sampling) -> None:
        """Raises a UsageError if the method is autoguidance and no guide was kept."""
        require_guide(sampling, self.guide)

    @property
    def _noise_scale(self) -> float:
        return self.denoiser.config.noise_scale

    def _noise(self, purpose: str, seed: int, label: str | int, indices: Sequence[int]) -> ClassNoise:
        return ClassNoise(seed, purpose, self.class_index(label), indices, self.codec.latent_shape, self.device)

    def _denoise(self, noise: ClassNoise, sampling: Sampling) -> DenoiseFunction:
        return guided(self.denoiser, self.guide, noise, sampling)

    def _encoded(self, images: NDArray[np.uint8]) -> Tensor:
        """The normalized mean latents of images (N, H, W, C)."""
        return self.normalization.normalize(self.codec.encode(images).mean)

    def _decoded(self, latents: Tensor) -> Decoded:
        return self.codec.decode(self.normalization.denormalize(latents.float()))
