"""The keypoints of all images in a few compact arrays: at most some 8 KB per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.runtime.parallel import MAX_WORKERS
from diffaug.runtime.seeding import numpy_generator
from diffaug.similarity.keypoints.detect import (
    NO_KEYPOINTS,
    Frame,
    Keypoints,
    find_keypoints,
    frame_of,
    mirrored,
    mirrored_descriptors,
    one_native_thread,
)

Pictures = Sequence[NDArray[np.uint8]]
Progress = Callable[[int], None]

FITTED_IMAGES = 600
STEPS = np.float32(127)  # per unit of a component of a descriptor, which lies in [-1, 1]
MIDDLE = 127  # gray level above which twice the exposure is clipped
LEAST_CLIPPED = 0.25  # share of an image
SMALL = 48 * 48  # px; in smaller ones, keypoints of different digits agree (at up to 32 x 32 px, enlarged from 8 x 8)

Floats = NDArray[np.float32]
REDUCED = 32  # components of a descriptor
CENTERS = 64
SIGNATURE = 256  # components of an image's vector
FITTED_ON = 40_000  # descriptors that the centers are chosen on


@dataclass(frozen=True)
class KeypointTable:
    """Rows of keypoints: one per image, then one more, at twice the exposure, per image that it clips."""

    images: NDArray[np.int64]  # (R,), the image of each row
    count: int  # images, N <= R
    widths: NDArray[np.int32]  # (R,), px of each frame
    starts: NDArray[np.int64]  # (R + 1,), where the keypoints of each row begin among all T
    places: NDArray[np.float16]  # (T, 2)
    turns: NDArray[np.float16]  # (T, 2), real and imaginary part
    descriptors: NDArray[np.int8]  # (T, D), in `STEPS`
    signatures: NDArray[np.float16]  # (2, R, S), of each row as it is and mirrored
    vocabulary: Vocabulary

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Keypoints of each row (R,)."""
        return np.diff(self.starts)

    def keypoints(self, row: int, *, mirror: bool = False) -> Keypoints:
        """The keypoints of a row, or of its mirror image."""
        own = slice(self.starts[row], self.starts[row + 1])
        descriptors = np.asarray(self.descriptors[own] / STEPS, np.float32)
        turns = self.turns[own].astype(np.float32).view(np.complex64)[:, 0]
        found = Keypoints(self.places[own].astype(np.float32), turns, descriptors)
        return mirrored(found, int(self.widths[row]), self.vocabulary.mirror(descriptors)) if mirror else found

    def frame(self, pictures: Pictures, row: int) -> Frame:
        """The frame that a row describes."""
        frame = frame_of(pictures[self.images[row]])
        return frame if row < self.count else doubled(frame)


@dataclass(frozen=True)
class _Row:
    image: int
    width: int
    places: NDArray[np.float16]
    turns: NDArray[np.float16]
    descriptors: NDArray[np.int8]
    signatures: NDArray[np.float16]  # (2, S)


def describe_pictures(pictures: Pictures, progress: Progress = lambda done: None) -> KeypointTable:
    """Finds the keypoints of all pictures, in threads (OpenCV computes outside of Python's lock)."""
    count = len(pictures)
    sample = np.unique(np.linspace(0, count - 1, min(count, FITTED_IMAGES)).astype(np.int64)).tolist()
    base: list[_Row] = []
    clipped: list[_Row] = []
    with one_native_thread(), ThreadPoolExecutor(threads_to_use()) as threads:
        sampled = threads.map(lambda image: _keypoints_of(pictures[image]), sample)
        found = dict(zip(sample, sampled, strict=True))
        vocabulary = fit_vocabulary([one.descriptors for one in found.values()])
        described = threads.map(lambda image: _rows(pictures[image], image, vocabulary, found.get(image)), range(count))
        for number, rows in enumerate(described):
            base.append(rows[0])
            clipped.extend(rows[1:])
            progress(number + 1)
    return _table([*base, *clipped], count, vocabulary)


def threads_to_use() -> int:
    """One thread per usable core, at most 8."""
    from joblib import cpu_count

    return min(MAX_WORKERS, int(cpu_count()))


def doubled(frame: Frame) -> Frame:
    """A frame at twice the exposure."""
    return np.asarray(np.minimum(frame.astype(np.int16) * 2, 255), np.uint8)


def _rows(picture: NDArray[np.uint8], image: int, vocabulary: Vocabulary, found: Keypoints | None = None) -> list[_Row]:
    """The row of an image, with its keypoints if they are known, and the one at twice the exposure."""
    frame = frame_of(picture)
    rows = [_row(found or _keypoints_of(picture), image, frame.shape[1], vocabulary)]
    if len(rows[0].places) and np.mean(frame > MIDDLE) > LEAST_CLIPPED:
        rows.append(_row(find_keypoints(doubled(frame)), image, frame.shape[1], vocabulary))
    return [rows[0], *(row for row in rows[1:] if len(row.places))]


def _keypoints_of(picture: NDArray[np.uint8]) -> Keypoints:
    return find_keypoints(frame_of(picture)) if picture.shape[0] * picture.shape[1] >= SMALL else NO_KEYPOINTS


def _row(found: Keypoints, image: int, width: int, vocabulary: Vocabulary) -> _Row:
    reduced = vocabulary.reduce(found.descriptors)
    return _Row(
        image,
        width,
        found.places.astype(np.float16),
        np.stack([found.turns.real, found.turns.imag], axis=1).astype(np.float16),
        np.round(reduced * STEPS).astype(np.int8),
        np.stack([vocabulary.signature(one) for one in (reduced, vocabulary.mirror(reduced))]).astype(np.float16),
    )


def _table(rows: Sequence[_Row], count: int, vocabulary: Vocabulary) -> KeypointTable:
    return KeypointTable(
        np.array([row.image for row in rows], np.int64),
        count,
        np.array([row.width for row in rows], np.int32),
        np.cumsum([0, *(len(row.places) for row in rows)]),
        np.concatenate([row.places for row in rows]),
        np.concatenate([row.turns for row in rows]),
        np.concatenate([row.descriptors for row in rows]),
        np.stack([row.signatures for row in rows], axis=1),
        vocabulary,
    )


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
