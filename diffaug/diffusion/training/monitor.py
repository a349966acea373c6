"""Watches a training for the point from which the generator copies its training images.

A generator first learns what images of a class look like and only later, after a number of images seen that grows
with the training set, the single images (Bonnaire et al. 2025, arXiv 2505.17638; Favero et al. 2025, arXiv
2505.16959). Two signs are measured: the share of samples that are copies, which decides, and by how much
the denoising error of images never trained on exceeds that of trained ones, which is reported.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.process import diffuse, karras_sigmas, precondition
from diffaug.diffusion.sampling.guidance import conditional
from diffaug.diffusion.sampling.samplers import integrate
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.holdout import SMALLEST_CLASS, Holdout
from diffaug.runtime import seeding
from diffaug.similarity.copies import GENERATED
from diffaug.similarity.distances import FEATURE_SIZE
from diffaug.similarity.ratios import Share, copies_among, neighbour_ratios

SIGMAS = tuple(float(sigma) for sigma in np.geomspace(0.05, 5.0, 8).round(3))
SAMPLES = 64
SAMPLING_STEPS = 12
COPY_LIMIT = 0.05
CHUNK = 64
FIRST_POINT = 0.2
MIN_POINTS, MAX_POINTS = 3, 17
MANY_VIEWS, ENOUGH_IMAGES = 100, 20_000
MIN_PAIRS, MAX_PAIRS = 32, 256
PASSES_PER_TRAINED_IMAGE = 3


@dataclass(frozen=True)
class Schedule:
    """When to look and how closely.

    Attributes:
        steps: Steps of the training after which to look, rising; the last one ends it. Empty: no watch.
        pairs: Held-out images, and as many trained ones, whose denoising errors are compared.
    """

    steps: tuple[int, ...] = ()
    pairs: int = 0


@dataclass(frozen=True)
class Look:
    """What was seen at one watch point.

    Attributes:
        step: Steps done.
        copies: Among samples of the classes that decide: those of at least 20 images, or all where there are none.
        real: The same for real images of these classes; duplicates in the data are not the generator's fault.
        by_class: Copies among the samples of each class, in class order.
        loss_gaps: For each of `SIGMAS`, by how much the denoising error of held-out images exceeds that of
            trained ones, 0.1 being 10 %; empty where nothing was held out.
        seconds: What looking took.
    """

    step: int
    copies: Share
    real: Share
    by_class: tuple[Share, ...]
    loss_gaps: tuple[float, ...]
    seconds: float

    @property
    def copying(self) -> bool:
        """Whether copying has set in: the share is surely above that of real images by more than 5 %."""
        return self._is_copied(self.copies)

    @property
    def copied_classes(self) -> tuple[int, ...]:
        """The classes of which that is true, small ones included."""
        return tuple(label for label, share in enumerate(self.by_class) if self._is_copied(share))

    @property
    def loss_gap(self) -> float | None:
        """Mean over the noise levels."""
        return sum(self.loss_gaps) / len(self.loss_gaps) if self.loss_gaps else None

    def _is_copied(self, share: Share) -> bool:
        return share.interval[0] > self.real.value + COPY_LIMIT


def schedule_of(plan: Plan, settings: DiffusionSettings, num_images: int) -> Schedule:
    """Watch points from 20 % of the steps to the end, a function of plan, settings and images alone.

    As many of them, at most 17 (every 5 %), and as many compared images as the share of the training time allows;
    passing an image through the network costs a third of training on it. A training that sees each image a hundred
    times may copy however short it is, so it gets three points; others get one, at the end, from 20,000 images on.

    Args:
        plan: The training.
        settings: The share of the time; 0 means no watch.
        num_images: Number of training images.
    """
    if not settings.copy_check_fraction:
        return Schedule()
    passes = settings.copy_check_fraction * PASSES_PER_TRAINED_IMAGE * plan.images
    sampling, pair = SAMPLES * SAMPLING_STEPS, 2 * len(SIGMAS)
    pairs = min(MAX_PAIRS, max(MIN_PAIRS, int((passes / MAX_POINTS - sampling) / pair)))
    least = int(plan.images >= ENOUGH_IMAGES)
    if plan.images >= MANY_VIEWS * num_images:
        least = MIN_POINTS
    points = max(least, min(MAX_POINTS, int(passes / (sampling + pairs * pair))))
    if not points:
        return Schedule()
    shares = np.linspace(FIRST_POINT, 1, points) if points > 1 else [1.0]
    return Schedule(tuple(sorted({max(1, round(plan.steps * share)) for share in shares})), pairs)


@dataclass(frozen=True)
class Watch:
    """Everything that looking at a generator needs, on the device of the training data.

    Attributes:
        data: The images being trained on.
        seed: Of the whole training; noise and classes at a step depend on (seed, step) alone.
        counts: Images of each class, int64 (K,), held-out ones included.
        features: Of the trained images, mirrored ones too where these are trained on, (N, F).
        groups: int64 (N,), see `neighbour_ratios`.
        held: Held-out images to compare, as (uint8 (P, H, W, C), int64 (P,)).
        matched: As many trained images of the same classes.
        real: Copies among real images of the deciding classes.
        precision: `float32`, or `bfloat16` as the training.
    """

    data: TrainingData
    seed: int
    counts: NDArray[np.int64]
    features: Tensor
    groups: Tensor
    held: tuple[Tensor, Tensor]
    matched: tuple[Tensor, Tensor]
    real: Share
    precision: str = "float32"

    @classmethod
    def of(
        cls,
        data: TrainingData,
        holdout: Holdout,
        schedule: Schedule,
        seed: int,
        *,
        mirrored: bool,
        precision: str = "float32",
    ) -> Watch:
        """Prepares the watch.

        Args:
            data: The images of `holdout.trained` on the device.
            holdout: What is trained on and what is not.
            schedule: How many images to compare.
            seed: Seed of the whole training.
            mirrored: Whether mirrored images are trained on too.
            precision: As in the plan.
        """
        device = data.device
        counts = holdout.trained.class_counts + holdout.held.class_counts
        own = torch.from_numpy(holdout.groups).to(device)
        features = [_features(data, data.pixels)]
        if mirrored:
            features.append(_features(data, data.pixels, mirrored=True))
        references, groups = torch.cat(features), own.repeat(len(features))
        draws = seeding.numpy_generator(seed, "watched images")
        held = draws.permutation(len(holdout.held))[: schedule.pairs]
        matched = _matching(holdout.held.labels[held], holdout.trained.labels, draws)
        deciding = np.flatnonzero(np.isin(holdout.trained.labels, _deciding(counts)))
        positions = torch.from_numpy(draws.permutation(deciding)[:MAX_PAIRS]).to(device)
        left_out = _on(device, holdout.held, np.arange(len(holdout.held)))[0]
        queries = torch.cat([features[0][positions], _features(data, left_out)])
        query_groups = torch.cat([own[positions], own.new_full((len(left_out),), GENERATED)])
        real = copies_among(neighbour_ratios(queries, query_groups, references, groups))
        pairs = _on(device, holdout.held, held), _on(device, holdout.trained, matched)
        return cls(data, seed, counts, references, groups, *pairs, real, precision)

    @torch.no_grad()
    def look(self, denoiser: nn.Module, step: int) -> Look:
        """Samples and denoises with a network in evaluation mode, (x, sigma (N,), labels (N,)) -> `Moments`."""
        began = time.perf_counter()
        kind = self.data.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bfloat16"):
            labels = self._labels(step)
            samples = self._sample(denoiser, labels, step)
            gaps = self._gaps(denoiser)
        ratios = neighbour_ratios(
            _features(self.data, samples), labels.new_full((len(labels),), GENERATED), self.features, self.groups
        ).cpu()
        labels = labels.cpu()
        deciding = torch.isin(labels, torch.from_numpy(_deciding(self.counts)))
        by_class = tuple(copies_among(ratios[labels == label]) for label in range(len(self.counts)))
        return Look(step, copies_among(ratios[deciding]), self.real, by_class, gaps, time.perf_counter() - began)

    def _labels(self, step: int) -> Tensor:
        """Classes that have images, equally often; where there are more than samples, others at each step."""
        present = np.flatnonzero(self.counts)
        order = seeding.numpy_generator(self.seed, "watched classes", step).permutation(present)
        return torch.from_numpy(np.resize(order, SAMPLES)).to(self.data.device)

    def _sample(self, denoiser: nn.Module, labels: Tensor, step: int) -> Tensor:
        """Samples of these labels, uint8 (N, H, W, C)."""
        noise = self._noise(len(labels), "watch samples", step)
        sigmas = karras_sigmas(SAMPLING_STEPS)
        images = integrate(conditional(denoiser, labels), noise * float(sigmas[0]), sigmas)
        return torch.from_numpy(self.data.normalization.to_pixels(images)).to(labels.device)

    def _gaps(self, denoiser: nn.Module) -> tuple[float, ...]:
        if not len(self.held[1]):
            return ()
        held, trained = (self._errors(denoiser, *images) for images in (self.held, self.matched))
        return tuple((held / trained - 1).tolist())

    def _errors(self, denoiser: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        """EDM's weighted denoising error at each of `SIGMAS`, (S,), on the same noise at every look."""
        x0 = self.data.normalization.to_network(pixels)
        noise = self._noise(len(x0), "watch noise")
        errors = []
        for level in SIGMAS:
            total = x0.new_zeros(())
            for part in zip(*(torch.split(column, CHUNK) for column in (x0, labels, noise)), strict=True):
                clean, chosen, drawn = part
                sigma = clean.new_full((len(clean),), level)
                mean = denoiser(diffuse(clean, sigma, drawn), sigma, chosen).mean
                total += (mean - clean).square().sum()
            errors.append(total / x0.numel() / precondition(x0.new_tensor(level)).c_out.square())
        return torch.stack(errors)

    def _noise(self, count: int, purpose: str, *index: int) -> Tensor:
        _, height, width, channels = self.data.pixels.shape
        drawn = seeding.torch_generator(self.seed, purpose, *index)
        return torch.randn(count, channels, height, width, generator=drawn).to(self.data.device)


def _features(data: TrainingData, pixels: Tensor, *, mirrored: bool = False) -> Tensor:
    """uint8 (N, H, W, C), normalised and averaged down to at most 16 x 16 px, to (N, F) on the device."""
    height, width = (min(FEATURE_SIZE, length) for length in pixels.shape[1:3])
    parts = []
    for part in torch.split(pixels, 1024):
        images = data.normalization.to_network(part.to(data.device))
        parts.append(adaptive_avg_pool2d(images.flip(-1) if mirrored else images, (height, width)).flatten(1))
    return torch.cat(parts)


def _deciding(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Images of a few are soon repeated hundreds of times and copied; that alone is no reason to end a training."""
    large = np.flatnonzero(counts >= SMALLEST_CLASS)
    return large if len(large) else np.flatnonzero(counts)


def _matching(wanted: NDArray[np.int64], labels: NDArray[np.int64], draws: np.random.Generator) -> NDArray[np.int64]:
    """For each wanted label the position of an image with it, different ones while there are enough."""
    chosen = np.empty(len(wanted), dtype=np.int64)
    for label in np.unique(wanted):
        own = wanted == label
        chosen[own] = np.resize(draws.permutation(np.flatnonzero(labels == label)), own.sum())
    return chosen


def _on(device: torch.device, images: LabeledImages, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    part = images.select(positions)
    return torch.from_numpy(np.array(part.pixels)).to(device), torch.from_numpy(part.labels).to(device)
