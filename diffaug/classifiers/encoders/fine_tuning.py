"""Fine-tuning: a pretrained encoder and a linear layer are trained together for a few hundred steps.

The layer is first fitted to the features of the encoder as it is, since a random one would distort them (Kumar et al.
2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution", arXiv 2202.10054).
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from diffaug.classifiers.encoders.encoder import Images, selected, squeezed_batches
from diffaug.classifiers.encoders.module import ModuleEncoder
from diffaug.classifiers.training_set import TrainingSet
from diffaug.errors import DataError, UsageError
from diffaug.runtime.devices import computes_in_bfloat16, use_fast_kernels
from diffaug.runtime.seeding import numpy_generator

PURPOSE = "fine-tuning"
DEFAULT_UPDATES = 300
BATCH_SIZE = 32
LEARNING_RATE = 1e-4  # of 1e-4 and 3e-4, on a left-out fold of train of flowers and neu-lt
LABEL_SMOOTHING = 0.1
WEIGHT_DECAY = 0.05
WARM_UP = 0.1  # of the updates


def fine_tune_predict(
    training: TrainingSet,
    others: Images,
    *,
    encoder: ModuleEncoder,
    updates: int = DEFAULT_UPDATES,
    seed: int,
    device: str,
    images: Images | None = None,
) -> NDArray[np.float32]:
    """Class probabilities, float32 (M, K), of other images, by the encoder and a linear layer, trained together.

    A copy of the encoder is trained, or a UsageError raised if it has no size of its own. Draw probabilities, loss
    weights and log prior of the training set are respected. `images` are its images in more detail, in the same order.
    """
    if encoder.size is None:
        raise UsageError(
            "an encoder without a size of its own can't be fine-tuned",
            where=encoder.name,
            fix="give it one: ModuleEncoder(module, name, size=224)",
        )
    if not len(training.images):
        raise DataError("there is no image to train a classifier on")
    use_fast_kernels(device)
    own = copy.copy(encoder)
    own.module, own.device = copy.deepcopy(encoder.module).to(device).to(memory_format=torch.channels_last), device
    run = _FineTuning(own, training, training.images.pixels if images is None else images, updates, seed)
    head = run.fitted_head()
    run.train(head)
    return _probabilities(own, head, others)


class _FineTuning:
    """One training; batch k depends on (seed, k) alone."""

    def __init__(self, encoder: ModuleEncoder, training: TrainingSet, images: Images, updates: int, seed: int) -> None:
        self.encoder, self.images, self.updates, self.seed = encoder, images, updates, seed
        self.training, self.device = training, encoder.device
        self.cumulative = training.cumulative
        self.targets = self._tensor(training.soft_labels)
        weights = np.ones(len(images)) if training.loss_weights is None else training.loss_weights
        self.weights = self._tensor(weights)
        num_classes = self.targets.shape[1]
        self.prior = self._tensor(np.zeros(num_classes) if training.log_prior is None else training.log_prior)
        self.mixed_precision = computes_in_bfloat16(self.device)

    def fitted_head(self) -> nn.Linear:
        """A linear layer that is fitted to the features of the encoder as it is."""
        from diffaug.classifiers.feature_regression import FeatureRegression  # scikit-learn takes a second to import

        training = self.training
        targets = training.soft_labels * training.importances[:, None]
        features = self.encoder.features(self.images)
        weights, biases = FeatureRegression().linear_layer(features, targets, training.log_prior)
        head = nn.Linear(*weights.shape).to(self.device)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weights.T))
            head.bias.copy_(torch.from_numpy(biases))
        return head

    def train(self, head: nn.Linear) -> None:
        """Trains both; the encoder's normalizations keep their statistics, of which a few images say little."""
        parameters = [*self.encoder.module.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        for step in range(self.updates):
            positions, inputs = self._batch(step)
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.mixed_precision):
                logits = head(self.encoder.vectors(self.encoder.module(inputs)))
            losses = functional.cross_entropy(
                logits.float() + self.prior, self.targets[positions], reduction="none", label_smoothing=LABEL_SMOOTHING
            )
            optimizer.zero_grad(set_to_none=True)
            (losses * self.weights[positions]).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Positions (B,) of the drawn images, and the encoder's input, lightly augmented."""
        from diffaug.classifiers.augmentation import light_augment  # torchvision's transforms take seconds to import

        random = numpy_generator(self.seed, PURPOSE, step)
        drawn = np.searchsorted(self.cumulative, random.random(BATCH_SIZE), side="right")
        size = self.encoder.size or 0
        (pixels,) = squeezed_batches(
            selected(self.images, drawn.tolist()), (size, size), self.encoder.channels, BATCH_SIZE
        )
        augmented = light_augment(pixels.to(self.device), random)
        return torch.from_numpy(drawn).to(self.device), self.encoder.prepared(augmented)

    def _rate(self, step: int) -> float:
        """Fraction of the peak rate: linear warm-up, then half a cosine to zero."""
        warm_up = max(1, round(WARM_UP * self.updates))
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(1, self.updates - warm_up))

    def _tensor(self, values: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(np.array(values, np.float32)).to(self.device)


def _probabilities(encoder: ModuleEncoder, head: nn.Linear, images: Images) -> NDArray[np.float32]:
    with torch.inference_mode():
        features = torch.from_numpy(encoder.features(images)).to(encoder.device)
        return np.asarray(head(features).softmax(dim=1).cpu().numpy(), np.float32)
