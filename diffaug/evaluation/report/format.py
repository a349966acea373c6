"""How the report writes numbers: percent, points and decimals, and a dash where a number is not known."""

import math
from collections.abc import Callable, Mapping
from typing import Any

MINUS, UNKNOWN = "\N{MINUS SIGN}", "\N{EN DASH}"


def decimal(value: float | None, digits: int = 2) -> str:
    """A plain number."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:z.{digits}f}".replace("-", MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as percent, without the percent sign."""
    return decimal(None if value is None else 100 * value, digits)


def points(value: float | None, digits: int = 1) -> str:
    """A difference of fractions in percentage points, with its sign unless it rounds to zero."""
    text = percent(value, digits)
    return f"+{text}" if text[0].isdigit() and float(text) else text


def p_value(value: float) -> str:
    """A probability to three decimals."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float) -> str:
    """A whole number with thousands separators."""
    return f"{round(value):,}"


def plain(value: Any) -> str:
    """Nested metadata as one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    return ", ".join(map(plain, value)) if isinstance(value, list | tuple) else str(value)


FILTERS: dict[str, Callable[..., str]] = {one.__name__: one for one in (count, decimal, p_value, percent, points)}
