"""Training batches of classifiers: images on the device, drawn at random and shifted."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.classifiers.training_set import TrainingRecipe, TrainingSet
from diffaug.errors import DataError
from diffaug.runtime.seeding import numpy_generator

IMAGES_AT_ONCE = 256


class Batches:
    """Random batches of a training set, at least one image, on the device; batch k depends on (seed, purpose, k) alone.

    Attributes:
        targets: Classes, int64 (N,), or with MixUp their probabilities, float32 (N, K).
        weights: float32 (N,), weight of each image in the loss. None: 1.
    """

    def __init__(
        self, training: TrainingSet, recipe: TrainingRecipe, *, seed: int, purpose: str, device: str = "cpu"
    ) -> None:
        images, weights = training.images, training.loss_weights
        if not len(images):
            raise DataError("there is no image to train a classifier on")
        targets = training.soft_labels if training.augmentation.mixup else np.array(images.labels)
        self.pixels = on_device(np.array(images.pixels), device)
        self.targets = on_device(targets, device)
        self.weights = None if weights is None else on_device(np.array(weights, np.float32), device)
        self.cumulative = training.cumulative
        self.recipe, self.seed, self.purpose = recipe, seed, purpose

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch `step`: its images, shifted and perhaps mirrored, uint8 (B, H, W, C), and their positions (B,)."""
        random, size = numpy_generator(self.seed, self.purpose, step), self.recipe.batch_size
        drawn = np.searchsorted(self.cumulative, random.random(size), side="right")
        positions = on_device(drawn, self.pixels.device)
        pixels = _shifted(self.pixels, positions, random)
        if self.recipe.horizontal_flip:
            mirrored = on_device(random.random(size) < 0.5, self.pixels.device)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)
        return pixels, positions


def network_input(pixels: Tensor) -> Tensor:
    """uint8 NHWC to float NCHW in [-1, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def network_inputs(pixels: NDArray[np.uint8], device: str) -> Iterator[Tensor]:
    """Batches of uint8 (N, H, W, C) in order, as `network_input`; one empty batch if there is no image."""
    for start in range(0, max(1, len(pixels)), IMAGES_AT_ONCE):
        yield network_input(torch.from_numpy(np.array(pixels[start : start + IMAGES_AT_ONCE])).to(device))


def on_device(array: NDArray[Any], device: torch.device | str) -> Tensor:
    """An array as a tensor on `device`, copied asynchronously."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def _shifted(pixels: Tensor, batch: Tensor, random: np.random.Generator) -> Tensor:
    """The batch, each image shifted by up to an eighth of its size, with reflected borders."""
    _, height, width, _ = pixels.shape
    rows, columns = (on_device(_shifted_positions(size, len(batch), random), pixels.device) for size in (height, width))
    return pixels[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


def _shifted_positions(size: int, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    reach = max(1, size // 8)
    positions = np.arange(size) + random.integers(-reach, reach, endpoint=True, size=(count, 1))
    return np.asarray(size - 1 - np.abs(size - 1 - np.abs(positions)))
