"""The batches of the super-resolution network: crops of the training images and their views."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.data.images import LabeledImages
from diffaug.diffusion.cascade.detail import DetailScale, View
from diffaug.diffusion.cascade.reducing import Reduction
from diffaug.diffusion.network.denoiser import objective_of
from diffaug.diffusion.network.local import MAX_LEVEL
from diffaug.diffusion.network.unet import NetworkConfig, padded
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.boxes import ClassBoxes
from diffaug.diffusion.process.ddpm import Ddpm
from diffaug.diffusion.process.edm import Edm
from diffaug.diffusion.process.process import stratified_draws
from diffaug.diffusion.training.batches import Batch, TrainingData, UnlabeledPart
from diffaug.runtime import seeding

CROP_POSITIONS = 24
"""Side of a crop in positions of the network; it sees 10 around each."""


@dataclass(frozen=True)
class Crops:
    """Training images, what the base makes of them at best, and how both are drawn.

    Attributes:
        images: Squeezed to the frame, so without boxes; boxes are the base's concern.
        small: uint8 (N + U, h, w, C), where the images are.
        boxes: Of the N labeled images, (N, 2); None if proportions do not matter.
    """

    images: TrainingData
    small: Tensor
    scale: DetailScale
    boxes: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls, images: LabeledImages, base_size: tuple[int, int], device: str, *, unlabeled: UnlabeledPart | None = None
    ) -> Crops:
        """Copies the images to the device, as `TrainingData.of` does, and reduces them."""
        boxes = images.boxes
        if boxes is not None and unlabeled is not None and unlabeled.images.boxes is not None:
            boxes = np.concatenate([boxes, unlabeled.images.boxes])
        squeezed = replace(images, boxes=None)
        others = unlabeled and replace(unlabeled, images=replace(unlabeled.images, boxes=None))
        data = TrainingData.of(squeezed, device, unlabeled=others)
        height, width = data.pixels.shape[1:3]
        reduction = Reduction((height, width), base_size)
        pixels = data.pixels.cpu().numpy()
        small = reduction.as_the_base_makes_them(pixels, boxes)
        scale = DetailScale.of(pixels, small, reduction, data.normalization)
        return cls(data, torch.from_numpy(small).to(data.pixels.device), scale, images.boxes)

    @property
    def device(self) -> torch.device:
        """Where batches are wanted."""
        return self.images.device

    def class_boxes(self, num_classes: int) -> ClassBoxes | None:
        """The boxes of each class at the full size, or None without boxes."""
        if self.boxes is None:
            return None
        return ClassBoxes.of(self.boxes, self.images.labels[: len(self.boxes)].cpu().numpy(), num_classes)

    def objective(self, network: NetworkConfig) -> Edm | Ddpm:
        """What the network is trained for."""
        return objective_of(network)

    def draw(self, plan: Plan, seed: int, step: int) -> Batch:
        """The batch of a step, which depends on (seed, step) alone, on the device of the images.

        Images are drawn and labels hidden as for any generator. Each image gives one crop, whose corner is a multiple
        of the network's patch, with a noise level of its view from 0 to `MAX_LEVEL`, low ones more often: above the
        deviation of the detail there is more to remove than to add.
        """
        draws = seeding.numpy_generator(seed, "detail batch", step)
        count, network = plan.batch_size, plan.network
        chosen, mirrored, labels = self.images.chosen(plan, draws)
        corners = draws.integers(0, _last_corner(network), size=(count, 2), endpoint=True) * network.patch
        randomness = seeding.torch_generator(seed, "detail noise", step, device=self.device.type)
        large, view = self._views(chosen, mirrored, randomness)
        x0, conditions = (_cropped(one, corners, network) for one in (view.detail(large), view.conditions))
        sigma = self.objective(network).draw_sigmas(count, randomness)
        noise = torch.randn(x0.shape, generator=randomness, device=self.device)
        return Batch(x0, labels, sigma, noise, conditions)

    def _views(self, chosen: Tensor, mirrored: Tensor, randomness: torch.Generator) -> tuple[Tensor, View]:
        """Images (B, C, H, W) and their views, some of both mirrored."""
        flipped, device = mirrored[:, None, None, None].to(self.device), self.device
        large, small = self.images.pixels_at(chosen), replace(self.images, pixels=self.small).pixels_at(chosen)
        large, small = (torch.where(flipped, one.flip(2), one) for one in (large, small))
        levels = MAX_LEVEL * stratified_draws(len(chosen), randomness).square()
        shape = (len(small), small.shape[3], *small.shape[1:3])
        noise = torch.randn(shape, generator=randomness, device=device)
        return self.scale.normalization.to_network(large), self.scale.view(small, levels, noise)


def _last_corner(network: NetworkConfig) -> tuple[int, int]:
    """The lowest and rightmost corner of a crop, in positions."""
    height, width = (max(0, -(-length // network.patch) - CROP_POSITIONS) for length in network.image_size)
    return height, width


def _cropped(images: Tensor, corners: NDArray[np.int64], network: NetworkConfig) -> Tensor:
    """A crop of each image, which goes on as its last pixels do where the network's last patch ends beyond it."""
    whole, side = padded(images, network.patch), CROP_POSITIONS * network.patch
    pairs = zip(whole, corners.tolist(), strict=True)
    return torch.stack([one[:, top : top + side, left : left + side] for one, (top, left) in pairs])
