"""How the report writes figures: percent, points and shares, and a dash where one is not known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

MINUS, UNKNOWN = "\N{MINUS SIGN}", "\N{EN DASH}"

Interval = dict[str, float]


def known(value: Any) -> float | None:
    """The number, or None where it is missing or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def interval_of(estimate: Mapping[str, Any] | None) -> Interval | None:
    """`low`, `mean` and `high` of an estimate, or None where one of them is not known."""
    figures = {key: known((estimate or {}).get(key)) for key in ("low", "mean", "high")}
    found = {key: value for key, value in figures.items() if value is not None}
    return found if len(found) == len(figures) else None


def deviation_of(figure: Mapping[str, Any] | None) -> Interval | None:
    """One standard deviation to both sides of a share; the share alone where the deviation is not known.

    It ends at 0 and 1, beyond which there is no share.
    """
    mean, sd = (known((figure or {}).get(key)) for key in ("mean", "sd"))
    if mean is None:
        return None
    return {"low": max(mean - (sd or 0.0), 0.0), "mean": mean, "high": min(mean + (sd or 0.0), 1.0)}


def percent(value: Any, digits: int = 1) -> str:
    """A fraction as percent, without the sign for percent."""
    number = known(value)
    return UNKNOWN if number is None else f"{100 * number:.{digits}f}".replace("-", MINUS)


def points(value: Any, digits: int = 1) -> str:
    """A difference of fractions in percentage points, with its sign unless it rounds to zero."""
    number = known(value)
    if number is None:
        return UNKNOWN
    text = f"{100 * number:+.{digits}f}".replace("-", MINUS)
    return text if float(f"{100 * number:.{digits}f}") else text[1:]


def decimal(value: Any, digits: int = 2) -> str:
    """A plain number."""
    number = known(value)
    return UNKNOWN if number is None else f"{number:.{digits}f}".replace("-", MINUS)


def p_value(value: Any) -> str:
    """A probability to three decimals."""
    number = known(value)
    if number is None:
        return UNKNOWN
    return "< 0.001" if number < 0.001 else f"{number:.3f}"


def count(value: Any) -> str:
    """A whole number with its thousands set apart."""
    number = known(value)
    return UNKNOWN if number is None else f"{round(number):,}"


def plain(value: Any) -> str:
    """Nested facts as one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    return ", ".join(map(plain, value)) if isinstance(value, list | tuple) else str(value)


FILTERS: dict[str, Callable[..., str]] = {
    "count": count,
    "decimal": decimal,
    "p_value": p_value,
    "percent": percent,
    "points": points,
}
