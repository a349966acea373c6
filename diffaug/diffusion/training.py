"""Training as a generator of step records; the caller logs and saves.

Everything random in step k depends on (seed, k) alone, so a training that goes on from a checkpoint ends,
on one machine with one number of threads, in exactly the weights of one that was never stopped.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug import seeding
from diffaug.config import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.denoiser import Denoiser, denoising_loss
from diffaug.diffusion.normalization import Normalization
from diffaug.diffusion.planning import Plan
from diffaug.diffusion.process import draw_training_sigmas
from diffaug.errors import DiffaugError

WARM_UP_SHARE = 0.02
MIN_WARM_UP_STEPS = 50
EMA_SHARE = 0.05
MAX_EMA_HALF_LIFE = 500_000
MAX_GRADIENT_NORM = 1.0
ADAM_BETAS = (0.9, 0.99)
MAX_SKIPPED_IN_A_ROW = 20
WARM_UP_MEASURED_STEPS = 3
MEASURE_SECONDS = 4.0


@dataclass
class TrainingState:
    """All that a training needs to go on.

    Attributes:
        denoiser: The network being trained.
        averaged: Its exponential moving average, which is what samples.
        optimizer: AdamW.
        step: Steps done.
        skipped: Steps without an update because a gradient was not finite.
    """

    denoiser: Denoiser
    averaged: Denoiser
    optimizer: torch.optim.AdamW
    step: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class StepRecord:
    """What one step did.

    Attributes:
        step: Steps done, this one included.
        images_seen: Images drawn so far.
        loss: Mean weighted denoising error, a scalar tensor; read it seldom, reading waits for the device.
        learning_rate: Used in this step.
    """

    step: int
    images_seen: int
    loss: Tensor
    learning_rate: float


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


def measure_images_per_second(data: TrainingData, plan: Plan, settings: DiffusionSettings) -> float:
    """Trains a scratch network for about four seconds; the median step after a warm-up gives the speed."""
    device = data.pixels.device.type
    endless = replace(plan, images=plan.batch_size * 10_000)
    times: list[float] = []
    began = started = time.perf_counter()
    for record in train(new_state(plan, device, seed=0), data, endless, settings, seed=0):
        record.loss.item()  # waits for the device
        now = time.perf_counter()
        if record.step > WARM_UP_MEASURED_STEPS:
            times.append(now - started)
        if times and now - began > MEASURE_SECONDS:
            break
        started = now
    return plan.batch_size / statistics.median(times)


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


def new_state(plan: Plan, device: str, seed: int) -> TrainingState:
    """The state before the first step; initial weights depend on the seed alone."""
    with seeding.torch_global_seed(seed, "initial weights"):
        denoiser = Denoiser(plan.network)
    denoiser.to(device=device)
    denoiser.to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(denoiser).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=plan.learning_rate, betas=ADAM_BETAS, weight_decay=0.0, fused=True
    )
    return TrainingState(denoiser, averaged, optimizer)


def train(
    state: TrainingState, data: TrainingData, plan: Plan, settings: DiffusionSettings, seed: int
) -> Iterator[StepRecord]:
    """Trains until the plan's budget is spent, yielding after every step.

    Args:
        state: Changed in place; between two records it is whole and may be saved.
        data: The training images.
        plan: Budget, batch and learning rate.
        settings: Label dropout and flips.
        seed: Seed of the whole training.

    Raises:
        DiffaugError: 20 steps in a row had a gradient that is not finite.
    """
    skipped_in_a_row = 0
    while state.step < plan.steps:
        rate = learning_rate_at(state.step, plan)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        loss, updated = _update(state, data, plan, settings, seed)
        state.step += 1
        state.skipped += not updated
        skipped_in_a_row = 0 if updated else skipped_in_a_row + 1
        if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise DiffaugError(
                f"training diverged: the gradients of steps {state.step - skipped_in_a_row + 1} to {state.step} "
                "are not finite",
                fix=f"lower the learning rate: --set diffusion.learning_rate={plan.learning_rate / 3:.1g}",
            )
        yield StepRecord(state.step, state.step * plan.batch_size, loss, rate)


def learning_rate_at(step: int, plan: Plan) -> float:
    """Linear warm-up over 2 % of the steps (at least 50), then a half cosine down to 0 at the end."""
    warm_up = min(max(MIN_WARM_UP_STEPS, round(WARM_UP_SHARE * plan.steps)), max(1, plan.steps // 2))
    if step < warm_up:
        return plan.learning_rate * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, plan.steps - warm_up)
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def ema_decay_at(step: int, batch_size: int) -> float:
    """Decay whose half-life is 5 % of the images seen so far, at most 500,000 images.

    A fixed decay such as .9999 has a half-life of 6931 steps, longer than many a whole training here.
    """
    half_life = min(MAX_EMA_HALF_LIFE, EMA_SHARE * (step + 1) * batch_size)
    return float(0.5 ** (batch_size / half_life))


def _update(
    state: TrainingState, data: TrainingData, plan: Plan, settings: DiffusionSettings, seed: int
) -> tuple[Tensor, bool]:
    x0, labels, sigma, noise = draw_batch(data, plan, settings, seed, state.step)
    state.denoiser.train()
    device = x0.device.type
    autocast = torch.autocast(device, torch.bfloat16) if device == "cuda" else nullcontext()
    with seeding.torch_global_seed(seed, "dropout", state.step), autocast:
        loss = denoising_loss(state.denoiser, x0, labels, sigma, noise).mean()
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(state.denoiser.parameters(), MAX_GRADIENT_NORM, foreach=True)
    updated = bool(torch.isfinite(norm))
    if updated:
        state.optimizer.step()
        _average(state, ema_decay_at(state.step, plan.batch_size))
    return loss.detach(), updated


def draw_batch(
    data: TrainingData, plan: Plan, settings: DiffusionSettings, seed: int, step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The batch of a step: clean images, labels (some hidden), noise levels and noise.

    Returns:
        float32 (B, C, H, W), int64 (B,), float32 (B,), float32 (B, C, H, W), on the data's device.
    """
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
    sigma = draw_training_sigmas(plan.batch_size, randomness)
    noise = torch.randn(x0.shape, generator=randomness, device=device)
    return x0, labels, sigma, noise


def _average(state: TrainingState, decay: float) -> None:
    averaged: list[Tensor] = list(state.averaged.parameters())
    current: list[Tensor] = list(state.denoiser.parameters())
    with torch.no_grad():
        torch._foreach_lerp_(averaged, current, 1 - decay)
