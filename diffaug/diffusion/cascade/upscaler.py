"""Enlarges images of the base: draws the detail that they lack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.diffusion.cascade.detail import DetailScale, View
from diffaug.diffusion.cascade.tiles import in_tiles
from diffaug.diffusion.generator.guided import guided
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.process.process import SIGMA_DATA, Moments, karras_sigmas
from diffaug.diffusion.sampling.drawing import Drawing, solve
from diffaug.diffusion.sampling.guidance import Denoise, DenoiseFunction
from diffaug.diffusion.sampling.thresholding import thresholded

FIRST_STRENGTH, FEWEST_STEPS = 0.6, 2
"""Where on the noise levels of `karras_sigmas` sampling begins, 5.6: detail has no large structure that would still be
seen through this noise. The base's steps above it are left out."""
POSITIONS_AT_ONCE, CHUNK = 32_768, 64
"""Positions of the network, and images, in one pass. 64 channels of one layer then take 8 MiB."""

PLAIN: Final = "plain"
Level = float | Literal["plain"]
"""Of the noise on the small images when sampling, in [0, MAX_LEVEL]; plain: nothing is drawn, images are enlarged."""


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

    def enlarge(self, small: NDArray[np.uint8], drawing: Drawing) -> Decoded:
        """Draws full images of small ones uint8 (N, h, w, C); what is known of them, `drawing.images`, is full, too."""
        network = self.denoiser.config
        parts = (self._enlarge(small[part], own) for part, own in drawing.parts(self.images_at_once))
        return Decoded.joined(parts, (*network.image_size, network.channels))

    def denoise_given(self, view: View) -> Denoise:
        """The denoiser of the details of images with these views."""
        return in_tiles(self.denoiser, view.conditions)

    def view(self, small: NDArray[np.uint8], noise: Tensor, level: float) -> View:
        """The views of small images at one level."""
        on_device = torch.from_numpy(small).to(self.device)
        return self.scale.view(on_device, torch.full((len(small),), level, device=self.device), noise)

    def _enlarge(self, small: NDArray[np.uint8], drawing: Drawing) -> Decoded:
        if isinstance(self.level, str):
            return Decoded(self._plain(small, drawing), np.ones(len(small), np.bool_))
        network, normalization = self.denoiser.config, self.scale.normalization
        drawn = drawing.noise((network.channels, *self.scale.reduction.base_size), self.device, "view")
        view = self.view(small, drawn.at(), self.level)
        noise = drawing.noise((network.channels, *network.image_size), self.device, "detail")
        known = masks = None
        if drawing.images is not None:
            known = view.detail(normalization.to_network(torch.from_numpy(drawing.images).to(self.device)))
        if drawing.masks is not None:
            masks = torch.from_numpy(drawing.masks[:, None]).to(self.device)
        begin = partial(solve, first=FIRST_STRENGTH, fewest=FEWEST_STEPS)
        detail = begin(drawing, karras_sigmas, self._denoise(view, drawing), noise, known=known, masks=masks)
        return normalization.to_pixels(view.with_detail(detail))

    def _plain(self, small: NDArray[np.uint8], drawing: Drawing) -> NDArray[np.uint8]:
        """Bicubic enlargements, where pixels are free; to vary detail alone changes nothing."""
        if drawing.images is None:
            return self.scale.reduction.enlarged_pixels(small)
        if drawing.masks is None:
            return drawing.images
        return np.where(drawing.masks[..., None], self.scale.reduction.enlarged_pixels(small), drawing.images)

    def _denoise(self, view: View, drawing: Drawing) -> DenoiseFunction:
        better, worse = self.denoise_given(view), self.guide and in_tiles(self.guide, view.conditions)
        denoise = guided(drawing, better, worse, self.denoiser.config, self.device)
        return denoise if drawing.sampling.guidance_scale <= 1 else self._in_range(denoise, view)

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
