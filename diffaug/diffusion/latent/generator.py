"""The generator that denoises the latents of a frozen autoencoder (Rombach et al. 2022, arXiv 2112.10752)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.denoising_errors import denoising_errors
from diffaug.diffusion.generator.files import GeneratorRecord
from diffaug.diffusion.generator.network_files import WEIGHTS, read_network
from diffaug.diffusion.generator.pixels import NetworkGenerator
from diffaug.diffusion.latent.codec import Codec
from diffaug.diffusion.latent.files import open_recorded, read_latent_record
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.diffusion.sampling.framing import Framing
from diffaug.files import storage
from diffaug.runtime.devices import repeatable_kernels


@dataclass(frozen=True, kw_only=True)
class LatentGenerator(NetworkGenerator):
    """A generator whose network denoises latents. Noise levels and strengths are those of the latents.

    Attributes:
        codec: Between pixels and latents.
    """

    packages: ClassVar[tuple[str, ...]] = (*NetworkGenerator.packages, "diffusers")

    codec: Codec

    @classmethod
    def open(cls, folder: Path, record: GeneratorRecord, device: str) -> Self:
        """See `Generator.open`; for errors about the autoencoder see `open_recorded`."""
        network, autoencoder = read_network(folder, device), open_recorded(folder, device)
        hashes = storage.sha256_file(folder / WEIGHTS), read_latent_record(folder).autoencoder.sha256
        sha256 = storage.sha256_bytes(" ".join(hashes).encode())
        codec = Codec(autoencoder, record.image_size, record.channels)
        return cls(**cls._shared(folder, record), weights_sha256=sha256, codec=codec, **vars(network))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in px."""
        return self.codec.image_size

    @property
    def channels(self) -> int:
        """1 gray, 3 RGB."""
        return self.codec.channels

    @repeatable_kernels()
    def draw(self, drawing: Drawing) -> Decoded:
        """See `Generator.draw`; each latent position with a masked pixel in its square is made anew."""
        known = None if drawing.images is None else self._encoded(drawing.images)
        masks = drawing.masks
        covered = None if masks is None else self.codec.covered(torch.from_numpy(masks[:, None]).to(self.device))
        latents = self._solve(drawing, Framing(None, self.image_size, self.device), known, covered)
        return self.codec.decode(self.normalization.denormalize(latents.float()))

    def denoising_errors(self, images: LabeledImages, *, seed: int) -> NDArray[np.float64]:
        """See `Generator.denoising_errors`; these are errors of latents."""
        known, labels = self._encoded(images.pixels), torch.from_numpy(images.labels).to(self.device)
        return denoising_errors(self.denoiser, known, labels, seed=seed, noise_scale=self.denoiser.config.noise_scale)

    def _encoded(self, images: NDArray[np.uint8]) -> Tensor:
        """The normalized mean latents of images (N, H, W, C)."""
        return self.normalization.normalize(self.codec.encode(images).mean)
