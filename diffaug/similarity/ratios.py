"""Which images are copies of training images, and how surely."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffaug.runtime.devices import full_float32
from diffaug.similarity.copies import COPY_RATIO

CHUNK = 64


@dataclass(frozen=True)
class Share:
    """How many of a number of images are copies."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, 0 of none."""
        return self.count / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, see `wilson_interval`."""
        return wilson_interval(self.value, self.total)


def wilson_interval(share: float, total: int) -> tuple[float, float]:
    """The 95 % interval of Wilson (1927) of a share in [0, 1] found among `total`."""
    if not total:
        return 0.0, 1.0
    z2 = 1.959964**2 / total
    centre = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def neighbour_ratios(queries: Tensor, query_groups: Tensor, references: Tensor, reference_groups: Tensor) -> Tensor:
    """Distance to the nearest reference over the distance to the nearest one of another group, in [0, 1].

    Below 1/3 an image is a copy (Gu et al. 2023, arXiv 2310.02664). Taking the second neighbour from another group
    keeps near-duplicates in the training set, which lie equally near to a copy, from hiding it.

    Args:
        queries: Features (Q, F).
        query_groups: int64 (Q,); references of a query's own group don't count. `GENERATED` is nobody's group.
        references: Features (N, F).
        reference_groups: int64 (N,).

    Returns:
        (Q,), 1 where there are no two groups to compare.
    """
    parts = zip(torch.split(queries, CHUNK), torch.split(query_groups, CHUNK), strict=True)
    return torch.cat([_chunk_ratios(features, groups, references, reference_groups) for features, groups in parts])


def _chunk_ratios(queries: Tensor, query_groups: Tensor, references: Tensor, reference_groups: Tensor) -> Tensor:
    # Up to |query|^2, which changes no order; the two distances themselves are then taken without cancellation.
    # (TF32, with three digits, would change the order.)
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
    """How many of these `neighbour_ratios` (Q,) are those of copies."""
    return Share(int((ratios < COPY_RATIO).sum()), len(ratios))
