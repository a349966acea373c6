"""What a training draws on besides labeled images: unlabeled ones, an earlier generator, and a pretrained model."""

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


@dataclass(frozen=True)
class PretrainedModel:
    """A model of others that a generator is built on.

    Attributes:
        name: Its own.
        kind: Such as "Stable Diffusion pipeline".
        license: The text of its license, or the name of it; empty if it states none.
        sha256: Of all its files together; empty as long as they were not hashed.
    """

    name: str
    kind: str
    license: str
    sha256: str = ""

    def explain(self) -> Iterator[str]:
        """Sentences about it."""
        named = f"'{self.name}', a {self.kind}{f' with sha256 {self.sha256[:16]}' if self.sha256 else ''}"
        licensed = next(iter(self.license.splitlines()), "").strip() or "none is stated, so ask who made it"
        yield f"built on {named}; its license: {licensed}"
        yield f"'{self.name}' may have seen public test images, so a verdict on a public data set can be too good"


def unlabeled_share(labeled: int, weights: NDArray[np.float64]) -> float:
    """The share of a batch that unlabeled images of these weights (U,) make up: as of all images, at most a half."""
    total = float(weights.sum())
    return min(defaults.MAX_UNLABELED_SHARE, total / (labeled + total))


def explain_sources(
    unlabeled: UnlabeledPlan | None, initial: InitialWeights | None, pretrained: PretrainedModel | None = None
) -> Iterator[str]:
    """Sentences on each source."""
    if pretrained:
        yield from pretrained.explain()
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
