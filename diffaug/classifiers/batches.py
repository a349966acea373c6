"""The batches that a classifier is trained on: images on the device, drawn at random and shifted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.runtime.seeding import numpy_generator


@dataclass(frozen=True)
class Batches:
    """Random batches of images that lie on the device; what batch k holds depends on (seed, purpose, k) alone.

    Attributes:
        pixels: uint8 (N, H, W, C).
        targets: Classes, int64 (N,), or their probabilities, float32 (N, K).
        weights: float32 (N,), weight of each image in the loss; none: 1.
        cumulative: float64 (N,), chance that an image or one before it is drawn.
        size: Images a batch.
        seed: With `purpose`, decides every batch.
        purpose: Name of the stream of batches.
        horizontal_flip: Mirror half of the images.
    """

    pixels: Tensor
    targets: Tensor
    weights: Tensor | None
    cumulative: NDArray[np.float64]
    size: int
    seed: int
    purpose: str
    horizontal_flip: bool = False

    @classmethod
    def of(
        cls,
        images: LabeledImages,
        *,
        size: int,
        seed: int,
        purpose: str,
        draw_probabilities: NDArray[np.floating] | None = None,
        loss_weights: NDArray[np.floating] | None = None,
        soft_labels: NDArray[np.floating] | None = None,
        horizontal_flip: bool = False,
        device: str = "cpu",
    ) -> Self:
        """Brings images to the device.

        Args:
            images: N images of K classes.
            size: Images a batch.
            seed: With `purpose`, decides every batch.
            purpose: Name of the stream of batches.
            draw_probabilities: (N,), chance of each image in a draw; none: all alike.
            loss_weights: (N,), weight of each image in the loss; none: 1.
            soft_labels: (N, K), class probabilities that replace the labels.
            horizontal_flip: Mirror half of the images at random.
            device: Where to train.

        Raises:
            DataError: There is no image.
        """
        if not len(images):
            raise DataError("there is no image to train a classifier on")
        targets = np.array(images.labels) if soft_labels is None else np.array(soft_labels, np.float32)
        return cls(
            pixels=on_device(np.array(images.pixels), device),
            targets=on_device(targets, device),
            weights=None if loss_weights is None else on_device(np.array(loss_weights, np.float32), device),
            cumulative=cumulative_chances(draw_probabilities, len(images)),
            size=size,
            seed=seed,
            purpose=purpose,
            horizontal_flip=horizontal_flip,
        )

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch `step`: its images, shifted and perhaps mirrored, uint8 (B, H, W, C), and their positions (B,)."""
        random = numpy_generator(self.seed, self.purpose, step)
        drawn = np.searchsorted(self.cumulative, random.random(self.size), side="right")
        positions = on_device(drawn, self.pixels.device)
        pixels = _shifted(self.pixels, positions, random)
        if self.horizontal_flip:
            mirrored = on_device(random.random(self.size) < 0.5, self.pixels.device)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)
        return pixels, positions


def network_input(pixels: Tensor) -> Tensor:
    """uint8 NHWC to float NCHW in [-1, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def on_device(array: NDArray[Any], device: torch.device | str) -> Tensor:
    """An array as a tensor on `device`, without waiting for what the device is computing."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def cumulative_chances(probabilities: NDArray[np.floating] | None, count: int) -> NDArray[np.float64]:
    """Chance that one of the first n of `count` images is drawn, (count,); none: all images alike."""
    cumulative = np.cumsum(np.ones(count) if probabilities is None else probabilities, dtype=np.float64)
    return np.asarray(cumulative / cumulative[-1])


def _shifted(pixels: Tensor, batch: Tensor, random: np.random.Generator) -> Tensor:
    """The batch, each image shifted by up to an eighth of its size; borders are reflected."""
    rows, columns = (
        _shifted_positions(size, len(batch), random).to(pixels.device, non_blocking=True)
        for size in (pixels.shape[1], pixels.shape[2])
    )
    return pixels[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


def _shifted_positions(size: int, count: int, random: np.random.Generator) -> Tensor:
    reach = max(1, size // 8)
    positions = np.arange(size) + random.integers(-reach, reach, endpoint=True, size=(count, 1))
    return torch.from_numpy(size - 1 - np.abs(size - 1 - np.abs(positions)))
