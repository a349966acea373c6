"""A figure with its uncertainty."""

from __future__ import annotations

from typing import NamedTuple


class Estimate(NamedTuple):
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float
