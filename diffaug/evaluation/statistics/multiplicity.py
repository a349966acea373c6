"""The price of having compared several arms: the best of them is lucky, and one of them differs by chance."""

from collections.abc import Sequence

CONFIDENCE = 0.95


def tail(selected_from: int = 1) -> float:
    """Probability beyond one end of a 95 % interval when the best of m arms was compared.

    The best owes some of its lead to luck, always in the same direction. One end of the interval then takes all of the
    5 %, shared among the m arms by Šidák (1967), where that is less than the usual half of it.
    """
    return float(min((1 - CONFIDENCE) / 2, 1 - CONFIDENCE ** (1 / selected_from)))


def shared(tail_probability: float, among: int) -> float:
    """Probability beyond one end of each of several intervals that hold all at once (Bonferroni; Dunn 1961)."""
    return tail_probability / among


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p-values, in the order given."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for step, position in enumerate(_ascending(p_values)):
        largest = max(largest, min(1.0, (count - step) * p_values[position]))
        adjusted[position] = largest
    return adjusted


def holm_tails(p_values: Sequence[float]) -> list[float]:
    """Probability beyond one end of each interval so that the interval excludes zero exactly if `holm` is below 0.05.

    Step i of k (the smallest p-value first) tests at 5 % / (k - i + 1), half of it on each side. All steps after the
    first that fails keep its level, since Holm's procedure stops there. The p-values are two-sided, of the same
    statistics that the intervals are made of.
    """
    count = len(p_values)
    tails = [0.0] * count
    stopped_at: float | None = None
    for step, position in enumerate(_ascending(p_values)):
        tails[position] = stopped_at or (1 - CONFIDENCE) / 2 / (count - step)
        if p_values[position] >= 2 * tails[position]:
            stopped_at = tails[position]
    return tails


def _ascending(p_values: Sequence[float]) -> list[int]:
    return sorted(range(len(p_values)), key=p_values.__getitem__)
