"""How much of real images an autoencoder keeps, and whether the classes survive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.encoders.encoder import Encoder
from diffaug.classifiers.feature_regression import balanced_accuracy, choose_regression
from diffaug.classifiers.patch_features import patch_features
from diffaug.data.images import LabeledImages
from diffaug.data.splits import ALWAYS_TRAINED_ON, assign_folds
from diffaug.diffusion.latent.cache import LatentCache
from diffaug.diffusion.planning.length import class_balanced_mean
from diffaug.errors import DataError
from diffaug.runtime.console import percent
from diffaug.runtime.parallel import Progress
from diffaug.runtime.seeding import numpy_generator

PURPOSE = "reconstruction"
MOST_TRAINED, MOST_JUDGED = 600, 128
"""Images. A large autoencoder decodes one of 128 px in two seconds on one CPU core."""
LARGEST_LOSS, CERTAIN = 0.1, 1.0
"""Balanced accuracy that may be lost, and by how many standard errors a loss must exceed it to be refused.

On made marks in noise, blurs that lost 0.04 and 0.13 cost a classifier that is fitted to them and to real images 0.04
and 0.08 of its accuracy on real ones; fitted to blurred images alone, it fell from 0.93 to 0.65 and 0.34.
"""
BEST_PSNR = 99.0


@dataclass(frozen=True)
class Reconstruction:
    """How well an autoencoder reconstructs real images that a classifier was not trained on.

    Attributes:
        images: That were reconstructed.
        psnr: Mean peak signal-to-noise ratio in dB; 99 for an exact copy.
        flat_psnr: The same of images of one color, the mean of all.
        real: Balanced accuracy of a classifier of real images on these images.
        reconstructed: The same on their reconstructions.
        loss: Their difference.
        standard_error: Of the difference, image by image.
        classifier: What was trained.
    """

    images: int
    psnr: float
    flat_psnr: float
    real: float
    reconstructed: float
    loss: float
    standard_error: float
    classifier: str

    @property
    def loses_classes(self) -> bool:
        """Whether more is lost than is harmless, by more than chance."""
        return self.loss - CERTAIN * self.standard_error > LARGEST_LOSS

    @property
    def loses_images(self) -> bool:
        """Whether one color in place of all images would be nearer to them."""
        return self.psnr < self.flat_psnr

    def __str__(self) -> str:
        lost = f"{percent(self.loss)} ± {percent(self.standard_error)} are lost"
        return (
            f"of {self.images} training images that it was not trained on, a classifier of real images "
            f"({self.classifier}) gets {percent(self.real)} right, and {percent(self.reconstructed)} once the "
            f"autoencoder has reconstructed them (balanced accuracy; {lost}, PSNR {self.psnr:.1f} dB)"
        )


def require_classes_kept(found: Reconstruction, where: str) -> None:
    """Raises a DataError if the reconstruction loses the classes, or does not show the images at all."""
    if not (found.loses_classes or found.loses_images):
        return
    what = f"the autoencoder loses what tells the classes apart: {found}"
    if found.loses_images:
        what = f"the autoencoder does not know such images: one color for all would be nearer to them ({found})"
    fix = (
        "take larger images with --set data.image_size, another autoencoder with --set diffusion.autoencoder, or "
        "none with --set diffusion.route=pixels"
    )
    raise DataError(what, where=where, fix=fix)


def measure_reconstruction(
    cache: LatentCache,
    images: LabeledImages,
    groups: NDArray[np.int64],
    encoder: Encoder | None,
    *,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> Reconstruction | None:
    """Fits classifiers to real images and judges them on left-out ones, as they are and reconstructed.

    The classifier is a regression on the features of the encoder; without one, on those of random patches, as for the
    working size. Images of one group (N,) are never on both sides. Reconstructions of fitted images are fitted, too,
    so that only what is lost counts, and not that all reconstructions look a little different.

    Returns:
        None if no image can be left out: all of each class belong together.
    """
    sample = _balanced(images.labels, np.arange(len(images)), MOST_TRAINED, seed)
    images, groups = images.select(sample), groups[sample]
    folds = assign_folds(images.labels, groups, seed)
    judged = _balanced(images.labels, np.flatnonzero(folds != ALWAYS_TRAINED_ON), MOST_JUDGED, seed)
    if not len(judged):
        return None
    originals = np.asarray(images.pixels[judged])
    copies = _reconstructed(cache, originals, progress)
    if encoder is None:
        features = [patch_features(pixels, seed, images.pixels) for pixels in (images.pixels, copies)]
    else:
        features = [encoder.features(pixels) for pixels in (images.pixels, copies)]
    right, labels = _right(images, folds, judged, features[0], features[1]), images.labels[judged]
    (real, _), (reconstructed, _) = (balanced_accuracy(row, labels) for row in right)
    loss, error = class_balanced_mean(right[0].astype(np.float64) - right[1], labels)
    classifier = f"a regression on features of {encoder.name.split()[0] if encoder else 'patches'}"
    flat = np.broadcast_to(originals.mean(axis=(0, 1, 2)), originals.shape)
    psnr, flat_psnr = _psnr(originals, copies), _psnr(originals, flat)
    return Reconstruction(len(judged), psnr, flat_psnr, real, reconstructed, loss, error, classifier)


def _right(
    images: LabeledImages,
    folds: NDArray[np.int64],
    judged: NDArray[np.int64],
    features: NDArray[np.float32],
    copied: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Whether the judged images (M,) are classified rightly as they are and reconstructed, bool (2, M).

    Features are those of all images (N, D), and of the reconstructions (M, D). No fold is classified by what was fitted
    to it.
    """
    labels, num_classes = images.labels, len(images.classes)
    regression, _ = choose_regression(features, labels, folds, num_classes)
    right = np.zeros((2, len(judged)), np.bool_)
    for fold in np.unique(folds[judged]):
        fitted, own = folds != fold, folds[judged] == fold
        rows = np.concatenate([features[fitted], copied[~own]])
        targets = np.eye(num_classes)[np.concatenate([labels[fitted], labels[judged[~own]]])]
        others = np.concatenate([features[judged[own]], copied[own]])
        prior = np.log(np.maximum(targets.sum(axis=0), 1))
        predicted = regression.fit_predict(rows, targets, prior, others).argmax(axis=1)
        right[:, own] = predicted.reshape(2, -1) == labels[judged[own]]
    return right


def _reconstructed(cache: LatentCache, pixels: NDArray[np.uint8], progress: Progress) -> NDArray[np.uint8]:
    """What becomes of images (N, H, W, C), a few at a time."""
    mean = cache.encode(pixels).mean
    parts = []
    for start in range(0, len(pixels), 8):
        parts.append(cache.codec.decode(mean[start : start + 8].float().to(cache.codec.autoencoder.device)).pixels)
        progress(min(start + 8, len(pixels)), len(pixels))
    return np.concatenate(parts)


def _psnr(originals: NDArray[np.uint8], copies: NDArray[Any]) -> float:
    squared = np.square(originals.astype(np.float64) - copies).mean(axis=(1, 2, 3))
    least = 255**2 * 10 ** (-BEST_PSNR / 10)
    return float(np.mean(10 * np.log10(255**2 / np.maximum(squared, least))))


def _balanced(labels: NDArray[np.int64], positions: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` of the positions, rising: of each class as many, or all of those that have fewer."""
    shuffled = numpy_generator(seed, PURPOSE).permutation(positions)
    rank = np.empty(len(shuffled), np.int64)
    for label in np.unique(labels[shuffled]):
        own = labels[shuffled] == label
        rank[own] = np.arange(own.sum())
    return np.sort(shuffled[np.lexsort((labels[shuffled], rank))][:count]).astype(np.int64)
