"""Masks drawn where an image differs from images of the background class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from scipy.ndimage import binary_fill_holes, gaussian_filter, label

from diffaug.runtime.seeding import numpy_generator
from diffaug.synthesis.pool.transplants import Masks, bounding_box

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]

SCALES = (0.03, 0.06)  # of the short side of an image: standard deviations of the spots that are looked for
ENVELOPE = 0.05  # the same for the blur of the energy of what is found, which swings
NEAREST = 50  # background images that an image is compared with
MOST_BACKGROUND, FEWEST_BACKGROUND = 200, 3  # background images that are looked at
UNUSUAL = 0.5  # quantile, over background images, of the largest difference in each
LEAST_OF_LARGEST = 0.6  # of the largest difference in an image; where it is above, the object is
LEAST_OF_PARTS = 0.2  # smaller parts are left out, as a share of the largest one
# All but the numbers of images were chosen on the training images of the made set `benchmarks/marks.py`.

FLOOR = 0.1  # of the mean power of differences, which no frequency is below
_AXES = (1, 2)  # height and width


def difference_masks(images: Pixels, background: Pixels, seed: int) -> Masks:
    """Where images (N, H, W, C) differ from the nearest ones of the background class (M, H, W, C), bool (N, H, W).

    The difference to the median of the nearest ones is filtered for spots of two sizes, frequencies weighed by how
    little background images differ in them, as a matched filter does. Where the largest value in
    an image is no larger than usual in background images, its mask is empty.
    """
    masks = np.zeros(images.shape[:3], np.bool_)
    if len(background) < FEWEST_BACKGROUND:
        return masks
    usual = _Usual(np.asarray(background[some_of(len(background), seed)]).astype(np.float32))
    for number in range(len(images)):
        (score,) = usual.scores(usual.difference(np.asarray(images[number]).astype(np.float32))[None])
        masks[number] = _object(score, usual.largest)
    return masks


def some_of(count: int, seed: int) -> NDArray[np.int64]:
    """Positions of at most `MOST_BACKGROUND` of so many background images, in ascending order."""
    order = numpy_generator(seed, "difference to the background").permutation(count)
    return np.sort(order[:MOST_BACKGROUND])


def box_masks(masks: Masks) -> Masks:
    """The smallest rectangle around each mask (N, H, W); an empty mask stays empty."""
    boxes = np.zeros_like(masks)
    for box, mask in zip(boxes, masks, strict=True):
        if mask.any():
            box[bounding_box(mask)] = True
    return boxes


class _Usual:
    """How images of the background class (M, H, W, C) differ from each other.

    Attributes:
        largest: The largest score that is usual in such an image.
    """

    def __init__(self, reference: Values) -> None:
        self._reference = reference
        differences = np.stack([self.difference(image, number) for number, image in enumerate(reference)])
        power = np.square(dctn(differences, axes=_AXES, norm="ortho")).mean(axis=0)
        self._weights = 1 / (power + FLOOR * power.mean() + np.finfo(np.float32).tiny)
        self._spread = np.ones((len(SCALES), 1, 1, 1, reference.shape[3]), np.float32)
        self._spread = self._responses(differences).std(axis=(1, 2, 3), keepdims=True) + 1e-6
        self.largest = float(np.quantile(self.scores(differences).max(axis=(1, 2)), UNUSUAL))

    def difference(self, image: Values, number: int | None = None) -> Values:
        """The difference of an image (H, W, C) to the nearest ones, itself, which is `number`, left out."""
        distances = np.square(self._reference - image).mean(axis=(1, 2, 3))
        if number is not None:
            distances[number] = np.inf
        near = np.argsort(distances, kind="stable")[: min(NEAREST, len(distances) - 1)]
        return np.asarray(image - np.median(self._reference[near], axis=0), np.float32)

    def scores(self, differences: Values) -> Values:
        """How unusual each pixel of differences (N, H, W, C) is, at any scale and in any channel, (N, H, W)."""
        energy = np.square(self._responses(differences)).max(axis=(0, 4))
        sigma = ENVELOPE * min(energy.shape[1:])
        return np.asarray(np.sqrt(gaussian_filter(energy, (0, sigma, sigma))), np.float32)

    def _responses(self, differences: Values) -> Values:
        """Differences filtered at each scale, in units of their spread in background images, (S, N, H, W, C)."""
        height, width = differences.shape[1:3]
        transformed = dctn(differences, axes=_AXES, norm="ortho") * self._weights
        down, across = np.arange(height)[:, None] / height, np.arange(width) / width
        filtered = []
        for scale in SCALES:
            sigma = scale * min(height, width)
            spot = np.exp(-0.5 * (np.pi * sigma) ** 2 * (down**2 + across**2))
            filtered.append(idctn(transformed * spot[..., None], axes=_AXES, norm="ortho"))
        return np.asarray(np.stack(filtered) / self._spread, np.float32)


def _object(score: Values, threshold: float) -> NDArray[np.bool_]:
    """The connected parts where a score (H, W) is large, without small ones and with holes filled, bool (H, W)."""
    largest = float(score.max())
    if largest <= threshold:
        return np.zeros(score.shape, np.bool_)
    parts, count = label(score > LEAST_OF_LARGEST * largest, np.ones((3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    kept = np.unique(parts[score > max(threshold, LEAST_OF_LARGEST * largest)])
    return np.asarray(binary_fill_holes(np.isin(parts, kept[sizes[kept] >= LEAST_OF_PARTS * sizes[kept].max()])))
