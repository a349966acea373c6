"""From keypoints to one short vector per image, in which changed copies lie near each other.

Descriptors are reduced by principal components and summed up by the differences to the nearest of 64 centers (VLAD:
Jegou et al. 2010, with the normalizations of Arandjelovic and Zisserman 2013), which are reduced and whitened in turn
(Jegou and Chum 2012). All of it is learned from the images at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.runtime.seeding import numpy_generator
from diffaug.similarity.keypoints.detect import mirrored_descriptors

Floats = NDArray[np.float32]

REDUCED = 32  # components of a descriptor
CENTERS = 64
SIGNATURE = 256  # components of an image's vector
FITTED_ON = 40_000  # descriptors that the centers are chosen on


@dataclass(frozen=True)
class Vocabulary:
    """What reduces descriptors and describes images."""

    mean: Floats  # (128,)
    basis: Floats  # (128, D)
    centers: Floats  # (C, D)
    origin: Floats  # (C * D,)
    whitening: Floats  # (C * D, S)

    def reduce(self, descriptors: Floats) -> Floats:
        """Descriptors (K, 128) to (K, D)."""
        return np.asarray((descriptors - self.mean) @ self.basis, np.float32)

    def mirror(self, reduced: Floats) -> Floats:
        """The reduced descriptors (K, D) of the mirrored image."""
        return self.reduce(mirrored_descriptors(reduced @ self.basis.T + self.mean))

    def signature(self, reduced: Floats) -> Floats:
        """The vector (S,) of an image with these reduced descriptors (K, D); of length 1, or 0 without any."""
        if not len(reduced):
            return np.zeros(self.whitening.shape[1], np.float32)
        return _unit(np.asarray((_aggregated(reduced, self.centers) - self.origin) @ self.whitening, np.float32))


def fit_vocabulary(images: Sequence[Floats]) -> Vocabulary:
    """Learns a vocabulary from the descriptors (K, 128) of each of some images."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits  # a requirement of scikit-learn

    every = np.concatenate([np.zeros((1, 128), np.float32), *images])
    chosen = numpy_generator(0, "vocabulary").permutation(len(every))[:FITTED_ON]
    with threadpool_limits(1):  # more threads round otherwise, and other centers follow
        some = every[np.sort(chosen)]
        mean = some.mean(axis=0)
        basis = _principal(some - mean, REDUCED)[0]
        reduced = (some - mean) @ basis
        number = max(1, min(CENTERS, len(reduced) // 8))
        centers = MiniBatchKMeans(number, random_state=0, n_init=1).fit(reduced).cluster_centers_.astype(np.float32)
        vectors = np.stack(
            [_aggregated((one - mean) @ basis, centers) for one in images if len(one)] or [centers.ravel()]
        )
        origin = vectors.mean(axis=0)
        axes, deviations = _principal(vectors - origin, SIGNATURE)
    return Vocabulary(mean, basis, centers, origin, axes / np.sqrt(deviations + 1e-3 * deviations.max() + 1e-6))


def _principal(centered: Floats, number: int) -> tuple[Floats, Floats]:
    """The first principal axes (F, number) of vectors (N, F), and the standard deviation along each (number,)."""
    if len(centered) < centered.shape[1]:
        _, lengths, axes = np.linalg.svd(centered, full_matrices=False)
        return axes[:number].T.astype(np.float32), (lengths[:number] / len(centered) ** 0.5).astype(np.float32)
    values, vectors = np.linalg.eigh(centered.T @ centered / len(centered))
    order = np.argsort(-values)[:number]
    return vectors[:, order].astype(np.float32), np.sqrt(values[order].clip(0)).astype(np.float32)


def _aggregated(reduced: Floats, centers: Floats) -> Floats:
    """VLAD (C * D,) of descriptors (K, D), with residuals, cells and the whole of length 1."""
    cells = (reduced @ centers.T - np.square(centers).sum(axis=1) / 2).argmax(axis=1)
    residuals = np.zeros_like(centers)
    np.add.at(residuals, cells, _unit(reduced - centers[cells]))
    flat = _unit(residuals).ravel()
    return _unit(np.sign(flat) * np.sqrt(np.abs(flat)))


def _unit(vectors: Floats) -> Floats:
    """Vectors (..., F) scaled to length 1."""
    return np.asarray(vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-9), np.float32)
