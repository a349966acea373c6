"""What it costs to have looked at several arms: the best of them is lucky, and one of them differs by chance."""

from __future__ import annotations

from collections.abc import Sequence

CONFIDENCE = 0.95


def tail(chosen_from: int = 1) -> float:
    """Probability beyond one end of a 95 % interval when the best of several arms was compared.

    The best of m arms owes some of its lead to luck, always in the same direction. One end of the interval then takes
    all of the 5 %, shared among the m by Šidák (1967), where that is less than the usual half of it.

    Args:
        chosen_from: m, 1 or more.
    """
    return float(min((1 - CONFIDENCE) / 2, 1 - CONFIDENCE ** (1 / chosen_from)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p-values, in the order given."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, position in enumerate(sorted(range(count), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (count - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted
