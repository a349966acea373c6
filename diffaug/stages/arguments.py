"""What people write in Python, as settings say it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from diffaug.errors import UsageError

Strategy = str | float | Mapping[Any, int] | list[str] | Callable[..., Any] | None

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?")
_MINUTES = {"s": 1 / 60, "m": 1.0, "min": 1.0, "h": 60.0, None: 1.0}


def minutes_of(budget: str | float | None) -> float | None:
    """A time budget such as `"10m"`, `"90s"`, `"1h"` or a number of minutes.

    Raises:
        UsageError: It can't be read.
    """
    if budget is None or isinstance(budget, int | float):
        return budget
    match = _DURATION.fullmatch(budget.strip())
    if not match:
        raise UsageError(f"can't read the time budget '{budget}'", fix="write it like 10m, 90s or 1.5h")
    return float(match[1]) * _MINUTES[match[2]]


def strategy_in_words(strategy: Strategy, counts: Callable[[], Mapping[str, int]]) -> Any:
    """A sampling strategy as configuration files hold it: a callable is asked, classes are called by text.

    Args:
        strategy: As in imbalanced-learn.
        counts: Gives the training images of each class; asked only for a callable.
    """
    if callable(strategy):
        strategy = dict(strategy(counts()))
    return {str(key): total for key, total in strategy.items()} if isinstance(strategy, Mapping) else strategy
