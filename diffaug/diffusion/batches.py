"""Training images on the device, how often each is drawn, and the batch of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug import seeding
from diffaug.config import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.denoiser import objective_of
from diffaug.diffusion.normalization import Normalization
from diffaug.diffusion.planning import Plan


@dataclass(frozen=True)
class TrainingData:
    """The training images on the device.

    Attributes:
        pixels: uint8 (N, H, W, C).
        labels: int64 (N,).
        draw_probabilities: float64 (N,), how often each image is drawn.
        normalization: Measured on these images.
    """

    pixels: Tensor
    labels: Tensor
    draw_probabilities: NDArray[np.float64]
    normalization: Normalization

    @classmethod
    def of(cls, images: LabeledImages, settings: DiffusionSettings, device: str, length: int = 0) -> TrainingData:
        """Copies the images to the device once; a batch is then drawn without touching the host's memory.

        Args:
            images: The training images.
            settings: How often each class is drawn.
            device: `cpu` or `cuda`.
            length: Images seen in the whole training, for the cap on repeats; 0 sets none.
        """
        return cls(
            torch.from_numpy(np.array(images.pixels)).to(device),
            torch.from_numpy(images.labels).to(device),
            draw_probabilities(images.labels, settings.class_temperature, settings.max_repeats / max(1, length)),
            Normalization.of(np.asarray(images.pixels)),
        )


class Batch(NamedTuple):
    """What one step learns from; all of one length and on one device.

    Attributes:
        x0: Clean images, normalised float32 (B, C, H, W).
        labels: int64 (B,), some of them the null label.
        sigma: Noise levels float32 (B,).
        noise: Standard normal float32 (B, C, H, W).
    """

    x0: Tensor
    labels: Tensor
    sigma: Tensor
    noise: Tensor


def draw_batch(data: TrainingData, plan: Plan, settings: DiffusionSettings, seed: int, step: int) -> Batch:
    """The batch of a step, which depends on (seed, step) alone, on the data's device."""
    device = data.pixels.device
    draws = seeding.numpy_generator(seed, "batch", step)
    chosen = draws.choice(len(data.labels), size=plan.batch_size, p=data.draw_probabilities)
    hidden = torch.from_numpy(draws.random(plan.batch_size) < settings.label_dropout)
    mirrored = torch.from_numpy(draws.random(plan.batch_size) < 0.5)
    positions = torch.from_numpy(chosen).to(device, non_blocking=True)
    x0 = data.normalization.to_network(data.pixels[positions])
    if settings.horizontal_flip:
        x0 = torch.where(mirrored.to(device)[:, None, None, None], x0.flip(-1), x0)
    labels = data.labels[positions].masked_fill(hidden.to(device), plan.network.null_label)
    randomness = seeding.torch_generator(seed, "noise", step, device=device.type)
    sigma = objective_of(plan.network).draw_sigmas(plan.batch_size, randomness)
    noise = torch.randn(x0.shape, generator=randomness, device=device)
    return Batch(x0, labels, sigma, noise)


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
