"""A small image classifier: the off-class filter of the pool and the yardstick of the evaluation.

It is trained from scratch in a fixed number of updates, on the device, in one process. What update k draws
depends on (seed, purpose, k) alone and the initial weights on the seed alone, so trainings of one seed differ
only in what they are meant to compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from diffaug.classifiers.batches import Batches, network_input, on_device
from diffaug.data.images import LabeledImages
from diffaug.runtime.seeding import numpy_generator, torch_global_seed

WIDTHS = (24, 48, 96, 128)
AVERAGED_ABOVE = 128
STRIDED_ABOVE = 40
POOLED_AT_ONCE_ABOVE = 20
WARM_UP = 0.2
DEFAULT_RATE_AND_DECAY = {"adamw": (3e-3, 0.1), "sgd": (0.1, 2e-4)}
ONE_AT_A_TIME = Lock()  # for torch's global generator, which all threads share

Backbone = Callable[[int, int, tuple[int, int]], nn.Module]
"""Makes a network from (channels, number of classes, (height, width)): float NCHW in [-1, 1] to logits (N, K)."""

Augmentation = Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]]
"""From shifted images, uint8 (N, H, W, C), and targets (N, K) to a network's input and its targets (N, K)."""


@dataclass(frozen=True)
class TrainingRecipe:
    """How a classifier is trained.

    Attributes:
        updates: Optimiser updates.
        batch_size: Images an update.
        learning_rate: Peak of the schedule; none: 0.003 with AdamW, 0.1 with SGD.
        weight_decay: Decoupled with AdamW, part of the gradient with SGD; none: 0.1 with AdamW, 0.0002 with SGD.
        optimizer: `adamw` follows one cycle. `sgd`, with momentum 0.9, is the recipe of the long-tail literature
            (Cao et al. 2019, arXiv 1906.07413), its 200 epochs being all updates: linear warm-up over
            2.5 % of them, a hundredth of the rate after 80 % and again after 90 %.
        horizontal_flip: Mirror half of the images at random.
        finish: How a training on real and synthetic images ends, on real ones: see `evaluation.training`.
    """

    updates: int
    batch_size: int = 64
    learning_rate: float | None = None
    weight_decay: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    horizontal_flip: bool = False
    finish: Literal["none", "batch norm", "last layer"] = "none"


def default_updates(num_train_images: int) -> int:
    """Updates after which a training has converged: 24 times the square root of the images, 400 to 1500.

    Args:
        num_train_images: Real images of the training split.
    """
    return min(max(round(24 * math.sqrt(num_train_images)), 400), 1500)


def small_cnn(channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """A plain convolutional network of about 0.17 M parameters and 2 to 13 M multiplications an image.

    Images above 128 px are first averaged down, and strided convolutions bring large ones to 21 to 40 px, so that the
    cost depends little on the size.

    Args:
        channels: 1 or 3.
        num_classes: Number of logits.
        image_size: Height and width in px, at least 4.
    """
    size = min(image_size)
    layers: list[nn.Module] = []
    while size > AVERAGED_ABOVE:
        layers.append(nn.AvgPool2d(2))
        size //= 2
    if size <= STRIDED_ABOVE:
        layers.append(_convolution(channels, WIDTHS[0]))
    while size > STRIDED_ABOVE:
        width = WIDTHS[0] if size <= 2 * STRIDED_ABOVE else WIDTHS[0] // 2
        layers.append(_convolution(channels, width, stride=2))
        channels, size = width, (size + 1) // 2
    for number, (inputs, outputs) in enumerate(pairwise(WIDTHS)):
        if number or size > POOLED_AT_ONCE_ABOVE:
            layers.append(nn.MaxPool2d(2))
        layers.append(_convolution(inputs, outputs))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], num_classes))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def fit_classifier(
    images: LabeledImages,
    *,
    recipe: TrainingRecipe,
    seed: int,
    purpose: str,
    draw_probabilities: NDArray[np.floating] | None = None,
    loss_weights: NDArray[np.floating] | None = None,
    log_prior: NDArray[np.floating] | None = None,
    device: str = "cpu",
    backbone: Backbone = small_cnn,
) -> nn.Module:
    """Trains a classifier on randomly shifted images.

    Args:
        images: What to learn, N images of K classes.
        recipe: Length and optimiser settings.
        seed: Decides the initial weights, and with `purpose` every batch.
        purpose: Name of the stream of batches.
        draw_probabilities: (N,), chance of each image in a draw; none: all alike.
        loss_weights: (N,), weight of each image in the loss; none: 1.
        log_prior: (K,), added to the logits in the training loss only: balanced softmax (Ren et al. 2020, eq. 4).
        device: Where to train.
        backbone: Makes the network.

    Returns:
        The network in evaluation mode, on `device`: float NCHW in [-1, 1] to logits (N, K).

    Raises:
        DataError: There is no image.
    """
    batches = Batches.of(
        images,
        size=recipe.batch_size,
        seed=seed,
        purpose=purpose,
        draw_probabilities=draw_probabilities,
        loss_weights=loss_weights,
        horizontal_flip=recipe.horizontal_flip,
        device=device,
    )
    model = new_classifier(images, backbone=backbone, seed=seed, device=device).train()
    optimize(model, model.parameters(), batches, recipe, range(recipe.updates), log_prior=log_prior)
    return model.eval()


def new_classifier(images: LabeledImages, *, backbone: Backbone, seed: int, device: str) -> nn.Module:
    """A network for `images` on `device`, its weights random and decided by `seed` alone."""
    height, width, channels = images.pixels.shape[1:]
    with ONE_AT_A_TIME, torch_global_seed(seed, "classifier weights"):
        model = backbone(channels, len(images.classes), (height, width))
    return model.to(device).to(memory_format=torch.channels_last)


def optimize(
    model: nn.Module,
    parameters: Iterable[nn.Parameter],
    batches: Batches,
    recipe: TrainingRecipe,
    steps: range,
    *,
    log_prior: NDArray[np.floating] | None = None,
    augmentation: Augmentation | None = None,
    mixed_precision: bool = False,
) -> None:
    """Updates parameters of a network on batch after batch, with one schedule of the learning rate.

    Args:
        model: In whatever mode it is to be trained in.
        parameters: What to update.
        batches: What to learn from.
        recipe: Optimiser, learning rate and decay.
        steps: Numbers of the batches, one an update.
        log_prior: (K,), added to the logits.
        augmentation: Changes images and targets further, which must be (N, K); what it draws for batch k depends on
            (seed, purpose, k).
        mixed_precision: Compute in bfloat16 where that is exact enough.
    """
    optimizer = _optimizer(parameters, recipe)
    rate = _one_cycle if recipe.optimizer == "adamw" else _step_decay
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, len(steps)))
    device = batches.pixels.device
    prior = 0.0 if log_prior is None else on_device(np.array(log_prior, np.float32), device)
    for step in steps:
        inputs, targets, weights = _inputs_and_targets(batches, step, augmentation)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
            logits = model(inputs)
        loss = functional.cross_entropy(logits.float() + prior, targets, reduction="none")
        loss = loss if weights is None else loss * weights
        optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _inputs_and_targets(
    batches: Batches, step: int, augmentation: Augmentation | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    pixels, positions = batches.draw(step)
    targets = batches.targets[positions]
    weights = None if batches.weights is None else batches.weights[positions]
    if augmentation is None:
        return network_input(pixels), targets, weights
    # Mixing images mixes their losses, and with them their weights: both go into the targets.
    weighted = targets if weights is None else targets * weights[:, None]
    random = numpy_generator(batches.seed, f"{batches.purpose} augmentation", step)
    return *augmentation(pixels, weighted, random), None


def predict_probabilities(
    model: nn.Module, pixels: NDArray[np.uint8], device: str = "cpu", batch_size: int = 256
) -> NDArray[np.float32]:
    """Class probabilities of images.

    Args:
        model: What `fit_classifier` returned.
        pixels: uint8 (N, H, W, C).
        device: Where the model is.
        batch_size: Images at a time.

    Returns:
        float32 (N, K), rows that sum to 1.
    """
    chunks = []
    with torch.inference_mode():
        for start in range(0, max(1, len(pixels)), batch_size):
            chunk = torch.from_numpy(np.array(pixels[start : start + batch_size])).to(device)
            chunks.append(model(network_input(chunk)).softmax(dim=1).cpu().numpy())
    return np.concatenate(chunks)


def _optimizer(parameters: Iterable[nn.Parameter], recipe: TrainingRecipe) -> torch.optim.Optimizer:
    default_rate, default_decay = DEFAULT_RATE_AND_DECAY[recipe.optimizer]
    rate = default_rate if recipe.learning_rate is None else recipe.learning_rate
    decay = default_decay if recipe.weight_decay is None else recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)


def _one_cycle(step: int, updates: int) -> float:
    """Linear warm-up, then half a cosine to zero; the share of the peak rate."""
    warm_up = max(1, round(WARM_UP * updates))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(1, updates - warm_up))


def _step_decay(step: int, updates: int) -> float:
    """Linear warm-up over 5 of 200 epochs, a hundredth after 160 and after 180; the share of the peak rate."""
    epoch = 200 * step / updates
    if epoch >= 160:
        return 0.01 if epoch < 180 else 0.0001
    return min(1.0, (step + 1) / max(1.0, updates / 40))
