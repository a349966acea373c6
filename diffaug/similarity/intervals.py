"""Figures with their uncertainty."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Share:
    """A number of images out of a total."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, 0 of none."""
        return self.count / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        return wilson_interval(self.value, self.total)


def wilson_interval(share: float, total: int) -> tuple[float, float]:
    """The 95 % interval of Wilson (1927) of a share in [0, 1] found among `total`."""
    if not total:
        return 0.0, 1.0
    z2 = 1.959964**2 / total
    center = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return max(0.0, center - half), min(1.0, center + half)
