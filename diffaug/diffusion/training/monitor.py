"""Monitors a training for memorization: the point from which the generator copies its training images.

A generator learns single images only after a number of images seen that grows with the training set (Bonnaire et al.
2025, arXiv 2505.17638; Favero et al. 2025, arXiv 2505.16959). The fraction of samples that are copies decides. By how
much the denoising error of images never trained on exceeds that of trained ones is only reported.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from diffaug.configuration.sampling import DEFAULT_SAMPLING
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.boxes import ClassBoxes, image_mean
from diffaug.diffusion.process.process import MEASURED_SIGMAS, diffuse, karras_sigmas, precondition
from diffaug.diffusion.sampling.framing import Framing
from diffaug.diffusion.sampling.guidance import conditional
from diffaug.diffusion.sampling.samplers import integrate
from diffaug.diffusion.training.batches import SMALLEST_CLASS, Holdout, TrainingData
from diffaug.runtime import seeding
from diffaug.similarity.copies import GENERATED
from diffaug.similarity.distances import FEATURE_SIZE, copies_among, neighbor_ratios
from diffaug.similarity.intervals import Share
from diffaug.similarity.thresholds import COPY_LIMIT

NUM_SAMPLES = 64
CHUNK_IMAGES = 64
FIRST_CHECK = 0.2
MIN_CHECKS, MAX_CHECKS = 3, 17
MANY_VIEWS, ENOUGH_IMAGES_SEEN = 100, 20_000
MIN_PAIRS, MAX_PAIRS = 32, 256
PASSES_PER_TRAINED_IMAGE = 3


@dataclass(frozen=True)
class CheckSchedule:
    """When to check for copies and how closely.

    Attributes:
        steps: Steps of the training after which to check, rising. The last one ends it. Empty: never.
        pairs: Held-out images, and as many trained ones, whose denoising errors are compared.
    """

    steps: tuple[int, ...] = ()
    pairs: int = 0

    @classmethod
    def of(cls, plan: Plan, num_images: int) -> CheckSchedule:
        """Checks from 20 % of the steps to the end, a function of plan and number of training images alone.

        There are as many checks, at most 17 (every 5 %), and as many compared images as fit into
        `defaults.COPY_CHECK_FRACTION` of the training time. A training that sees each image a hundred times may copy
        however short it is, so it gets three checks. Others get one, at the end, from 20,000 images seen on.
        """
        if not defaults.COPY_CHECK_FRACTION:
            return cls()
        passes = defaults.COPY_CHECK_FRACTION * PASSES_PER_TRAINED_IMAGE * plan.images_seen
        sampling, pair = NUM_SAMPLES * DEFAULT_SAMPLING.num_inference_steps, 2 * len(MEASURED_SIGMAS)
        pairs = min(MAX_PAIRS, max(MIN_PAIRS, int((passes / MAX_CHECKS - sampling) / pair)))
        least = int(plan.images_seen >= ENOUGH_IMAGES_SEEN)
        if plan.images_seen >= MANY_VIEWS * num_images:
            least = MIN_CHECKS
        checks = max(least, min(MAX_CHECKS, int(passes / (sampling + pairs * pair))))
        if not checks:
            return cls()
        fractions = np.linspace(FIRST_CHECK, 1, checks) if checks > 1 else [1.0]
        return cls(tuple(sorted({max(1, round(plan.steps * fraction)) for fraction in fractions})), pairs)


@dataclass(frozen=True)
class CopyCheck:
    """The result of one check.

    Attributes:
        copies: Among samples of the classes that decide: those of at least 20 images, or all if there are none.
        real: The same for real images of these classes. Duplicates in the data are not the generator's fault.
        by_class: Copies among the samples of each class, in class order.
        loss_gaps: For each of `MEASURED_SIGMAS`, by how much the denoising error of held-out images exceeds that of
            trained ones, 0.1 being 10 %. Empty if nothing was held out.
        held_errors: Denoising error of each held-out image that is compared, mean over the noise levels.
    """

    step: int
    copies: Share
    real: Share
    by_class: tuple[Share, ...]
    loss_gaps: tuple[float, ...]
    seconds: float
    held_errors: tuple[float, ...] = ()

    @property
    def copying(self) -> bool:
        """Whether the fraction of copies significantly exceeds that of real images plus 5 %."""
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


@dataclass(frozen=True)
class MemorizationMonitor:
    """Everything that checking a generator needs, on the device of the training data.

    Attributes:
        counts: Images of each class, int64 (K,), held-out ones included.
        features: Of the trained images, mirrored ones too if these are trained on, (N, F).
        groups: int64 (N,), see `neighbor_ratios`.
        held: Held-out images to compare.
        matched: As many trained images of the same classes.
        real: Copies among real images of the deciding classes.
        boxes: Of the trained images, if each has its own proportions.
        noise_scale: Of the network, see `noise_scale_of`.
    """

    data: TrainingData
    seed: int
    counts: NDArray[np.int64]
    features: Tensor
    groups: Tensor
    held: LabeledImages
    matched: LabeledImages
    real: Share
    precision: str = "float32"
    boxes: ClassBoxes | None = None
    noise_scale: float = 1.0

    @classmethod
    def of(
        cls,
        data: TrainingData,
        holdout: Holdout,
        pairs: int,
        seed: int,
        *,
        mirrored: bool,
        precision: str = "float32",
        noise_scale: float = 1.0,
    ) -> MemorizationMonitor:
        """Prepares the monitor; `pairs` held-out images are compared in each check."""
        device = data.device
        counts = holdout.trained.class_counts + holdout.held.class_counts
        own = torch.from_numpy(holdout.groups).to(device)
        features = [_features(data, holdout.pixels)]
        if mirrored:
            features.append(_features(data, holdout.pixels, mirrored=True))
        references, groups = torch.cat(features), own.repeat(len(features))
        draws = seeding.numpy_generator(seed, "watched images")
        held = draws.permutation(len(holdout.held))[:pairs]
        matched = _matching(holdout.held.labels[held], holdout.trained.labels, draws)
        deciding = np.flatnonzero(np.isin(holdout.trained.labels, _deciding(counts)))
        positions = torch.from_numpy(draws.permutation(deciding)[:MAX_PAIRS]).to(device)
        queries = torch.cat([features[0][positions], _features(data, holdout.held.pixels)])
        query_groups = torch.cat([own[positions], own.new_full((len(holdout.held),), GENERATED)])
        real = copies_among(neighbor_ratios(queries, query_groups, references, groups))
        images, boxes = (holdout.held.select(held), holdout.trained.select(matched)), data.class_boxes(len(counts))
        return cls(data, seed, counts, references, groups, *images, real, precision, boxes, noise_scale)

    @torch.no_grad()
    def check(self, denoiser: nn.Module, step: int, num_samples: int = NUM_SAMPLES) -> CopyCheck:
        """Samples and denoises with a network in evaluation mode, (x, sigma (N,), labels (N,)) -> `Moments`."""
        began = time.perf_counter()
        kind = self.data.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bfloat16"):
            labels = self._labels(step, num_samples)
            samples = self._sample(denoiser, labels, step)
            gaps: tuple[float, ...] = ()
            errors: tuple[float, ...] = ()
            if len(self.held):
                held, trained = (self._errors(denoiser, images) for images in (self.held, self.matched))
                gaps = tuple((held.mean(dim=1) / trained.mean(dim=1) - 1).tolist())
                errors = tuple(held.mean(dim=0).tolist())
        ratios = neighbor_ratios(
            _pooled(samples), labels.new_full((len(labels),), GENERATED), self.features, self.groups
        ).cpu()
        labels = labels.cpu()
        deciding = torch.isin(labels, torch.from_numpy(_deciding(self.counts)))
        by_class = tuple(copies_among(ratios[labels == label]) for label in range(len(self.counts)))
        copies, seconds = copies_among(ratios[deciding]), time.perf_counter() - began
        return CopyCheck(step, copies, self.real, by_class, gaps, seconds, errors)

    def _labels(self, step: int, count: int) -> Tensor:
        """Classes that have images, equally often. If there are more than samples, others at each step."""
        present = np.flatnonzero(self.counts)
        order = seeding.numpy_generator(self.seed, "watched classes", step).permutation(present)
        return torch.from_numpy(np.resize(order, count)).to(self.data.device)

    def _sample(self, denoiser: nn.Module, labels: Tensor, step: int) -> Tensor:
        """Samples of these labels as they are compared, (N, c, h, w)."""
        boxes = self._boxes(labels, step)
        sigmas = karras_sigmas(DEFAULT_SAMPLING.num_inference_steps, noise_scale=self.noise_scale)
        parts = []
        for part, noise in self._noise(len(labels), "watch samples", step):
            framing = self._framing(None if boxes is None else boxes[part])
            denoise = framing.inside(conditional(denoiser, labels[part]))
            images = integrate(denoise, noise * float(sigmas[0]), sigmas)
            parts.append(self.data.compared_samples(images, framing))
        return torch.cat(parts)

    def _boxes(self, labels: Tensor, step: int) -> NDArray[np.int64] | None:
        if self.boxes is None:
            return None
        drawn = enumerate(labels.tolist())
        return np.concatenate([self.boxes.draw(label, [i], self.seed, f"watch {step}") for i, label in drawn])

    def _framing(self, boxes: NDArray[np.int64] | None) -> Framing:
        return Framing(boxes, self.data.shape[1:], self.data.device)

    def _errors(self, denoiser: nn.Module, images: LabeledImages) -> Tensor:
        """EDM's weighted errors at `MEASURED_SIGMAS` of all images, (S, N), on the same noise in every check."""
        chunks = self._noise(len(images), "watch noise")
        return torch.cat([self._errors_of_chunk(denoiser, images, *chunk) for chunk in chunks], dim=1)

    def _errors_of_chunk(self, denoiser: nn.Module, images: LabeledImages, part: slice, noise: Tensor) -> Tensor:
        framing = self._framing(None if images.boxes is None else images.boxes[part])
        x0 = self.data.to_network(_tensor(framing.framed(images.pixels[part])).to(self.data.device))
        inside = x0.new_ones(len(x0), 1, 1, 1, dtype=torch.bool) if framing.masks is None else framing.masks
        inside, labels = inside.expand(-1, 1, *x0.shape[2:]), torch.from_numpy(images.labels[part]).to(x0.device)
        errors, clean = [], x0 * inside
        for level in (self.noise_scale * sigma for sigma in MEASURED_SIGMAS):
            sigma = clean.new_full((len(clean),), level)
            mean = denoiser(diffuse(clean, sigma, noise) * inside, sigma, labels).mean
            error = image_mean((mean - clean).square(), inside).float()
            errors.append(error / precondition(x0.new_tensor(level)).c_out.square())
        return torch.stack(errors)

    def _noise(self, count: int, purpose: str, *index: int) -> Iterator[tuple[slice, Tensor]]:
        """The noise of so many images, a chunk at a time, since all of it may not fit into memory."""
        drawn = seeding.torch_generator(self.seed, purpose, *index)
        for begin in range(0, count, CHUNK_IMAGES):
            size = min(CHUNK_IMAGES, count - begin)
            noise = torch.randn(size, *self.data.shape, generator=drawn)
            yield slice(begin, begin + size), noise.to(self.data.device)


def _features(data: TrainingData, pixels: NDArray[np.uint8], *, mirrored: bool = False) -> Tensor:
    """Features (N, F) on the device of images uint8 (N, H, W, C) that fill the frame."""
    parts = []
    for begin in range(0, max(1, len(pixels)), CHUNK_IMAGES):
        part = _tensor(pixels[begin : begin + CHUNK_IMAGES])
        parts.append(_pooled(data.compared(part.flip(2) if mirrored else part)))
    return torch.cat(parts)


def _pooled(images: Tensor) -> Tensor:
    """Images as they are compared (N, c, h, w), averaged down to at most 16 x 16 positions, (N, F)."""
    height, width = (min(FEATURE_SIZE, length) for length in images.shape[2:])
    return adaptive_avg_pool2d(images, (height, width)).flatten(1)


def _deciding(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Classes that decide. Those of few images are soon repeated and copied; that is no reason to end a training."""
    large = np.flatnonzero(counts >= SMALLEST_CLASS)
    return large if len(large) else np.flatnonzero(counts)


def _matching(wanted: NDArray[np.int64], labels: NDArray[np.int64], draws: np.random.Generator) -> NDArray[np.int64]:
    """For each wanted label the position of an image with it, different ones as long as there are enough."""
    chosen = np.empty(len(wanted), dtype=np.int64)
    for label in np.unique(wanted):
        own = wanted == label
        chosen[own] = np.resize(draws.permutation(np.flatnonzero(labels == label)), own.sum())
    return chosen


def _tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
