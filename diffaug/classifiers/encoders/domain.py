"""Features by which images of another kind are recognized: of a pretrained encoder or, coarser, of patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.encoders.by_name import encoder_by_name, typical_side
from diffaug.classifiers.encoders.encoder import Encoder
from diffaug.classifiers.patch_features import PATCH, patch_features
from diffaug.data.domain import Describe, Features, Shown

LEAST_SPREAD = 0.01  # of a feature, as a fraction of the mean spread; keeps constant features from deciding


@dataclass(frozen=True)
class EncoderDescription:
    """Directions of the features of an encoder.

    Limits were chosen on long-tailed parts of the `train` parts of flowers, fashion-lt, digits and cifar10-lt, and on
    neu-lt, with images of the others among them: of the own kind 99 % lie below 1.08 (digits: 1.17), of others the
    median lies between 1.02 (photos among photos) and 1.7.
    """

    limits: ClassVar[tuple[float, float]] = (1.0, 1.15)
    encoder: Encoder

    @property
    def name(self) -> str:
        """The encoder's."""
        return self.encoder.name

    def __call__(self, labeled: Shown, others: Shown) -> tuple[Features, Features]:
        """See `Describe`."""
        own, further = (self.encoder.features(shown.pictures) for shown in (labeled, others))
        return _directions(own), _directions(further)


@dataclass(frozen=True)
class PatchDescription:
    """Patch features, each in units of its spread among the labeled images.

    They tell noise, empty images, and other textures and colors, but not one kind of photo from another. Limits were
    chosen as those of `EncoderDescription`: of the own kind 99 % lie below 1.42, of others the median between 0.8
    (photos among photos) and 2.9, of noise above 1.4.
    """

    limits: ClassVar[tuple[float, float]] = (1.2, 1.6)
    seed: int
    name: str = "patch features, which tell only coarse differences"

    def __call__(self, labeled: Shown, others: Shown) -> tuple[Features, Features]:
        """See `Describe`."""
        own, further = (patch_features(shown.pixels, self.seed, labeled.pixels) for shown in (labeled, others))
        spread = own.std(axis=0)
        scale = spread + LEAST_SPREAD * spread.mean() + 1e-6
        return (own - own.mean(axis=0)) / scale, (further - own.mean(axis=0)) / scale


def describe_by(labeled: Shown, *, encoder: str, device: str, seed: int) -> Describe | None:
    """The best description there is of images like the labeled ones; None for tiny ones without an encoder."""
    found = encoder_by_name(encoder, device, image_side=typical_side(labeled.pictures))
    if found is not None:
        return EncoderDescription(found)
    return PatchDescription(seed) if min(labeled.pixels.shape[1:3]) >= PATCH else None


def _directions(features: NDArray[np.float32]) -> Features:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), np.float32)
