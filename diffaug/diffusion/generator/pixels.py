"""The generators of networks that diffaug trains, and the one that denoises pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.configuration.sampling import Sampling
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.denoising_errors import CHUNK, denoising_errors
from diffaug.diffusion.generator.files import GeneratorRecord
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.guided import guided, require_guide
from diffaug.diffusion.generator.network_files import WEIGHTS, read_network, require_fitting
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.process.normalization import Decoded, Normalization
from diffaug.diffusion.process.process import karras_sigmas
from diffaug.diffusion.sampling.drawing import Drawing, solve
from diffaug.diffusion.sampling.framing import Framing
from diffaug.files import storage
from diffaug.runtime.devices import repeatable_kernels


@dataclass(frozen=True, kw_only=True)
class NetworkGenerator(Generator):
    """A generator of one network.

    Attributes:
        denoiser: The network with averaged weights, in evaluation mode.
        normalization: Of what it sees.
        guide: The same network after less training, for autoguidance. None if none was kept.
    """

    denoiser: Denoiser
    normalization: Normalization
    guide: Denoiser | None = None

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.denoiser.parameters()).device

    def require_sampling(self, sampling: Sampling) -> None:
        """Raises a UsageError if the method is autoguidance and no guide was kept."""
        require_guide(sampling, self.guide)

    def _solve(self, drawing: Drawing, framing: Framing, known: Tensor | None, masks: Tensor | None) -> Tensor:
        """What is drawn, normalized (N, C, H, W); `known` and `masks` as the network sees images and masks."""
        network = self.denoiser.config
        noise = drawing.noise((network.channels, *network.image_size), self.device)
        denoise = framing.inside(guided(drawing, self.denoiser, self.guide, network, self.device))
        path = partial(karras_sigmas, noise_scale=network.noise_scale)
        return solve(drawing, path, denoise, noise, known=known, masks=masks)


@dataclass(frozen=True, kw_only=True)
class PixelGenerator(NetworkGenerator):
    """A generator whose network denoises the pixels themselves."""

    @classmethod
    def open(cls, folder: Path, record: GeneratorRecord, device: str) -> Self:
        """See `Generator.open`."""
        network = read_network(folder, device)
        require_fitting(record, network.denoiser.config, folder)
        sha256 = storage.sha256_file(folder / WEIGHTS)
        return cls(**cls._shared(folder, record), weights_sha256=sha256, **vars(network))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in px."""
        return self.denoiser.config.image_size

    @property
    def channels(self) -> int:
        """1 gray, 3 RGB."""
        return self.denoiser.config.channels

    @repeatable_kernels()
    def draw(self, drawing: Drawing) -> Decoded:
        """See `Generator.draw`."""
        framing = self._framing(drawing)
        known = None if drawing.images is None else self._framed(drawing.images, framing)
        masks = None if drawing.masks is None else framing.boxed_masks(drawing.masks).to(self.device)
        return framing.squeezed(self.normalization.to_pixels(self._solve(drawing, framing, known, masks)))

    def denoising_errors(self, images: LabeledImages, *, seed: int) -> NDArray[np.float64]:
        """See `Generator.denoising_errors`."""
        scale, errors = self.denoiser.config.noise_scale, [np.empty(0)]
        for begin in range(0, len(images), CHUNK):
            part = images.select(np.arange(begin, min(begin + CHUNK, len(images))))
            framing, labels = self._in_frame(part.boxes), torch.from_numpy(part.labels).to(self.device)
            x0, masks = self._framed(part.pixels, framing), framing.masks
            errors.append(denoising_errors(self.denoiser, x0, labels, seed=seed, masks=masks, noise_scale=scale))
        return np.concatenate(errors)

    def _framing(self, drawing: Drawing) -> Framing:
        """The boxes of the images, or for each a box drawn from those of its class."""
        boxes = drawing.boxes
        if self.boxes is not None and boxes is None:
            boxes = self.boxes.draw(drawing.class_index, drawing.indices, drawing.seed, drawing.purpose)
        return self._in_frame(boxes)

    def _in_frame(self, boxes: NDArray[np.int64] | None) -> Framing:
        """How images with these boxes (N, 2) lie in the frame; all of it, if the generator knows no boxes."""
        return Framing(None if self.boxes is None else boxes, self.image_size, self.device)

    def _framed(self, images: NDArray[np.uint8], framing: Framing) -> Tensor:
        """Images (N, H, W, C) as the network sees them, normalized (N, C, H, W), zero outside of their boxes."""
        known = self.normalization.to_network(torch.from_numpy(framing.framed(images)).to(self.device))
        return known if framing.masks is None else known * framing.masks
