"""Training of networks as classifiers, from scratch and in a fixed number of updates.

Batch k depends on (seed, purpose, k) alone and the initial weights on the seed alone, so trainings with one seed differ
only in what is compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from diffaug.classifiers.batches import Batches, network_input, network_inputs, on_device
from diffaug.classifiers.curves import record_loss
from diffaug.classifiers.identity import identity_of
from diffaug.classifiers.networks import Backbone, small_cnn
from diffaug.classifiers.training_set import PLAIN, Augmentation, TrainingRecipe, TrainingSet
from diffaug.runtime.devices import computes_in_bfloat16, use_fast_kernels
from diffaug.runtime.seeding import numpy_generator, torch_global_seed

PURPOSE = "evaluation"
WARM_UP = 0.2
DEFAULT_RATE_AND_DECAY = {"adamw": (3e-3, 0.1), "sgd": (0.1, 2e-4)}
_initializing = Lock()  # torch's global generator is shared by all threads


@dataclass(frozen=True)
class NetworkClassifier:
    """A network that is trained from its initial weights. Backbones that differ need different names."""

    stateless: ClassVar[bool] = True  # other processes may train copies of it
    backbone: Backbone
    name: str

    @classmethod
    def of_factory(cls, factory: Backbone) -> NetworkClassifier:
        """A network of the user's own, named by `identity_of`."""
        return cls(factory, identity_of(factory))

    def fit_predict(
        self, training: TrainingSet, pixels: NDArray[np.uint8], *, recipe: TrainingRecipe, seed: int, device: str
    ) -> NDArray[np.float32]:
        """Trains from scratch and returns class probabilities (N, K) of `pixels` (N, H, W, C)."""
        model = fit_network(training, backbone=self.backbone, recipe=recipe, seed=seed, purpose=PURPOSE, device=device)
        return predict_probabilities(model, pixels, device)


def fit_network(
    training: TrainingSet,
    *,
    recipe: TrainingRecipe,
    seed: int,
    purpose: str,
    backbone: Backbone = small_cnn,
    device: str = "cpu",
    exact: bool = False,
    after_step: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Trains a network from scratch: float NCHW in [-1, 1] to logits (N, K), in evaluation mode, on `device`.

    The seed decides the initial weights, and with `purpose` every batch. If `exact`, it computes in float32 even where
    bfloat16 is faster, and leaves torch's global generator alone, so that networks without dropout can be trained in
    several threads. A DataError if there is no image, a UsageError if the initial weights don't fit.
    """
    if not exact:
        use_fast_kernels(device)
    batches = Batches(training, recipe, seed=seed, purpose=purpose, device=device)
    height, width, channels = training.images.pixels.shape[1:]
    with _initializing, torch_global_seed(seed, "classifier weights"):
        model = backbone(channels, len(training.images.classes), (height, width))
    model = model.to(device).to(memory_format=torch.channels_last).train()
    with nullcontext() if exact else torch_global_seed(seed, "classifier dropout"):
        _optimize(
            model, batches, training, mixed_precision=not exact and computes_in_bfloat16(device), after=after_step
        )
    return model.eval()


def predict_probabilities(model: nn.Module, pixels: NDArray[np.uint8], device: str = "cpu") -> NDArray[np.float32]:
    """Class probabilities, float32 (N, K), of images, uint8 (N, H, W, C)."""
    with torch.inference_mode():
        return np.concatenate([model(batch).softmax(dim=1).cpu().numpy() for batch in network_inputs(pixels, device)])


def _optimize(
    model: nn.Module, batches: Batches, training: TrainingSet, *, mixed_precision: bool, after: Callable[[], None]
) -> None:
    recipe, device = batches.recipe, batches.pixels.device
    optimizer = _optimizer(model, recipe)
    rate = _one_cycle if recipe.optimizer == "adamw" else _step_decay
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, recipe.updates))
    log_prior = training.log_prior
    prior = 0.0 if log_prior is None else on_device(np.array(log_prior, np.float32), device)
    for step in range(recipe.updates):
        inputs, targets, weights = _inputs_and_targets(batches, step, training.augmentation)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
            logits = model(inputs)
        loss = functional.cross_entropy(logits.float() + prior, targets, reduction="none")
        loss = loss if weights is None else loss * weights
        optimizer.zero_grad(set_to_none=True)
        mean = loss.mean()
        mean.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        record_loss(step, recipe.updates, mean)
        after()


def _inputs_and_targets(
    batches: Batches, step: int, augmentation: Augmentation
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A batch: the network's input, targets, and loss weights unless they are all 1 or in the targets."""
    pixels, positions = batches.draw(step)
    targets = batches.targets[positions]
    weights = None if batches.weights is None else batches.weights[positions]
    if augmentation == PLAIN:
        return network_input(pixels), targets, weights
    from diffaug.classifiers.augmentation import augment  # torchvision's transforms take seconds to import

    if augmentation.mixup and weights is not None:  # mixing images mixes their losses and so their weights
        targets, weights = targets * weights[:, None], None
    random = numpy_generator(batches.seed, f"{batches.purpose} augmentation", step)
    return *augment(pixels, targets, augmentation, random), weights


def _optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    default_rate, default_decay = DEFAULT_RATE_AND_DECAY[recipe.optimizer]
    rate = default_rate if recipe.learning_rate is None else recipe.learning_rate
    decay = default_decay if recipe.weight_decay is None else recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)


def _one_cycle(step: int, updates: int) -> float:
    """Fraction of the peak rate: linear warm-up, then half a cosine to zero."""
    warm_up = max(1, round(WARM_UP * updates))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(1, updates - warm_up))


def _step_decay(step: int, updates: int) -> float:
    """Fraction of the peak rate: linear warm-up over 5 of 200 epochs, a hundredth after 160 and again after 180."""
    epoch = 200 * step / updates
    if epoch >= 160:
        return 0.01 if epoch < 180 else 0.0001
    return min(1.0, (step + 1) / max(1.0, updates / 40))
