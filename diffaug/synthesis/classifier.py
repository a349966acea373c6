"""A small image classifier: the off-class filter of the pool and the yardstick of the evaluation.

It is trained from scratch in a fixed number of updates, on the device, in one process. What update k draws
depends on (seed, purpose, k) alone and the initial weights on the seed alone, so trainings of one seed differ
only in what they are meant to compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.seeding import numpy_generator, torch_global_seed

WIDTHS = (24, 48, 96, 128)
AVERAGED_ABOVE = 128
STRIDED_ABOVE = 40
POOLED_AT_ONCE_ABOVE = 20
WARM_UP = 0.2

Backbone = Callable[[int, int, tuple[int, int]], nn.Module]
"""Makes a network from (channels, number of classes, (height, width)): float NCHW in [-1, 1] to logits (N, K)."""


@dataclass(frozen=True)
class TrainingRecipe:
    """How a classifier is trained.

    Attributes:
        updates: Optimiser updates.
        batch_size: Images an update.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: AdamW's decoupled decay.
    """

    updates: int
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.1


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
    """Trains a classifier with AdamW, a one-cycle learning rate and random shifts; images are never mirrored.

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
    if not len(images):
        raise DataError("there is no image to train a classifier on")
    height, width, channels = images.pixels.shape[1:]
    with torch_global_seed(seed, "classifier weights"):
        model = backbone(channels, len(images.classes), (height, width))
    model.train().to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _one_cycle(step, recipe.updates))

    pixels = torch.from_numpy(np.array(images.pixels)).to(device)
    labels = torch.from_numpy(np.array(images.labels)).to(device)
    weights = None if loss_weights is None else torch.as_tensor(loss_weights, dtype=torch.float32, device=device)
    prior = 0.0 if log_prior is None else torch.as_tensor(log_prior, dtype=torch.float32, device=device)
    cumulative = _cumulative(draw_probabilities, len(images))

    for step in range(recipe.updates):
        random = numpy_generator(seed, purpose, step)
        batch = torch.from_numpy(np.searchsorted(cumulative, random.random(recipe.batch_size), side="right")).to(device)
        loss = functional.cross_entropy(model(_shifted(pixels, batch, random)) + prior, labels[batch], reduction="none")
        loss = loss if weights is None else loss * weights[batch]
        optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.eval()


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
            chunks.append(model(_network_input(chunk)).softmax(dim=1).cpu().numpy())
    return np.concatenate(chunks)


def _one_cycle(step: int, updates: int) -> float:
    """Linear warm-up, then half a cosine to zero; the share of the peak rate."""
    warm_up = max(1, round(WARM_UP * updates))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(1, updates - warm_up))


def _cumulative(probabilities: NDArray[np.floating] | None, count: int) -> NDArray[np.float64]:
    cumulative = np.cumsum(np.ones(count) if probabilities is None else probabilities, dtype=np.float64)
    return np.asarray(cumulative / cumulative[-1])


def _shifted(pixels: Tensor, batch: Tensor, random: np.random.Generator) -> Tensor:
    """The batch as network input, each image shifted by up to an eighth of its size; borders are reflected."""
    rows, columns = (
        _shifted_positions(size, len(batch), random).to(pixels.device) for size in (pixels.shape[1], pixels.shape[2])
    )
    return _network_input(pixels[batch[:, None, None], rows[:, :, None], columns[:, None, :]])


def _shifted_positions(size: int, count: int, random: np.random.Generator) -> Tensor:
    reach = max(1, size // 8)
    positions = np.arange(size) + random.integers(-reach, reach, endpoint=True, size=(count, 1))
    return torch.from_numpy(size - 1 - np.abs(size - 1 - np.abs(positions)))


def _network_input(pixels: Tensor) -> Tensor:
    """uint8 NHWC to float NCHW in [-1, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
