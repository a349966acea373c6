"""Training images on the device, how often each is drawn, and the batch of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.network.denoiser import objective_of
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.process import diffuse
from diffaug.diffusion.training.augmentation import augment
from diffaug.diffusion.training.long_tail import draw_other_labels, transfer_targets
from diffaug.runtime import seeding
from diffaug.runtime.devices import free_bytes

MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class TrainingData:
    """The training images on the device, or their pixels beside it where its memory is short.

    Attributes:
        pixels: uint8 (N, H, W, C), on the device or the CPU.
        labels: int64 (N,).
        draw_probabilities: float64 (N,), how often each image is drawn.
        normalization: Measured on these images.
        class_counts: float32 (K,), training images of each class.
    """

    pixels: Tensor
    labels: Tensor
    draw_probabilities: NDArray[np.float64]
    normalization: Normalization
    class_counts: Tensor

    @classmethod
    def of(cls, images: LabeledImages, settings: DiffusionSettings, device: str, length: int = 0) -> TrainingData:
        """Copies the images to the device once; a batch is then drawn without touching the host's memory.

        Pixels that would take more than half of the device's free memory stay on the CPU, and batches are copied.

        Args:
            images: The training images.
            settings: How often each class is drawn.
            device: `cpu` or `cuda`.
            length: Images seen in the whole training, for the cap on repeats; 0 sets none.
        """
        pixels = torch.from_numpy(np.require(images.pixels, requirements=["C", "W"]))
        return cls(
            pixels.to(device) if pixels.nbytes <= MEMORY_SHARE * free_bytes(device) else pixels,
            torch.from_numpy(images.labels).to(device),
            draw_probabilities(images.labels, settings.class_temperature, settings.max_repeats / max(1, length)),
            Normalization.of(np.asarray(images.pixels)),
            torch.from_numpy(images.class_counts).float().to(device),
        )

    @property
    def device(self) -> torch.device:
        """Where batches are wanted."""
        return self.labels.device

    @property
    def is_on_device(self) -> bool:
        """Whether the pixels lie there, too."""
        return self.pixels.device == self.device

    def pixels_at(self, positions: Tensor) -> Tensor:
        """Pixels of images on the device, uint8 (B, H, W, C); positions, int64 (B,) on the CPU, are not waited for."""
        if self.is_on_device:
            return self.pixels[positions.to(self.device, non_blocking=True)]
        return self.pixels[positions].pin_memory().to(self.device, non_blocking=True)


class Batch(NamedTuple):
    """What one step learns from; all of one length and on one device.

    Attributes:
        x0: Clean images, normalised float32 (B, C, H, W).
        target: What the network should answer (B, C, H, W): `x0`, or an image it transfers from.
        labels: int64 (B,), some of them the null label.
        other_labels: int64 (B,), the labels that class balancing compares with.
        sigma: Noise levels float32 (B,).
        noise: Standard normal float32 (B, C, H, W).
        conditions: How the images were augmented, float32 (B, 9).
    """

    x0: Tensor
    target: Tensor
    labels: Tensor
    other_labels: Tensor
    sigma: Tensor
    noise: Tensor
    conditions: Tensor


def draw_batch(data: TrainingData, plan: Plan, settings: DiffusionSettings, seed: int, step: int) -> Batch:
    """The batch of a step, which depends on (seed, step) alone, on the data's device."""
    device = data.device
    draws = seeding.numpy_generator(seed, "batch", step)
    chosen = torch.from_numpy(draws.choice(len(data.labels), size=plan.batch_size, p=data.draw_probabilities))
    hidden = torch.from_numpy(draws.random(plan.batch_size) < settings.label_dropout)
    mirrored = torch.from_numpy(draws.random(plan.batch_size) < 0.5)
    x0 = data.normalization.to_network(data.pixels_at(chosen))
    if settings.horizontal_flip:
        x0 = torch.where(mirrored.to(device, non_blocking=True)[:, None, None, None], x0.flip(-1), x0)
    randomness = seeding.torch_generator(seed, "noise", step, device=device.type)
    sigma = objective_of(plan.network).draw_sigmas(plan.batch_size, randomness)
    noise = torch.randn(x0.shape, generator=randomness, device=device)
    conditions = x0.new_zeros(plan.batch_size, plan.network.conditions)
    if plan.augmentation:
        x0, conditions = augment(
            x0,
            plan.augmentation,
            randomness,
            flips=settings.augmentation_mirrors,
            strength=settings.augmentation_strength,
        )
    true_labels = data.labels[chosen.to(device, non_blocking=True)]
    labels = true_labels.masked_fill(hidden.to(device, non_blocking=True), plan.network.null_label)
    target, other_labels = x0, labels
    if settings.long_tail == "transfer":
        target = transfer_targets(
            diffuse(x0, sigma, noise),
            x0,
            true_labels,
            sigma,
            class_counts=data.class_counts,
            generator=randomness,
            conditions=conditions if plan.augmentation else None,
        )
    elif settings.long_tail == "class balancing":
        other_labels = draw_other_labels(labels, data.class_counts / data.class_counts.sum(), randomness)
    return Batch(x0, target, labels, other_labels, sigma, noise, conditions)


def draw_probabilities(labels: NDArray[np.int64], temperature: float, limit: float) -> NDArray[np.float64]:
    """How often each image is drawn: a class of n images in proportion to n^temperature, within a limit.

    Images of rare classes that are seen too often are learnt by heart, so no image gets more than `limit`, or
    than an equal share where that is more; what is left over goes to the other classes.

    Args:
        labels: int64 (N,).
        temperature: 1 draws every image equally often, 0 every class.
        limit: Largest probability of one image.

    Returns:
        float64 (N,), summing to 1, equal within a class.
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
