"""Runs a local network on overlapping tiles, with the result of the whole image."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.local import reach
from diffaug.diffusion.process.process import Moments
from diffaug.diffusion.sampling.guidance import Denoise

TILE_POSITIONS = 128
"""Side of a tile in positions of the network, without what it sees around. An image of 256 px at patch 2 is one."""


def in_tiles(denoiser: Denoiser, conditions: Tensor, tile: int = TILE_POSITIONS) -> Denoise:
    """The denoiser with its conditions (N, C + 1, H, W) fixed, for batches of a multiple of N images.

    Each tile is computed with all that its pixels depend on, so the tiling is not seen. Larger images take more passes
    and not more memory.
    """
    network = denoiser.config
    side, halo = tile * network.patch, reach(network)

    def denoise(x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
        own = conditions.repeat(len(x) // len(conditions), 1, 1, 1)
        made = Moments(torch.empty_like(x), torch.empty_like(x))
        for rows in _spans(x.shape[2], side, halo):
            for columns in _spans(x.shape[3], side, halo):
                seen = (..., rows[1], columns[1])
                tiles = denoiser(x[seen], sigma, labels, own[seen])
                for whole, part in zip(made, tiles, strict=True):
                    whole[..., rows[0], columns[0]] = part[..., rows[2], columns[2]]
        return made

    return denoise


def _spans(length: int, side: int, halo: int) -> Iterator[tuple[slice, slice, slice]]:
    """Of each tile along one axis what it fills, what it sees, and where in the latter the former is."""
    for start in range(0, length, side):
        end, first = min(length, start + side), max(0, start - halo)
        yield slice(start, end), slice(first, min(length, end + halo)), slice(start - first, end - first)
