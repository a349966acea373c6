"""Resolves imbalanced-learn's `sampling_strategy` to the number of images to add per class."""

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from diffaug.configuration.settings import SAMPLING_WORDS
from diffaug.data.labels import class_of
from diffaug.errors import UsageError

SamplingStrategy = str | float | Mapping[Any, int] | Iterable[Any] | Callable[[Mapping[str, int]], Mapping[Any, int]]
NamedStrategy = str | float | list[str] | dict[str, Any]
NAME = "sampling_strategy"


def resolve_targets(
    counts: Mapping[str, int],
    strategy: SamplingStrategy = "auto",
    *,
    max_synthetic_ratio: float | None = None,
    class_to_idx: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Resolves a sampling strategy for real images per class to the images to add per class, in the same order.

    Words and totals mean what they mean in imbalanced-learn's over-samplers. Two extensions: a float lifts every
    class to that fraction of the largest one, with any number of classes; a list lifts the classes it names to
    the largest one.

    Args:
        counts: Real images of each class.
        strategy: `auto` or `not majority` (every class but the largest up to the largest), `minority` (only the
            smallest), `not minority`, `all`; a float in (0, 1]; a list of classes; a mapping of class to its
            *total after*; or a callable from counts to such a mapping. For how classes are given see
            `diffaug.data.labels.class_of`.
        max_synthetic_ratio: At most this many synthetic images per real one. It limits derived amounts (words, float,
            list), never explicit totals.
        class_to_idx: Class name to label of the dataset that the images came from, if it has names.

    Raises:
        UsageError: An unknown word or class, a class named twice, or a total below the number of real images.
    """
    strategy = named_strategy(strategy, counts, class_to_idx)
    if isinstance(strategy, dict):
        return _from_totals(counts, strategy)
    goal = max(counts.values())
    if isinstance(strategy, str):
        chosen = _chosen_by_word(counts, strategy)
    elif isinstance(strategy, float):
        chosen, goal = set(counts), math.floor(goal * strategy)
    else:
        chosen = set(strategy)
    needed = {name: max(0, goal - count) if name in chosen else 0 for name, count in counts.items()}
    if max_synthetic_ratio is None:
        return needed
    return {name: min(number, math.floor(counts[name] * max_synthetic_ratio)) for name, number in needed.items()}


def named_strategy(
    strategy: SamplingStrategy, counts: Mapping[str, int], class_to_idx: Mapping[str, int] | None = None
) -> NamedStrategy:
    """The strategy with every class by its name: a word, a fraction, a list of names, or totals by name."""
    if callable(strategy):
        return named_strategy(_returned(strategy, counts), counts, class_to_idx)
    if isinstance(strategy, str):
        return strategy
    if isinstance(strategy, int | float | np.floating):
        if isinstance(strategy, bool) or not 0 < strategy <= 1:
            fix = "to name one class, write a list: [3]"
            raise UsageError(f"sampling_strategy {strategy}: a number must lie above 0 and not above 1", fix=fix)
        return float(strategy)
    if isinstance(strategy, pd.Series):
        strategy = strategy.to_dict()
    if not isinstance(strategy, Iterable):
        fix = f"words: {', '.join(SAMPLING_WORDS)}; or a number, a list of classes, or totals by class"
        raise UsageError(f"sampling_strategy can't be {strategy!r}", fix=fix)
    keys = list(strategy)
    names = [class_of(key, tuple(counts), class_to_idx, where=NAME) for key in keys]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        meant = " and ".join(repr(key) for key, name in zip(keys, names, strict=True) if name == repeated)
        raise UsageError(f"sampling_strategy names class '{repeated}' twice: {meant}", fix="keep one of them")
    return dict(zip(names, strategy.values(), strict=True)) if isinstance(strategy, Mapping) else names


def _returned(function: Callable[[Mapping[str, int]], Mapping[Any, int]], counts: Mapping[str, int]) -> Any:
    totals = function(dict(counts))
    if not isinstance(totals, Mapping | pd.Series):
        raise UsageError(f"the function returned {type(totals).__name__}, not totals by class", where=NAME)
    return totals


def _chosen_by_word(counts: Mapping[str, int], word: str) -> set[str]:
    if word not in SAMPLING_WORDS:
        hint = "over-sampling can't shrink a class" if word == "majority" else f"words: {', '.join(SAMPLING_WORDS)}"
        hint = f"write a list to name one class: ['{word}']" if word in counts else hint
        raise UsageError(f"unknown sampling_strategy '{word}'", fix=hint)
    smallest, largest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if word == "minority":
        return {smallest}
    left_out = {"auto": largest, "not majority": largest, "not minority": smallest, "all": None}[word]
    return {name for name in counts if name != left_out}


def _from_totals(counts: Mapping[str, int], totals: Mapping[str, Any]) -> dict[str, int]:
    added = dict.fromkeys(counts, 0)
    for name, total in totals.items():
        is_whole = isinstance(total, Integral) or (isinstance(total, float) and total.is_integer())
        if not is_whole or isinstance(total, bool):
            raise UsageError(f"sampling_strategy asks for {total!r} images of class '{name}': not a whole number")
        if total < counts[name]:
            raise UsageError(
                f"sampling_strategy asks for {total} images of class '{name}', which has {counts[name]} already",
                fix="numbers are totals after adding, as in imbalanced-learn",
            )
        added[name] = int(total) - counts[name]
    return added
