"""The training images: which are held out, how often the others are drawn, and the batch of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.data.splits import choose_holdout
from diffaug.diffusion.network.denoiser import objective_of
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.boxes import ClassBoxes, box_masks, put_in_boxes
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.training.augmentation import augment
from diffaug.runtime import seeding
from diffaug.runtime.devices import free_bytes

SMALLEST_CLASS = 20
MAX_MEMORY_FRACTION = 0.5


@dataclass(frozen=True)
class Holdout:
    """The train split in two parts; trained images of one group or of equal pixels share a number."""

    trained: LabeledImages
    held: LabeledImages
    groups: NDArray[np.int64]


def hold_out(catalog: Catalog, *, fraction: float, seed: int) -> Holdout:
    """Holds out a fraction of each class of at least 20 images; groups stay whole."""
    images, groups = catalog.images("train"), catalog.groups("train")
    held = choose_holdout(catalog.rows("train"), groups, fraction=fraction, smallest=SMALLEST_CLASS, seed=seed)
    return Holdout(images.select(np.flatnonzero(~held)), images.select(np.flatnonzero(held)), groups[~held])


@dataclass(frozen=True)
class TrainingData:
    """The training images, uint8 (N, H, W, C), on the device, or beside it where its memory is short.

    With boxes, int64 (N, 2) on the device, each image has its own proportions inside its box, see `put_in_boxes`.
    """

    pixels: Tensor
    labels: Tensor
    draw_probabilities: NDArray[np.float64]
    normalization: Normalization
    boxes: Tensor | None = None

    @classmethod
    def of(cls, images: LabeledImages, device: str, images_seen: int = 0) -> TrainingData:
        """Copies the images to the device once, so that a batch is drawn without touching the host's memory.

        Pixels that would take more than half of the device's free memory stay on the CPU, and batches are copied.
        The length of the training, `images_seen`, limits repeats; 0 sets no limit.
        """
        limit = defaults.MAX_REPEATS_PER_IMAGE / max(1, images_seen)
        squeezed, boxes = np.require(images.pixels, requirements=["C", "W"]), images.boxes
        pixels = torch.from_numpy(squeezed if boxes is None else put_in_boxes(squeezed, boxes))
        return cls(
            pixels.to(device) if pixels.nbytes <= MAX_MEMORY_FRACTION * free_bytes(device) else pixels,
            torch.from_numpy(images.labels).to(device),
            draw_probabilities(images.labels, defaults.CLASS_TEMPERATURE, limit),
            Normalization.of(np.asarray(images.pixels)),
            None if boxes is None else torch.from_numpy(boxes).to(device),
        )

    @property
    def device(self) -> torch.device:
        """Where batches are wanted."""
        return self.labels.device

    @property
    def is_on_device(self) -> bool:
        """Whether the pixels lie there, too."""
        return self.pixels.device == self.device

    def class_boxes(self, num_classes: int) -> ClassBoxes | None:
        """The boxes of each class, or None without boxes."""
        if self.boxes is None:
            return None
        return ClassBoxes.of(self.boxes.cpu().numpy(), self.labels.cpu().numpy(), num_classes)

    def pixels_at(self, positions: Tensor) -> Tensor:
        """Pixels uint8 (B, H, W, C) of positions int64 (B,) on the CPU, without waiting for the device."""
        if self.is_on_device:
            return self.pixels[positions.to(self.device, non_blocking=True)]
        return self.pixels[positions].pin_memory().to(self.device, non_blocking=True)


class Batch(NamedTuple):
    """The input of one step, all on one device: images and noise (B, C, H, W), labels and noise levels (B,).

    Attributes:
        x0: Clean images, normalized.
        labels: Some of them the null label.
        conditions: How the images were augmented, float32 (B, 9).
        masks: Which pixels are inside of the boxes, bool (B, 1, H, W). Outside, images and noise are zero. None: all.
    """

    x0: Tensor
    labels: Tensor
    sigma: Tensor
    noise: Tensor
    conditions: Tensor
    masks: Tensor | None = None

    def part(self, images: slice) -> Batch:
        """Some of the images."""
        return Batch(*(None if column is None else column[images] for column in self))  # type: ignore[arg-type]

    def split(self, parts: int) -> list[Batch]:
        """Nearly equal parts, in order; see `torch.tensor_split`."""
        columns = ([None] * parts if column is None else column.tensor_split(parts) for column in self)
        return [Batch(*part) for part in zip(*columns, strict=True)]


def draw_batch(data: TrainingData, plan: Plan, seed: int, step: int) -> Batch:
    """The batch of a step, which depends on (seed, step) alone, on the data's device."""
    device = data.device
    draws = seeding.numpy_generator(seed, "batch", step)
    chosen = torch.from_numpy(draws.choice(len(data.labels), size=plan.batch_size, p=data.draw_probabilities))
    hidden = torch.from_numpy(draws.random(plan.batch_size) < defaults.LABEL_DROPOUT)
    mirrored = torch.from_numpy(draws.random(plan.batch_size) < 0.5)
    x0 = data.normalization.to_network(data.pixels_at(chosen))
    if plan.horizontal_flip:
        x0 = torch.where(mirrored.to(device, non_blocking=True)[:, None, None, None], x0.flip(-1), x0)
    randomness = seeding.torch_generator(seed, "noise", step, device=device.type)
    sigma = objective_of(plan.network).draw_sigmas(plan.batch_size, randomness)
    noise = torch.randn(x0.shape, generator=randomness, device=device)
    conditions = x0.new_zeros(plan.batch_size, plan.network.conditions)
    boxes = None if data.boxes is None else data.boxes[chosen.to(device, non_blocking=True)]
    if plan.augmentation:
        flips, strength = defaults.AUGMENTATION_MIRRORS, defaults.AUGMENTATION_STRENGTH
        x0, conditions = augment(x0, plan.augmentation, randomness, flips=flips, strength=strength, boxes=boxes)
    labels = data.labels[chosen.to(device, non_blocking=True)]
    labels = labels.masked_fill(hidden.to(device, non_blocking=True), plan.network.null_label)
    if boxes is None:
        return Batch(x0, labels, sigma, noise, conditions)
    masks = box_masks(boxes, plan.network.image_size)
    return Batch(x0 * masks, labels, sigma, noise * masks, conditions, masks)


def draw_probabilities(labels: NDArray[np.int64], temperature: float, limit: float) -> NDArray[np.float64]:
    """How often each image is drawn, float64 (N,): a class of n images in proportion to n^temperature, within a limit.

    Images of rare classes that are seen too often are memorized. So no image gets more than `limit`, or an equal
    share if that is more. What is left over goes to the other classes.
    """
    counts = np.bincount(labels).astype(np.float64)
    weights = counts[labels] ** (temperature - 1)
    limit = max(limit, 1 / len(labels))
    capped = np.zeros(len(labels), dtype=bool)
    while True:
        share = weights * (1 - limit * capped.sum()) / weights[~capped].sum() if not capped.all() else weights
        probabilities = np.where(capped, limit, share)
        too_often = probabilities > limit * (1 + 1e-9)
        if not too_often.any():
            return np.asarray(probabilities / probabilities.sum(), dtype=np.float64)
        capped |= too_often
