"""Which images show a training image: as it is, mirrored, cropped and enlarged again, or compressed.

Two images of one class can be more alike than an image and a crop of itself, so images are compared after they were
registered: a coarse search over mirrored and cropped variants of all training images gives a short list, and each on
it is then moved and scaled until it fits best (`registration`). What decides is the remaining distance to the nearest
training image in relation to that of the next one of another group (Gu et al. 2023, arXiv 2310.02664), see
`diffusion.copies`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.runtime.seeding import numpy_generator
from diffaug.runtime.threads import one_thread_each
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

COPY_RATIO = 1 / 3
GENERATED = -1
CROP_SIDE, CROP_POSITION = 0.9, 0.7  # in shares of the image, and of the room that a crop has
SURELY_NEW = 2 / 3
COMPONENTS = 64
SHORTLIST = 8
REGISTERED = (SHORTLIST, 4)
ROUNDING = 1e-3
QUERIES_AT_ONCE = 64
CALIBRATED_ON = 4000


@dataclass(frozen=True)
class Matches:
    """The nearest training image of each of N images.

    Attributes:
        ratios: float32 (N,) in [0, 1], distance to it over the distance to the nearest one of another group; 0 where
            there is no difference to it, and 1 where there is nothing to compare.
        distances: float32 (N,) in [0, 2], between normalised thumbnails after registration.
        nearest: int64 (N,), its position.
    """

    ratios: NDArray[np.float32]
    distances: NDArray[np.float32]
    nearest: NDArray[np.int64]


class CopyDetector:
    """Finds the training image that an image shows.

    Args:
        pixels: uint8 (M, H, W, C), the training images.
        groups: int64 (M,); images of one group or of equal pixels have the same number.
        device: Where to compute.
    """

    def __init__(self, pixels: NDArray[np.uint8], groups: NDArray[np.int64], device: str = "cpu") -> None:
        self._thumbnails = thumbnails(pixels, device)
        self._groups = torch.from_numpy(np.array(groups)).to(device)
        self._windows = _search_windows(device)
        whole = torch.cat([describe(part, COARSE) for part in torch.split(self._thumbnails, IMAGES_AT_ONCE)])
        with one_thread_each():
            self._basis = torch.linalg.svd(whole, full_matrices=False).Vh[:COMPONENTS].T
        mirrored = (part.flip(3) for part in torch.split(self._thumbnails, IMAGES_AT_ONCE))
        self._variants = torch.cat(
            [
                torch.stack([searchable(describe(part, COARSE, one[None]) @ self._basis) for one in self._windows])
                for part in chain(torch.split(self._thumbnails, IMAGES_AT_ONCE), mirrored)
            ],
            dim=1,
        )  # (windows, 2 M, components + 2)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of the `descriptor_maps` of these images."""
        channels, height, width = self._thumbnails.shape[1:]
        return channels, averaged(height, FINE), averaged(width, FINE)

    def match(self, pixels: NDArray[np.uint8], groups: NDArray[np.int64] | None = None) -> Matches:
        """The training image that each image shows, or is most like.

        Args:
            pixels: uint8 (N, H, W, C).
            groups: int64 (N,), for training images: theirs, which does not count.
        """
        own = np.full(len(pixels), GENERATED) if groups is None else groups
        parts = [
            self._match(pixels[start : start + QUERIES_AT_ONCE], own[start : start + QUERIES_AT_ONCE])
            for start in range(0, len(pixels), QUERIES_AT_ONCE)
        ]
        return Matches(
            np.concatenate([np.empty(0, np.float32), *(part.ratios for part in parts)]),
            np.concatenate([np.empty(0, np.float32), *(part.distances for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.nearest for part in parts)]),
        )

    def _match(self, pixels: NDArray[np.uint8], own: NDArray[np.int64]) -> Matches:
        queries = thumbnails(pixels, str(self._thumbnails.device))
        excluded = torch.from_numpy(own).to(queries.device)[:, None] == self._groups
        found, windows = self._search(queries, excluded)
        images = found % len(self._thumbnails)
        distances = registered_distances(queries, either_way(self._thumbnails, found), windows, registered=REGISTERED)
        distances = distances.masked_fill(excluded.gather(1, images), torch.inf)
        first = distances.argmin(dim=1, keepdim=True)
        nearest, second = distances.gather(1, first), _next_group(distances, self._groups[images], first)
        ratios = torch.where(nearest < second, nearest / second, 1.0).masked_fill(nearest < ROUNDING, 0)
        return Matches(*(column[:, 0].cpu().numpy() for column in (ratios, nearest, images.gather(1, first))))

    def _search(self, queries: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
        """The training images most like each query.

        Returns:
            Positions (N, S), those of mirrored images being M larger, and windows to begin with (N, S, 3).
        """
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
    detector: CopyDetector, pixels: NDArray[np.uint8], groups: NDArray[np.int64], *, share: float, seed: int
) -> float:
    """The ratio below which an image is a copy, such that at most a share of new images is taken for one.

    Each training image is compared with the other groups, as a new image would be. Below a ratio of 1/3 training images
    are copies of each other by the published criterion and no example of a new image, so the threshold is never lower;
    nor is it above 2/3 where there are too few images for the share to mean one of them.

    Args:
        detector: Made of these training images.
        pixels: uint8 (M, H, W, C).
        groups: int64 (M,).
        share: Of new images, in [0, 1].
        seed: Chooses 4,000 training images where there are more.
    """
    chosen = np.sort(numpy_generator(seed, "copy threshold").permutation(len(pixels))[:CALIBRATED_ON])
    ratios = np.sort(detector.match(pixels[chosen], groups[chosen]).ratios)
    highest = SURELY_NEW if share * len(ratios) < 1 else 1.0
    return min(max(COPY_RATIO, float(ratios[int(share * len(ratios))])), highest)


def descriptor_maps(pixels: NDArray[np.uint8], device: str = "cpu") -> NDArray[np.float32]:
    """uint8 (N, H, W, C) to float32 (N, C, h, w) of length 1: at most 16 px, without mean and contrast."""
    images = thumbnails(pixels, device)
    count, channels, height, width = images.shape
    maps = describe(images, FINE).reshape(count, channels, averaged(height, FINE), averaged(width, FINE))
    return maps.cpu().numpy()


def either_way(images: Tensor, found: Tensor) -> Tensor:
    """Images (N, S, C, H, W) by position (N, S) among M; from M on they are the same ones, mirrored."""
    mirrored = found >= len(images)
    chosen = images[found % len(images)]
    chosen[mirrored] = chosen[mirrored].flip(3)
    return chosen


def _search_windows(device: str) -> Tensor:
    """(V, 3): the whole image, and crops in the middle and towards the corners."""
    reach = CROP_POSITION * (1 - CROP_SIDE) / 2
    corners = [(0.5 + y, 0.5 + x, CROP_SIDE) for y, x in product((-reach, reach), repeat=2)]
    return torch.tensor([WHOLE, (0.5, 0.5, CROP_SIDE), *corners], device=device)
