"""Sampling images in their own proportions: the denoiser sees each one's box, and what leaves fills the frame."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.diffusion.process.boxes import Box, box_masks, put_in_boxes, take_out_of_boxes
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.process.process import Moments
from diffaug.diffusion.sampling.guidance import DenoiseFunction


@dataclass(frozen=True)
class Framing:
    """The boxes of a batch, int64 (N, 2), in a frame. Without boxes nothing is done."""

    boxes: NDArray[np.int64] | None
    frame: Box
    device: torch.device

    @cached_property
    def masks(self) -> Tensor | None:
        """Whether each pixel is inside its box, bool (N, 1, H, W), on the device; None without boxes."""
        return None if self.boxes is None else box_masks(torch.from_numpy(self.boxes).to(self.device), self.frame)

    def inside(self, denoise: DenoiseFunction) -> DenoiseFunction:
        """A denoiser that sees nothing outside of the boxes, and is certain that nothing is there."""
        if (masks := self.masks) is None:
            return denoise

        def masked(x: Tensor, sigma: Tensor) -> Moments:
            mean, variance = denoise(x * masks, sigma)
            return Moments(mean * masks, variance * masks)

        return masked

    def framed(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Images that fill the frame (N, H, W, C), in their boxes."""
        return images if self.boxes is None else put_in_boxes(images, self.boxes)

    def squeezed(self, decoded: Decoded) -> Decoded:
        """Images in their boxes, so that they fill the frame."""
        if self.boxes is None:
            return decoded
        return Decoded(take_out_of_boxes(decoded.pixels, self.boxes), decoded.finite)

    def boxed_masks(self, masks: NDArray[np.bool_]) -> Tensor:
        """Masks bool (N, H, W) of images that fill the frame, for the images in their boxes, bool (N, 1, H, W)."""
        if self.boxes is None:
            return torch.from_numpy(masks[:, None])
        covered = put_in_boxes(np.where(masks, 255, 0).astype(np.uint8)[..., None], self.boxes) > 0
        return torch.from_numpy(np.moveaxis(covered, 3, 1)) & box_masks(torch.from_numpy(self.boxes), self.frame)
