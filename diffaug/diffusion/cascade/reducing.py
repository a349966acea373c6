"""Between the size of the images and the smaller one that the base generator works at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffaug.data.images import LabeledImages, UnlabeledImages
from diffaug.data.resize import boxes_of, fit_to_size
from diffaug.diffusion.process.boxes import put_in_boxes, take_out_of_boxes

Images = TypeVar("Images", LabeledImages, UnlabeledImages)

BASE_SIDE = 64
"""Short side in px of what the base generator makes. Its training images keep the thing to be seen at 64 px or fewer
on digits, fashion-lt and flowers, and a network for 64 px trains in minutes on two CPU cores."""
MOST_ENLARGED = 4
"""Larger images have a larger base, so that the network which enlarges them stays small. By hand."""


def base_size_of(image_size: tuple[int, int]) -> tuple[int, int]:
    """The size whose short side is `BASE_SIDE`, or a quarter of a longer one, with the proportions of `image_size`.

    It is at most that size itself.
    """
    scale = min(1.0, max(BASE_SIDE / min(image_size), 1 / MOST_ENLARGED))
    height, width = (max(1, round(length * scale)) for length in image_size)
    return height, width


@dataclass(frozen=True)
class Reduction:
    """From images of one size (height, width) in px to the base's."""

    image_size: tuple[int, int]
    base_size: tuple[int, int]

    def reduced(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Images uint8 (N, H, W, C) at the base's size, antialiased."""
        small = np.empty((len(pixels), *self.base_size, pixels.shape[3]), np.uint8)
        for target, image in zip(small, pixels, strict=True):
            target[:] = fit_to_size(np.ascontiguousarray(image), self.base_size)
        return small

    def boxes(self, boxes: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        """The base's boxes (N, 2) for images with these boxes: those with the same proportions."""
        return None if boxes is None else boxes_of(boxes, self.base_size)

    def as_the_base_makes_them(
        self, pixels: NDArray[np.uint8], boxes: NDArray[np.int64] | None = None
    ) -> NDArray[np.uint8]:
        """Reduced images with the detail that a base can make: that of their boxes in its frame, if there are any."""
        small, own = self.reduced(pixels), self.boxes(boxes)
        return small if own is None else take_out_of_boxes(put_in_boxes(small, own), own)

    def images(self, images: Images) -> Images:
        """The images that the base is trained on."""
        return replace(images, pixels=self.reduced(images.pixels), boxes=self.boxes(images.boxes))

    def masks(self, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Masks bool (N, H, W) at the base's size: true where a reduced pixel shows something of what they cover.

        Only the outer lobes of bicubic reduction, below a tenth, reach further.
        """
        covered = torch.from_numpy(masks[:, None]).float()
        touched = functional.adaptive_max_pool2d(covered, self.base_size)
        widened = functional.max_pool2d(touched, 3, stride=1, padding=1)
        return np.asarray((widened[:, 0] > 0).numpy())

    def enlarged(self, images: Tensor) -> Tensor:
        """Images float (N, C, h, w) at the full size (N, C, H, W): bicubic, a fixed linear map."""
        return functional.interpolate(images.float(), self.image_size, mode="bicubic", align_corners=False)

    def enlarged_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Images uint8 (N, h, w, C) at the full size."""
        large = self.enlarged(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        return np.asarray(large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy())

    @cached_property
    def noise_gain(self) -> float:
        """Mean variance, over the pixels, of enlarged white noise of variance 1."""
        along = []
        for small, large in zip(self.base_size, self.image_size, strict=True):
            steps = functional.interpolate(
                torch.eye(small)[:, None, :, None].double(), (large, 1), mode="bicubic", align_corners=False
            )
            along.append(float(steps.square().sum(dim=0).mean()))
        return along[0] * along[1]
