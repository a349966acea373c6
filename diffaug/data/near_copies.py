"""Which images show a training image: as it is, mirrored, cropped and enlarged again, or compressed.

Two images of one class can be more alike than an image and a crop of itself, so images are compared after they were
registered: a coarse search over mirrored and cropped variants of all training images gives a short list, and each on
it is then moved and scaled until it fits best. What decides is the remaining distance to the nearest training image
in relation to that of the next one of another unit (Gu et al. 2023, arXiv 2310.02664), see `diffusion.copies`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffaug.seeding import numpy_generator

COPY_RATIO = 1 / 3
GENERATED = -1
THUMBNAIL, FINE, COARSE = 32, 16, 8  # largest sides in px: registered, compared, searched
CROP_SIDE, CROP_POSITIONS = 0.9, (-1.0, -1 / 3, 1 / 3, 1.0)  # positions in shares of the room that a crop has
SURELY_NEW = 2 / 3
SMALLEST_SIDE = 0.85
WHOLE = (0.5, 0.5, 1.0)
COMPONENTS = 64
SHORTLIST = 8
REGISTERED = (8, 4)  # candidates that take each step of the registration
ROUNDING = 1e-3
LEAST_CONTRAST = 1e-3  # grey levels; below, an image is flat rather than faint
QUERIES_AT_ONCE, IMAGES_AT_ONCE = 64, 1024
CALIBRATED_ON = 4000


@dataclass(frozen=True)
class Matches:
    """The nearest training image of each of N images.

    Attributes:
        ratios: float32 (N,) in [0, 1], distance to it over the distance to the nearest one of another unit; 0 where
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
        units: int64 (M,); images of one group or of equal pixels have the same number.
        device: Where to compute.
    """

    def __init__(self, pixels: NDArray[np.uint8], units: NDArray[np.int64], device: str = "cpu") -> None:
        self._thumbnails = thumbnails(pixels, device)
        self._units = torch.from_numpy(np.array(units)).to(device)
        self._windows = _search_windows(device)
        whole = torch.cat([describe(part, COARSE) for part in torch.split(self._thumbnails, IMAGES_AT_ONCE)])
        self._basis = torch.linalg.svd(whole, full_matrices=False).Vh[:COMPONENTS].T
        mirrored = (part.flip(3) for part in torch.split(self._thumbnails, IMAGES_AT_ONCE))
        self._variants = torch.cat(
            [
                torch.stack([describe(part, COARSE, window[None]) @ self._basis for window in self._windows])
                for part in chain(torch.split(self._thumbnails, IMAGES_AT_ONCE), mirrored)
            ],
            dim=1,
        )  # (windows, 2 M, components)
        self._squares = self._variants.square().sum(dim=2)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of the `descriptor_maps` of these images."""
        channels, height, width = self._thumbnails.shape[1:]
        return channels, _averaged(height, FINE), _averaged(width, FINE)

    def match(self, pixels: NDArray[np.uint8], units: NDArray[np.int64] | None = None) -> Matches:
        """The training image that each image shows, or is most like.

        Args:
            pixels: uint8 (N, H, W, C).
            units: int64 (N,), for training images: theirs, which does not count.
        """
        own = np.full(len(pixels), GENERATED) if units is None else units
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
        excluded = torch.from_numpy(own).to(queries.device)[:, None] == self._units
        found, windows = self._search(queries, excluded)
        images = found % len(self._thumbnails)
        distances = registered_distances(describe(queries, FINE), either_way(self._thumbnails, found), windows)
        distances = distances.masked_fill(excluded.gather(1, images), torch.inf)
        first = distances.argmin(dim=1, keepdim=True)
        nearest, second = distances.gather(1, first), _next_unit(distances, self._units[images], first)
        ratios = torch.where(nearest < second, nearest / second, 1.0).masked_fill(nearest < ROUNDING, 0)
        return Matches(*(column[:, 0].cpu().numpy() for column in (ratios, nearest, images.gather(1, first))))

    def _search(self, queries: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
        """The training images most like each query.

        Returns:
            Positions (N, S), those of mirrored images being M larger, and windows to begin with (N, S, 3).
        """
        described = describe(queries, COARSE) @ self._basis
        best = torch.full((len(queries), self._variants.shape[1]), torch.inf, device=queries.device)
        for variant, squares in zip(self._variants, self._squares, strict=True):
            torch.minimum(best, torch.addmm(squares, described, variant.T, alpha=-2), out=best)
        best = best.masked_fill(excluded.repeat(1, 2), torch.inf)
        found = best.topk(min(SHORTLIST, best.shape[1]), dim=1, largest=False).indices
        products = torch.einsum("vnsc,nc->vns", self._variants[:, found], described)
        return found, self._windows[(self._squares[:, found] - 2 * products).argmin(dim=0)]


def _next_unit(distances: Tensor, units: Tensor, first: Tensor) -> Tensor:
    """Distance (N, 1) to the nearest image of another unit than that of `first`.

    Where all (N, S) are one unit, the farthest stands for it: what was not on the short list is no nearer.
    """
    elsewhere = distances.masked_fill(units == units.gather(1, first), torch.inf).amin(dim=1, keepdim=True)
    farthest = distances.masked_fill(distances.isinf(), 0).amax(dim=1, keepdim=True)
    return torch.where(elsewhere.isinf(), farthest, elsewhere)


def copy_threshold(
    detector: CopyDetector, pixels: NDArray[np.uint8], units: NDArray[np.int64], *, share: float, seed: int
) -> float:
    """The ratio below which an image is a copy, such that at most a share of new images is taken for one.

    Each training image is compared with the other units, as a new image would be. Below a ratio of 1/3 training images
    are copies of each other by the published criterion and no example of a new image, so the threshold is never lower;
    nor is it above 2/3 where there are too few images for the share to mean one of them.

    Args:
        detector: Made of these training images.
        pixels: uint8 (M, H, W, C).
        units: int64 (M,).
        share: Of new images, in [0, 1].
        seed: Chooses 4,000 training images where there are more.
    """
    chosen = np.sort(numpy_generator(seed, "copy threshold").permutation(len(pixels))[:CALIBRATED_ON])
    ratios = np.sort(detector.match(pixels[chosen], units[chosen]).ratios)
    highest = SURELY_NEW if share * len(ratios) < 1 else 1.0
    return min(max(COPY_RATIO, float(ratios[int(share * len(ratios))])), highest)


def registered_distances(
    queries: Tensor,
    references: Tensor,
    windows: Tensor,
    *,
    registered: Sequence[int] = REGISTERED,
    beyond: float = 0.0,
) -> Tensor:
    """Distances between images once each reference is moved and scaled to fit its query.

    Gauss-Newton on position and scale, as in the registration of Lucas and Kanade (1981). Only the references that
    fit best after a step take the next one.

    Args:
        queries: Descriptions (N, F) by `describe` at `FINE`.
        references: Thumbnails (N, S, C, H, W).
        windows: (N, S, 3), where to begin, as `describe` takes them.
        registered: How many references take each step.
        beyond: How far a window may leave the image, in shares of its side; pixels there repeat those of the border.

    Returns:
        (N, S), the smallest distance met.
    """
    best = torch.full(windows.shape[:2], torch.inf, device=windows.device)
    rows = torch.arange(len(windows), device=windows.device)[:, None]
    for number in registered:
        chosen = best.topk(min(number, best.shape[1]), dim=1, largest=False).indices
        repeated = queries.repeat_interleave(chosen.shape[1], dim=0)
        distances, moved = _registration_step(
            repeated, references[rows, chosen].flatten(0, 1), windows[rows, chosen].flatten(0, 1), beyond
        )
        best[rows, chosen] = torch.minimum(best[rows, chosen], distances.reshape(chosen.shape))
        windows = windows.index_put((rows, chosen), moved.reshape(*chosen.shape, 3))
    return best


def _registration_step(queries: Tensor, references: Tensor, windows: Tensor, beyond: float) -> tuple[Tensor, Tensor]:
    """One step for P pairs: the smaller of the distances (P,) before and after it, and the windows (P, 3) after it."""
    step = 0.25 / max(references.shape[2:])
    described = describe(references, FINE, windows)
    residual = queries - described
    jacobian = torch.stack(
        [
            (describe(references, FINE, windows + step * axis) - described) / step
            for axis in torch.eye(3, device=windows.device)
        ],
        dim=2,
    )
    normal = jacobian.mT @ jacobian
    damping = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None] + 1e-6
    normal = normal + damping * torch.eye(3, device=windows.device)
    moved = _inside(windows + torch.linalg.solve(normal, jacobian.mT @ residual[:, :, None])[:, :, 0], beyond)
    after = (queries - describe(references, FINE, moved)).norm(dim=1)
    return torch.minimum(residual.norm(dim=1), after), moved


def describe(images: Tensor, side: int, windows: Tensor | None = None) -> Tensor:
    """Images, or a window of each, as vectors of length 1: averaged to at most `side` px, without mean and contrast.

    Args:
        images: Float (N, C, H, W) of 0 to 255.
        side: Largest height and width of what is compared.
        windows: (N, 3) or (1, 3), centre y and x in [0, 1] and side in (0, 1]; enlarged to the image's size by
            bilinear interpolation.
    """
    windows = torch.tensor([WHOLE], device=images.device) if windows is None else windows
    rows, columns = (
        _resampling(windows[:, axis], windows[:, 2], size, side) for axis, size in enumerate(images.shape[2:])
    )
    pooled = (rows[:, None].mT @ images @ columns[:, None]).flatten(1)
    centred: Tensor = pooled - pooled.mean(dim=1, keepdim=True)
    length: Tensor = centred.norm(dim=1, keepdim=True)
    described: Tensor = centred / (length + LEAST_CONTRAST * centred.shape[1] ** 0.5)
    return described


def descriptor_maps(pixels: NDArray[np.uint8], device: str = "cpu") -> NDArray[np.float32]:
    """uint8 (N, H, W, C) to float32 (N, C, h, w) of length 1: at most 16 px, without mean and contrast."""
    images = thumbnails(pixels, device)
    count, channels, height, width = images.shape
    maps = describe(images, FINE).reshape(count, channels, _averaged(height, FINE), _averaged(width, FINE))
    return maps.cpu().numpy()


def thumbnails(pixels: NDArray[np.uint8], device: str) -> Tensor:
    """uint8 (N, H, W, C) to float (N, C, h, w) of 0 to 255, at most 32 px."""
    parts = []
    for start in range(0, max(1, len(pixels)), IMAGES_AT_ONCE):
        images = (
            torch.from_numpy(np.array(pixels[start : start + IMAGES_AT_ONCE])).to(device).permute(0, 3, 1, 2).float()
        )
        height, width = (min(THUMBNAIL, side) for side in images.shape[2:])
        parts.append(functional.adaptive_avg_pool2d(images, (height, width)))
    return torch.cat(parts)


def either_way(images: Tensor, found: Tensor) -> Tensor:
    """Images (N, S, C, H, W) by position (N, S) among M; from M on they are the same ones, mirrored."""
    mirrored = found >= len(images)
    chosen = images[found % len(images)]
    chosen[mirrored] = chosen[mirrored].flip(3)
    return chosen


def _search_windows(device: str) -> Tensor:
    """(V, 3): the whole image, and crops at all positions."""
    reach = (1 - CROP_SIDE) / 2
    crops = [(0.5 + reach * y, 0.5 + reach * x, CROP_SIDE) for y, x in product(CROP_POSITIONS, repeat=2)]
    return torch.tensor([WHOLE, *crops], device=device)


def _resampling(centres: Tensor, sides: Tensor, size: int, side: int) -> Tensor:
    """Matrices (P, size, size pooled) that resample a line of pixels and average it to at most `side` values."""
    pixels = torch.arange(size, device=centres.device)
    positions = ((centres[:, None] + sides[:, None] * ((pixels + 0.5) / size - 0.5)) * size - 0.5).clamp(0, size - 1)
    weights = (1 - (positions[:, None] - pixels[:, None]).abs()).clamp_min(0)
    average = functional.adaptive_avg_pool1d(torch.eye(size, device=centres.device), _averaged(size, side))
    return weights @ average


def _averaged(size: int, side: int) -> int:
    """What is left of `size` px when as few as possible are averaged to have at most `side`."""
    return size // -(-size // side)


def _inside(windows: Tensor, beyond: float) -> Tensor:
    """Windows (P, 3) moved and shrunk into the image and a margin."""
    sides = windows[:, 2:].clamp(SMALLEST_SIDE, 1)
    reach = (1 - sides) / 2 + beyond
    return torch.cat([(windows[:, :2] - 0.5).clamp(-reach, reach) + 0.5, sides], dim=1)
