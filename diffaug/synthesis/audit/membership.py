"""Membership inference: can the denoising error separate trained from held-out images?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.diffusion.process.boxes import image_mean
from diffaug.diffusion.process.process import Moments, diffuse
from diffaug.diffusion.training.monitor import SIGMAS
from diffaug.runtime.seeding import numpy_generator, torch_generator
from diffaug.similarity.intervals import Estimate, wilson_interval

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]
Denoise = Callable[[Tensor, Tensor, Tensor], Moments]

NOISES, SMALLEST = 2, 1e-12
MAX_HELD_OUT, TRAINED_PER_HELD_OUT = 128, 2
CHUNK = 64


def pair(held: Labels, trained: Labels, *, seed: int) -> tuple[Labels, Labels]:
    """Positions of at most 128 held-out images and, for each, of one or two trained ones of its class."""
    draws = numpy_generator(seed, "membership pairs")
    chosen = draws.permutation(len(held))[:MAX_HELD_OUT]
    pairs = []
    for index in np.unique(held[chosen]):
        own, others = chosen[held[chosen] == index], draws.permutation(np.flatnonzero(trained == index))
        own = own[: len(others)]
        pairs.append((own, others[: TRAINED_PER_HELD_OUT * len(own)]))
    none = np.empty(0, np.int64)
    return np.concatenate([none, *(own for own, _ in pairs)]), np.concatenate([none, *(chosen for _, chosen in pairs)])


@torch.no_grad()
def denoising_errors(
    denoise: Denoise, images: Tensor, labels: Tensor, *, seed: int, masks: Tensor | None = None
) -> NDArray[np.float64]:
    """Logarithm of the mean squared denoising error of each image, averaged over 8 noise levels, (N,).

    The two draws of noise are the same for all images, so that only the images differ; these are normalized,
    (N, C, H, W). `denoise` maps (x, sigma, labels) to moments. With masks, bool (N, 1, H, W), only the pixels inside
    are seen and count.
    """
    drawn = torch_generator(seed, "membership noise")
    noises = torch.randn(NOISES, *images.shape[1:], generator=drawn).to(images.device)
    parts = []
    for chosen in torch.split(torch.arange(len(labels), device=labels.device), CHUNK):
        own = None if masks is None else masks[chosen]
        errors = partial(_log_errors, denoise, images[chosen], labels[chosen], noises=noises, masks=own)
        parts.append(torch.stack([errors(level) for level in SIGMAS]).mean(dim=0))
    return torch.cat(parts).double().cpu().numpy() if len(labels) else np.empty(0)


def _log_errors(
    denoise: Denoise, images: Tensor, labels: Tensor, level: float, *, noises: Tensor, masks: Tensor | None
) -> Tensor:
    sigma = images.new_full((len(images),), level)
    errors = []
    for noise in noises:
        x = diffuse(images, sigma, noise.expand_as(images))
        mean = denoise(x if masks is None else x * masks, sigma, labels).mean
        errors.append(image_mean((mean - images).square(), masks))
    return torch.stack(errors).mean(dim=0).clamp_min(SMALLEST).log()


@dataclass(frozen=True)
class MembershipErrors:
    """Denoising errors of the held-out and trained images that `pair` chose, with their classes."""

    held: Floats
    held_labels: Labels
    trained: Floats
    trained_labels: Labels

    def score(self, index: int | None = None) -> Estimate | None:
        """Area under the ROC curve of telling held-out from trained images by their error; `index`: of one class.

        It is the probability that a held-out image has the larger error, in pairs of one class; 0.5 is chance. Its
        variance is at most A (1 - A) / H for H held-out images and at least as many trained ones (Birnbaum and Klose
        1957), which is that of a fraction of H: hence Wilson's interval, which is conservative.
        """
        shares = [
            (np.mean(self.trained[own] < error) + np.mean(self.trained[own] <= error)) / 2
            for error, label in zip(self.held, self.held_labels, strict=True)
            if index in (None, label) and (own := self.trained_labels == label).any()
        ]
        if not shares:
            return None
        area = float(np.mean(shares))
        return Estimate(area, *wilson_interval(area, len(shares)))
