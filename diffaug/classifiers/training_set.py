"""What a classifier is trained on and how, and the protocol that every classifier follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from diffaug.data.images import LabeledImages
from diffaug.runtime.seeding import numpy_generator

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
"""Images uint8 (h, w, C), each of its own size, or an array (N, H, W, C)."""
Strength = Literal["none", "light", "trivial on half", "trivial on all"]
STRENGTHS: tuple[Strength, ...] = ("none", "light", "trivial on half", "trivial on all")


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images beyond small shifts and, where labels survive it, mirroring.

    Attributes:
        strength: `light`: small rotations, changes of scale and brightness. `trivial`: TrivialAugment, on half of the
            images or on all.
        mixup: Whether pairs of images and of labels are mixed.
    """

    strength: Strength = "none"
    mixup: bool = False

    def __str__(self) -> str:
        return f"{self.strength} with MixUp" if self.mixup else self.strength


PLAIN = Augmentation()
EPOCHS = 100


@dataclass(frozen=True)
class TrainingSet:
    """The training data of a classifier.

    Attributes:
        images: N images of K classes, real ones first, then synthetic ones.
        is_synthetic: (N,).
        draw_probabilities: (N,), probability of each image in a draw. None: uniform.
        loss_weights: (N,), weight of each image in the loss. None: 1.
        log_prior: (K,), added to the logits in the training loss only: balanced softmax (Ren et al. 2020, eq. 4).
        augmentation: What follows the shifts.
        features: float32 (N, D), what an encoder makes of the images. None: not needed.
        pictures: The images in more detail, each uint8 (h, w, C), for a network that looks closer. None: not needed.
        worth: Images that the set is worth against the penalty of a regression: the real ones and those beside them,
            each weighed, but not how many different images share the draws. None: all.
    """

    images: LabeledImages
    is_synthetic: NDArray[np.bool_]
    draw_probabilities: NDArray[np.float64] | None = None
    loss_weights: NDArray[np.float64] | None = None
    log_prior: NDArray[np.float64] | None = None
    augmentation: Augmentation = PLAIN
    features: NDArray[np.float32] | None = None
    pictures: Images | None = None
    worth: float | None = None

    @classmethod
    def real_only(cls, images: LabeledImages, log_prior: NDArray[np.float64] | None = None) -> Self:
        """Real images, drawn uniformly."""
        return cls(images, np.zeros(len(images), np.bool_), log_prior=log_prior)

    @property
    def soft_labels(self) -> NDArray[np.float32]:
        """One-hot labels (N, K)."""
        return np.eye(len(self.images.classes), dtype=np.float32)[self.images.labels]

    @property
    def importances(self) -> NDArray[np.float64]:
        """Weight of each image in the expected loss (N,): draw probability times loss weight, normalized to mean 1."""
        importances = self._chances if self.loss_weights is None else self._chances * self.loss_weights
        return np.asarray(importances / importances.mean(), np.float64)

    @property
    def cumulative(self) -> NDArray[np.float64]:
        """Cumulative draw probabilities (N,)."""
        cumulative = np.cumsum(self._chances, dtype=np.float64)
        return np.asarray(cumulative / cumulative[-1])

    def draw(self, count: int, seed: int) -> NDArray[np.int64]:
        """Positions of images, int64 (count,), drawn with the probabilities of a network's batches."""
        draws = numpy_generator(seed, "draw").random(count)
        return np.searchsorted(self.cumulative, draws, side="right").astype(np.int64)

    @property
    def _chances(self) -> NDArray[np.float64]:
        return np.ones(len(self.images)) if self.draw_probabilities is None else self.draw_probabilities


@dataclass(frozen=True)
class TrainingRecipe:
    """How a classifier is trained.

    Attributes:
        learning_rate: Peak of the schedule. None: 0.003 with AdamW, 0.1 with SGD.
        weight_decay: Decoupled with AdamW, part of the gradient with SGD. None: 0.1 with AdamW, 0.0002 with SGD.
        optimizer: `adamw` follows one cycle. `sgd`, with momentum 0.9, is the recipe of the long-tail literature
            (Cao et al. 2019, arXiv 1906.07413) with its 200 epochs scaled to all updates: linear warm-up over 2.5 % of
            them, a hundredth of the rate after 80 % and again after 90 %.
    """

    updates: int
    batch_size: int = 64
    learning_rate: float | None = None
    weight_decay: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    horizontal_flip: bool = False


def default_updates(num_train_images: int) -> int:
    """Updates of a training: 100 epochs in batches of 64, but at least 400 and at most 3000.

    In cross-validation on the training images of long-tailed Fashion-MNIST the accuracy of arms with augmentation rose
    by 1 to 3 points from 50 to 150 epochs and no further with 200; that of plain arms hardly changed.
    """
    return min(max(round(EPOCHS * num_train_images / 64), 400), 3000)


class Classifier(Protocol):
    """A classifier that can be trained from scratch."""

    @property
    def name(self) -> str:
        """Names the architecture and its initial weights; part of a trial's fingerprint."""

    def fit_predict(
        self, training: TrainingSet, pixels: NDArray[np.uint8], *, recipe: TrainingRecipe, seed: int, device: str
    ) -> NDArray[np.float32]:
        """Trains from scratch and returns class probabilities (N, K) of `pixels` (N, H, W, C)."""
