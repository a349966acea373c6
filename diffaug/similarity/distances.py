"""How near synthetic images come to trained images, compared with images never trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from diffaug.runtime.devices import full_float32
from diffaug.runtime.seeding import numpy_generator
from diffaug.similarity.intervals import Estimate, Share
from diffaug.similarity.thresholds import COPY_RATIO, DUPLICATE_SHARE_OF_DISTANCE, ROUNDING

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]

FEATURE_SIZE = 16  # px
MIN_HELD_OUT = 5
REPLICATES = 400
CHUNK, QUERIES = 1024, 64  # images compared at once
SMALLEST = 1e-12

ROWS_AT_ONCE = 256
Maps = NDArray[np.float32]
"""Descriptors (N, C, h, w), each of length 1."""


@dataclass(frozen=True)
class Described:
    """Images as the audit compares them."""

    features: Floats  # (N, F), in which distances are taken
    labels: Labels  # class indices (N,)
    groups: Labels  # (N,); images of one group or of equal pixels share a number, `GENERATED` belongs to no image

    def of_class(self, index: int) -> Described:
        """The images of one class."""
        own = self.labels == index
        return Described(self.features[own], self.labels[own], self.groups[own])


@dataclass(frozen=True)
class Distances:
    """Of one class, the logarithms of distances to the nearest trained image over those to the nearest held-out one."""

    samples: Floats  # of each synthetic image (M,)
    held: Floats  # of the held-out images themselves (H,), as a reference


def small_pictures(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels (N, H, W, C) averaged down to at most 16 x 16 px, where copies lie near each other: (N, F) in [0, 1]."""
    height, width = (min(FEATURE_SIZE, length) for length in pixels.shape[1:3])
    parts = [
        adaptive_avg_pool2d(part.permute(0, 3, 1, 2).float() / 255, (height, width)).flatten(1)
        for part in torch.split(torch.from_numpy(np.array(pixels)), CHUNK)
    ]
    return np.asarray(torch.cat(parts).numpy())


def nearest_ratios(samples: Described, trained: Described) -> Floats:
    """The `neighbor_ratios` of samples and trained images of any class, (M,)."""
    if not len(samples.labels):
        return np.empty(0)
    columns = (samples.features, samples.groups, trained.features, trained.groups)
    return neighbor_ratios(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns)).numpy()


def neighbor_ratios(queries: Tensor, query_groups: Tensor, references: Tensor, reference_groups: Tensor) -> Tensor:
    """Distance to the nearest reference over the distance to the nearest one of another group, in [0, 1].

    Below 1/3 an image is a copy (Gu et al. 2023, arXiv 2310.02664). Taking the second neighbor from another group
    keeps near-duplicates in the training set, which lie equally near to a copy, from hiding it. References of a query's
    own group are left out. The ratio is 1 where there are no two groups to compare.
    """
    parts = zip(torch.split(queries, QUERIES), torch.split(query_groups, QUERIES), strict=True)
    return torch.cat([_chunk_ratios(features, groups, references, reference_groups) for features, groups in parts])


def _chunk_ratios(queries: Tensor, query_groups: Tensor, references: Tensor, reference_groups: Tensor) -> Tensor:
    # Up to |query|^2, which changes no order (TF32 would); the two distances are then taken without cancellation.
    with full_float32():
        order = references.square().sum(dim=1) - 2 * queries @ references.T
    order = order.masked_fill(query_groups[:, None] == reference_groups, torch.inf)
    nearest = order.argmin(dim=1)
    order = order.masked_fill(reference_groups[nearest][:, None] == reference_groups, torch.inf)
    second = order.argmin(dim=1)
    distances = [(queries - references[index]).norm(dim=1) for index in (nearest, second)]
    comparable = torch.isfinite(order.gather(1, second[:, None])[:, 0]) & (distances[1] > 0)
    return torch.where(comparable, distances[0] / distances[1], torch.ones_like(distances[0]))


def copies_among(ratios: Tensor) -> Share:
    """The share of copies among `neighbor_ratios` (Q,)."""
    return Share(int((ratios < COPY_RATIO).sum()), len(ratios))


def compare_distances(samples: Described, trained: Described, held: Described) -> Distances | None:
    """Compares the images of one class; None where there are fewer than 5 groups of held-out images.

    A ratio of distances to trained and to held-out images depends on how many there are of each and on how much
    a generator blurs. Held-out images, against the others held out, show what it is for images never trained on.
    """
    names, group = np.unique(held.groups, return_inverse=True)
    if len(names) < MIN_HELD_OUT or not len(trained.labels):
        return None
    of_held = _to_groups(held.features, held.features, group)
    of_held[np.arange(len(group)), group] = np.inf
    # Held-out images are compared with all groups but their own, so samples with all but one: on average over which.
    near, next_one = np.sort(_to_groups(samples.features, held.features, group), axis=1)[:, :2].T
    of_samples = ((len(names) - 1) * near + next_one) / len(names)
    return Distances(
        _to_nearest(samples.features, trained.features) - of_samples,
        _to_nearest(held.features, trained.features) - of_held.min(axis=1),
    )


def distance_ratio(classes: Sequence[Distances], *, seed: int) -> Estimate | None:
    """How much nearer synthetic images lie to trained images than images never trained on do; None without any.

    The median of the synthetic images' relative distance over that of held-out images; classes count by their
    held-out images on both sides. 1: no nearer; 0: each lies on a trained image. The interval is a bootstrap over
    synthetic and held-out images of each class (percentiles).
    """
    classes = [distances for distances in classes if len(distances.samples)]
    if not classes:
        return None
    draws = numpy_generator(seed, "distance ratio")
    weights = np.concatenate([np.full(len(part.samples), len(part.held) / len(part.samples)) for part in classes])

    def shift(draw: Callable[[Floats], Floats]) -> float:
        samples = np.concatenate([draw(part.samples) for part in classes])
        held = np.concatenate([draw(part.held) for part in classes])
        return _median(samples, weights) - _median(held, np.ones(len(held)))

    replicates = [shift(lambda part: draws.choice(part, len(part))) for _ in range(REPLICATES)]
    low, high = np.quantile(replicates, (0.025, 0.975))
    return Estimate(*(float(np.exp(value)) for value in (shift(np.asarray), low, high)))


def _to_nearest(queries: Floats, references: Floats) -> Floats:
    """Logarithm of the distance to the nearest reference, (Q,)."""
    others = torch.from_numpy(references)
    parts = [_distances(part, others).amin(dim=1) for part in torch.split(torch.from_numpy(queries), CHUNK)]
    return _log(torch.cat(parts)) if len(queries) else np.empty(0)


def _to_groups(queries: Floats, references: Floats, groups: Labels) -> Floats:
    """Logarithms of the distances to the nearest reference of each group 0..U-1, (Q, U)."""
    distances = _distances(torch.from_numpy(queries), torch.from_numpy(references))
    return _log(torch.stack([distances[:, groups == group].amin(dim=1) for group in range(groups.max() + 1)], dim=1))


def _distances(left: Tensor, right: Tensor) -> Tensor:
    # The faster way, by a matrix product, loses the distances of near-copies to cancellation.
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")


def _log(distances: Tensor) -> Floats:
    return np.asarray(distances.clamp_min(SMALLEST).log().double().numpy())


def _median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    half = cumulative[-1] / 2
    low, high = (np.searchsorted(cumulative, half, side=side) for side in ("left", "right"))
    return float((values[order[low]] + values[order[min(high, len(order) - 1)]]) / 2)


def mirrored_distances(queries: Maps, references: Maps) -> NDArray[np.float32]:
    """Distances (N, M) in [0, 2] to references (M, C, h, w) as they are or mirrored, whichever is nearer."""
    rows = queries.reshape(len(queries), -1)
    cosines = [rows @ maps.reshape(len(maps), -1).T for maps in (references, references[..., ::-1])]
    return np.asarray(np.sqrt((2 - 2 * np.maximum(*cosines)).clip(0)), dtype=np.float32)


def duplicate_thresholds(
    maps: Maps, labels: NDArray[np.int64], groups: NDArray[np.int64], num_classes: int, share: float
) -> NDArray[np.float32]:
    """For each class the distance below which two images show the same, float32 (K,).

    Chosen so that at most the share of the real images (N, C, h, w), in all classes and in its own, is as near to
    another group of its class, and then closer by a third, see `DUPLICATE_SHARE_OF_DISTANCE`.
    """
    nearest = np.full(len(maps), np.inf, np.float32)
    for label in range(num_classes):
        own = np.flatnonzero(labels == label)
        for rows in _blocks(own):
            distances = mirrored_distances(maps[rows], maps[own])
            distances[groups[rows][:, None] == groups[own]] = np.inf
            nearest[rows] = distances.min(axis=1, initial=np.inf)
    of_all = _lower_quantile(nearest, share)
    limits = [min(of_all, _lower_quantile(nearest[labels == label], share)) for label in range(num_classes)]
    return np.array(limits, np.float32) * np.float32(DUPLICATE_SHARE_OF_DISTANCE)


def find_duplicates(maps: Maps, threshold: float, known: int = 0) -> NDArray[np.bool_]:
    """Which images show the same as an earlier one that is not a duplicate itself, bool (N,).

    Images nearer than the threshold show the same, and those without any difference always. The first `known` images
    are no duplicates.
    """
    found = np.zeros(len(maps), np.bool_)
    for rows in _blocks(np.arange(known, len(maps))):
        alike = mirrored_distances(maps[rows], maps[: rows[-1] + 1]) < max(threshold, ROUNDING)
        for row, like in zip(rows, alike, strict=True):
            found[row] = bool((like[:row] & ~found[:row]).any())
    return found


def _blocks(positions: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(positions), ROWS_AT_ONCE):
        yield positions[start : start + ROWS_AT_ONCE]


def _lower_quantile(values: NDArray[np.float32], share: float) -> float:
    """The largest value below which at most the share of the finite values lies; 0 without any."""
    finite = np.sort(values[np.isfinite(values)])
    return float(finite[int(share * len(finite))]) if len(finite) else 0.0
