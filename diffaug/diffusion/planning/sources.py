"""What a training draws on besides labeled images: unlabeled ones, and an earlier generator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.configuration.settings import DiffusionSettings
from diffaug.diffusion.planning import defaults


@dataclass(frozen=True)
class UnlabeledPlan:
    """How unlabeled images take part.

    Attributes:
        images: Their number.
        share: Of each batch, in (0, 1/2].
        pseudo_labels: Whether a classifier labels them.
    """

    images: int
    share: float
    pseudo_labels: bool

    @classmethod
    def of(cls, weights: NDArray[np.float64], labeled: int, settings: DiffusionSettings) -> UnlabeledPlan | None:
        """The plan for unlabeled images of these weights (U,) beside so many labeled ones; None if none take part."""
        if settings.unlabeled == "ignore" or not len(weights):
            return None
        return cls(len(weights), unlabeled_share(labeled, weights), settings.unlabeled == "pseudo-labels")


@dataclass(frozen=True)
class InitialWeights:
    """The earlier generator that a training continues from.

    Attributes:
        generator: Its folder, as it was named.
        weights_sha256: Of its weights.
        classes: Classes that it knows, of those that are trained.
        new_classes: The others, which begin as an image of any class.
        taken: Share of the network's weights that are its, in (0, 1].
        usual_learning_rate: Of a training from random weights.
    """

    generator: str
    weights_sha256: str
    classes: int
    new_classes: tuple[str, ...]
    taken: float
    usual_learning_rate: float


def unlabeled_share(labeled: int, weights: NDArray[np.float64]) -> float:
    """The share of a batch that unlabeled images of these weights (U,) make up: as of all images, at most a half."""
    total = float(weights.sum())
    return min(defaults.MAX_UNLABELED_SHARE, total / (labeled + total))


def explain_sources(unlabeled: UnlabeledPlan | None, initial: InitialWeights | None) -> Iterator[str]:
    """Sentences on each source."""
    if unlabeled:
        how = "without a label"
        if unlabeled.pseudo_labels:
            how = "under the label that a classifier gives them, as often as it is sure, else without one"
        yield f"{unlabeled.images} unlabeled images make up {unlabeled.share:.0%} of each batch, {how}"
    if initial:
        new = f", and {len(initial.new_classes)} new ones begin as images of any class" if initial.new_classes else ""
        yield (
            f"continues from {initial.generator}: {initial.taken:.0%} of the weights are taken, {initial.classes} of "
            f"the classes are known{new}; it warms up in fewer steps and, unless a learning rate is set, learns at a "
            f"third of {initial.usual_learning_rate:g}"
        )
