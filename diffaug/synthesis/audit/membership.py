"""Whether the denoising error tells which images a generator was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.diffusion.process.process import Moments, diffuse
from diffaug.diffusion.training.monitor import SIGMAS
from diffaug.runtime.seeding import numpy_generator, torch_generator
from diffaug.similarity.intervals import Estimate
from diffaug.similarity.ratios import wilson_interval

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]
Denoise = Callable[[Tensor, Tensor, Tensor], Moments]

NOISES = 2
MAX_HELD_OUT = 128
TRAINED_PER_HELD_OUT = 2
CHUNK = 64
SMALLEST = 1e-12


class Pairing(NamedTuple):
    """Positions of held-out images and of trained ones of the same classes, int64."""

    held: Labels
    trained: Labels


def pair(held: Labels, trained: Labels, *, seed: int) -> Pairing:
    """Chooses at most 128 held-out images and, for each, up to two trained ones of its class, never fewer than one.

    Args:
        held: Classes of the held-out images.
        trained: Classes of the trained images.
        seed: Decides which.
    """
    draws = numpy_generator(seed, "membership pairs")
    chosen = draws.permutation(len(held))[:MAX_HELD_OUT]
    pairs = []
    for index in np.unique(held[chosen]):
        own, others = chosen[held[chosen] == index], draws.permutation(np.flatnonzero(trained == index))
        own = own[: len(others)]
        pairs.append((own, others[: TRAINED_PER_HELD_OUT * len(own)]))
    columns = zip(*pairs, strict=True) if pairs else ([np.empty(0)], [np.empty(0)])
    return Pairing(*(np.concatenate(column).astype(np.int64) for column in columns))


@torch.no_grad()
def denoising_errors(denoise: Denoise, images: Tensor, labels: Tensor, *, seed: int) -> NDArray[np.float64]:
    """How badly each image is denoised: the logarithm of the mean squared error, averaged over 8 noise levels.

    Two draws of noise, the same for every image, so that images differ by themselves alone.

    Args:
        denoise: Maps (x, sigma (N,), labels (N,)) to moments.
        images: Normalised, (N, C, H, W).
        labels: int64 (N,).
        seed: Of the noise.

    Returns:
        (N,).
    """
    drawn = torch_generator(seed, "membership noise")
    noises = torch.randn(NOISES, *images.shape[1:], generator=drawn).to(images.device)
    parts = [
        torch.stack([_log_errors(denoise, *part, level, noises) for level in SIGMAS]).mean(dim=0)
        for part in zip(torch.split(images, CHUNK), torch.split(labels, CHUNK), strict=True)
    ]
    return torch.cat(parts).double().cpu().numpy() if len(labels) else np.empty(0)


def _log_errors(denoise: Denoise, images: Tensor, labels: Tensor, level: float, noises: Tensor) -> Tensor:
    sigma = images.new_full((len(images),), level)
    errors = [
        (denoise(diffuse(images, sigma, noise.expand_as(images)), sigma, labels).mean - images).square().mean((1, 2, 3))
        for noise in noises
    ]
    return torch.stack(errors).mean(dim=0).clamp_min(SMALLEST).log()


@dataclass(frozen=True)
class MembershipErrors:
    """Denoising errors of held-out and of trained images, with their classes; what `pair` chose."""

    held: Floats
    held_labels: Labels
    trained: Floats
    trained_labels: Labels

    def score(self, index: int | None = None) -> Estimate | None:
        """How well the error separates held-out from trained images of the same class.

        The area under the ROC curve: how often a held-out image has the larger error, in pairs of one class; 0.5 is
        chance. Its variance is at most A (1 - A) / H for H held-out images and as many or more trained ones (Birnbaum
        and Klose 1957), which is that of a share of H: hence Wilson's interval, which errs on the wide side.

        Args:
            index: One class; none: all.

        Returns:
            None where no image was held out.
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
