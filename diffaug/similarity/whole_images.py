"""Pairs of small or smooth images that show the same, compared as a whole."""

from collections.abc import Callable, Sequence
from itertools import chain

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.runtime.parallel import in_threads, one_thread_each
from diffaug.similarity.copies import QUERIES_AT_ONCE, either_way
from diffaug.similarity.registration import (
    COARSE,
    IMAGES_AT_ONCE,
    THUMBNAIL,
    WHOLE,
    describe,
    registered_distances,
    searchable,
    tangent_distances,
    tangent_probes,
)
from diffaug.similarity.thresholds import NEAR_DUPLICATE_DISTANCE, NEAR_DUPLICATE_RATIO, WORTH_REGISTERING

SHORTLIST, BEYOND = 16, 0.05
MOST_DISTANCES = 2**20  # taken at once, so that memory does not grow with the number of images
PLAIN_SHARE = 0.05  # of the variance of an image without structure is not that of a plane
REGISTERED = (SHORTLIST, 6, 4, 4)


def matched_as_a_whole(
    pictures: Sequence[NDArray[np.uint8]],
    chosen: NDArray[np.int64],
    progress: Callable[[int], None] = lambda done: None,
) -> NDArray[np.int64]:
    """Pairs (P, 2) of the chosen images that show the same; `progress` counts the images.

    Two images show the same when they hardly differ once registered (`registration`), and when one of them is also
    five times farther from the least similar of the images most like it. The second condition keeps apart what is
    merely alike, as parts on one background are; unlike the ratio to the next neighbor it finds series of up to
    fifteen pictures, whose first and last one count as one picture even where they differ.
    """
    pairs = [np.empty((0, 2), np.int64)]
    with one_thread_each():  # operations are so small that the threads of torch would mostly wait for each other
        images = _thumbnails(pictures, chosen) if len(chosen) else torch.empty(0, 1, 1, 1, dtype=torch.uint8)
        structured = _have_structure(images)
        images, chosen = images[structured], chosen[structured.numpy()]
        if len(chosen) > 1:
            parts = torch.split(images, IMAGES_AT_ONCE)
            flipped = (part.flip(3) for part in parts)
            either = searchable(torch.cat([describe(part.float(), COARSE) for part in chain(parts, flipped)]))
            blocks = torch.split(torch.arange(len(images)), max(1, min(QUERIES_AT_ONCE, MOST_DISTANCES // len(either))))
            found = in_threads(lambda positions: _pairs_of(positions, images, either), blocks)
            for positions, pair in zip(blocks, found, strict=True):
                pairs.append(chosen[pair])
                progress(int(positions[-1]) + 1)
    return np.concatenate(pairs)


def _thumbnails(pictures: Sequence[NDArray[np.uint8]], chosen: NDArray[np.int64]) -> Tensor:
    """The chosen pictures squeezed to one shape of at most 32 px, uint8 (N, C, h, w)."""
    shapes = [pictures[image].shape for image in chosen]
    height, width = (min(THUMBNAIL, max(shape[axis] for shape in shapes)) for axis in (0, 1))
    channels = max(shape[2] for shape in shapes)
    images = np.empty((len(chosen), height, width, channels), np.uint8)
    for thumbnail, image in zip(images, chosen, strict=True):
        squeezed = cv2.resize(np.ascontiguousarray(pictures[image]), (width, height), interpolation=cv2.INTER_AREA)
        thumbnail[:] = squeezed.reshape(height, width, -1)
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _have_structure(images: Tensor) -> Tensor:
    """Which images (N, C, h, w) show more than light that falls off to one side, bool (N,)."""
    steps = [torch.linspace(-1, 1, side) if side > 1 else torch.zeros(1) for side in images.shape[2:]]
    plane = torch.stack([one.flatten() for one in torch.meshgrid(*steps, indexing="ij")])  # (2, h * w)
    plane = plane / plane.norm(dim=1, keepdim=True).clamp_min(1e-6)

    def beyond_plane(part: Tensor) -> Tensor:
        centered = part.float().flatten(2)
        centered = centered - centered.mean(dim=2, keepdim=True)
        left = centered - (centered @ plane.T) @ plane
        structured: Tensor = left.square().sum(dim=(1, 2)) > PLAIN_SHARE * centered.square().sum(dim=(1, 2))
        return structured

    return torch.cat([beyond_plane(part) for part in torch.split(images, IMAGES_AT_ONCE)])


def _pairs_of(positions: Tensor, images: Tensor, either: Tensor) -> NDArray[np.int64]:
    """The pairs (P, 2) that begin with one of these images."""
    queries = images[positions].float()
    distances = tangent_distances(tangent_probes(queries) @ either.T).clamp_min(0).sqrt()
    excluded = (positions[:, None] == torch.arange(len(images))).repeat(1, 2)
    nearest, found = distances.masked_fill(excluded, torch.inf).topk(min(SHORTLIST, len(either) - 2), largest=False)
    alike = nearest[:, 0] < WORTH_REGISTERING
    positions, queries, nearest, found = positions[alike], queries[alike], nearest[alike], found[alike]
    windows = torch.tensor(WHOLE).expand(*found.shape, 3)
    references = either_way(images, found).float()
    registered = registered_distances(queries, references, windows, registered=REGISTERED, beyond=BEYOND)
    registered = registered.masked_fill(nearest.isinf(), torch.nan)
    farthest = registered.nan_to_num(0).amax(dim=1, keepdim=True)
    same = (registered < NEAR_DUPLICATE_DISTANCE) & (registered < NEAR_DUPLICATE_RATIO * farthest)
    rows, columns = same.nonzero(as_tuple=True)
    return torch.stack([positions[rows], found[rows, columns] % len(images)], dim=1).numpy()
