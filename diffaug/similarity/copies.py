"""Which images show a training image: as it is, mirrored, cropped and enlarged again, or compressed.

A coarse search over mirrored and cropped variants of all training images gives a short list, and each image on it is
moved and scaled until it fits best (`registration`). The ratio of the remaining distance to that of the nearest image
of another group decides (Gu et al. 2023, arXiv 2310.02664).
"""

from dataclasses import dataclass
from itertools import chain, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.runtime.parallel import Progress, one_thread_each
from diffaug.runtime.seeding import numpy_generator
from diffaug.similarity.registration import (
    COARSE,
    FINE,
    IMAGES_AT_ONCE,
    WHOLE,
    averaged,
    describe,
    registered_distances,
    searchable,
    tangent_distances,
    tangent_probes,
    thumbnails,
)
from diffaug.similarity.thresholds import COPY_RATIO, NEW_RATIO, ROUNDING

GENERATED = -1  # the group of images that belong to no training image
CROP_SIDE, CROP_POSITION = 0.9, 0.7  # in shares of the image, and of the room that a crop has
COMPONENTS = 64
SHORTLIST = 8
REGISTERED = (SHORTLIST, 4)
QUERIES_AT_ONCE = 64
CALIBRATED_ON = 4000


@dataclass(frozen=True)
class Matches:
    """The nearest training image of each of N images.

    The ratio is the distance to it over that to the nearest one of another group; 1 where there is nothing to compare.
    """

    ratios: NDArray[np.float32]  # (N,) in [0, 1]; 0 where there is no difference
    distances: NDArray[np.float32]  # (N,) in [0, 2], between normalized thumbnails after registration
    nearest: NDArray[np.int64]  # (N,), its position among the training images


class CopyDetector:
    """Finds the training image that an image shows, given training images (M, H, W, C) and their groups (M,)."""

    def __init__(self, pixels: NDArray[np.uint8], groups: NDArray[np.int64], device: str = "cpu") -> None:
        self._thumbnails = thumbnails(pixels, device)
        self._groups = torch.from_numpy(np.array(groups)).to(device)
        reach = CROP_POSITION * (1 - CROP_SIDE) / 2
        corners = [(0.5 + y, 0.5 + x, CROP_SIDE) for y, x in product((-reach, reach), repeat=2)]
        self._windows = torch.tensor([WHOLE, (0.5, 0.5, CROP_SIDE), *corners], device=device)  # (V, 3)
        images = torch.split(self._thumbnails, IMAGES_AT_ONCE)
        whole = torch.cat([describe(part, COARSE) for part in images])
        with one_thread_each():
            self._basis = torch.linalg.svd(whole, full_matrices=False).Vh[:COMPONENTS].T
        variants = [
            torch.stack([searchable(describe(part, COARSE, one[None]) @ self._basis) for one in self._windows])
            for part in chain(images, (part.flip(3) for part in images))
        ]
        self._variants = torch.cat(variants, dim=1)  # (windows, 2 M, components + 2)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of the `descriptor_maps` of these images."""
        return _map_shape(self._thumbnails)

    def match(
        self,
        pixels: NDArray[np.uint8],
        groups: NDArray[np.int64] | None = None,
        progress: Progress = lambda done, total: None,
    ) -> Matches:
        """The training image that each image shows, or is most like; for training images, outside their own group."""
        own = np.full(len(pixels), GENERATED) if groups is None else groups
        blocks = (slice(start, start + QUERIES_AT_ONCE) for start in range(0, len(pixels), QUERIES_AT_ONCE))
        parts = []
        for block in blocks:
            parts.append(self._match(pixels[block], own[block]))
            progress(min(block.stop, len(pixels)), len(pixels))
        none = (np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
        return Matches(*(np.concatenate(columns) for columns in zip(none, *parts, strict=True)))

    def _match(self, pixels: NDArray[np.uint8], own: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """The fields of `Matches`."""
        queries = thumbnails(pixels, str(self._thumbnails.device))
        excluded = torch.from_numpy(own).to(queries.device)[:, None] == self._groups
        found, windows = self._search(queries, excluded)
        images = found % len(self._thumbnails)
        distances = registered_distances(queries, either_way(self._thumbnails, found), windows, registered=REGISTERED)
        distances = distances.masked_fill(excluded.gather(1, images), torch.inf)
        first = distances.argmin(dim=1, keepdim=True)
        nearest, second = distances.gather(1, first), _next_group(distances, self._groups[images], first)
        ratios = torch.where(nearest < second, nearest / second, 1.0).masked_fill(nearest < ROUNDING, 0)
        return tuple(column[:, 0].cpu().numpy() for column in (ratios, nearest, images.gather(1, first)))

    def _search(self, queries: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (N, S) of the images most like each query, plus M if mirrored, and first windows (N, S, 3)."""
        probes = tangent_probes(queries, self._basis)
        best = torch.full((len(queries), self._variants.shape[1]), torch.inf, device=queries.device)
        for variant in self._variants:
            torch.minimum(best, tangent_distances(probes @ variant.T), out=best)
        best = best.masked_fill(excluded.repeat(1, 2), torch.inf)
        found = best.topk(min(SHORTLIST, best.shape[1]), dim=1, largest=False).indices
        products = torch.einsum("knc,vnsc->kvns", probes, self._variants[:, found])
        return found, self._windows[tangent_distances(products).argmin(dim=0)]


def _next_group(distances: Tensor, groups: Tensor, first: Tensor) -> Tensor:
    """Distance (N, 1) to the nearest image of another group than that of `first`.

    Where all (N, S) are one group, the farthest stands for it: what was not on the short list is no nearer.
    """
    elsewhere = distances.masked_fill(groups == groups.gather(1, first), torch.inf).amin(dim=1, keepdim=True)
    farthest = distances.masked_fill(distances.isinf(), 0).amax(dim=1, keepdim=True)
    return torch.where(elsewhere.isinf(), farthest, elsewhere)


def copy_threshold(
    detector: CopyDetector,
    pixels: NDArray[np.uint8],
    groups: NDArray[np.int64],
    *,
    share: float,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> float:
    """The ratio below which an image is a copy, such that at most a share in [0, 1] of new images is taken for one.

    Training images, 4,000 at most, are compared with the other groups, as new ones would be. Below a ratio of 1/3 they
    are copies of each other and no example of a new image, so the threshold is never lower; nor is it above 2/3 where
    there are too few images for the share to mean one of them.
    """
    chosen = np.sort(numpy_generator(seed, "copy threshold").permutation(len(pixels))[:CALIBRATED_ON])
    ratios = np.sort(detector.match(pixels[chosen], groups[chosen], progress).ratios)
    highest = NEW_RATIO if share * len(ratios) < 1 else 1.0
    return min(max(COPY_RATIO, float(ratios[int(share * len(ratios))])), highest)


def descriptor_maps(pixels: NDArray[np.uint8], device: str = "cpu") -> NDArray[np.float32]:
    """uint8 (N, H, W, C) to float32 (N, C, h, w) of length 1: at most 16 px, without mean and contrast."""
    images = thumbnails(pixels, device)
    return describe(images, FINE).reshape(len(images), *_map_shape(images)).cpu().numpy()


def _map_shape(images: Tensor) -> tuple[int, int, int]:
    channels, height, width = images.shape[1:]
    return channels, averaged(height, FINE), averaged(width, FINE)


def either_way(images: Tensor, found: Tensor) -> Tensor:
    """Images (N, S, C, H, W) by position (N, S) among M; from M on they are the same ones, mirrored."""
    mirrored = found >= len(images)
    chosen = images[found % len(images)]
    chosen[mirrored] = chosen[mirrored].flip(3)
    return chosen
