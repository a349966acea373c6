"""Which images of a data set show nearly the same picture: saved again, cropped, mirrored, or taken at once.

Such images must stay on one side of every split, or a test image is one that was trained on.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from diffaug.similarity.copies import QUERIES_AT_ONCE, either_way
from diffaug.similarity.registration import (
    COARSE,
    IMAGES_AT_ONCE,
    WHOLE,
    describe,
    registered_distances,
    searchable,
    tangent_distances,
    tangent_probes,
    thumbnails,
)
from diffaug.similarity.thresholds import NEAR_DUPLICATE_DISTANCE, NEAR_DUPLICATE_RATIO, WORTH_REGISTERING

SHORTLIST, BEYOND = 16, 0.05
REGISTERED = (SHORTLIST, 6, 4, 4)


def near_duplicates(pixels: NDArray[np.uint8], progress: Callable[[int, int], None] | None = None) -> NDArray[np.int64]:
    """For each image the position of the first one that shows its picture, which may be itself, int64 (N,).

    Two images are taken for one picture when they hardly differ once registered (`registration`), and when one of them
    is also five times farther from the least similar of the images most like it. The second condition keeps apart what
    is merely alike, as parts on one background are; unlike the ratio to the next neighbor it finds series of up to
    fifteen pictures, whose first and last one count as one picture even where they differ.
    """
    if len(pixels) < 2:
        return np.arange(len(pixels))
    images = thumbnails(pixels, "cpu")
    parts = torch.split(images, IMAGES_AT_ONCE)
    either = searchable(torch.cat([describe(part, COARSE) for part in (*parts, *(part.flip(3) for part in parts))]))
    pairs = [np.empty((0, 2), np.int64)]
    for positions in torch.split(torch.arange(len(images)), QUERIES_AT_ONCE):
        pairs.append(_pairs_of(positions, images, either))
        if progress:
            progress(int(positions[-1]) + 1, len(images))
    joined = np.concatenate(pairs)
    graph = coo_matrix((np.ones(len(joined)), joined.T), shape=(len(pixels), len(pixels)))
    _, components = connected_components(graph, directed=False)
    _, first, picture = np.unique(components, return_index=True, return_inverse=True)
    return np.asarray(first[picture], np.int64)


def _pairs_of(positions: Tensor, images: Tensor, either: Tensor) -> NDArray[np.int64]:
    """The pairs (P, 2) that begin with one of these images."""
    distances = tangent_distances(tangent_probes(images[positions]) @ either.T).clamp_min(0).sqrt()
    itself = torch.arange(len(either))[None] % len(images) == positions[:, None]
    nearest, found = distances.masked_fill(itself, torch.inf).topk(min(SHORTLIST, len(either) - 2), largest=False)
    alike = nearest[:, 0] < WORTH_REGISTERING
    positions, found = positions[alike], found[alike]
    windows = torch.tensor(WHOLE).expand(*found.shape, 3)
    registered = registered_distances(
        images[positions], either_way(images, found), windows, registered=REGISTERED, beyond=BEYOND
    )
    farthest = registered.amax(dim=1, keepdim=True)
    same = (registered < NEAR_DUPLICATE_DISTANCE) & (registered < NEAR_DUPLICATE_RATIO * farthest)
    rows, columns = same.nonzero(as_tuple=True)
    return torch.stack([positions[rows], found[rows, columns] % len(images)], dim=1).numpy()
