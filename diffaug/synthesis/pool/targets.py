"""Resolves imbalanced-learn's `sampling_strategy` to the number of images to add per class."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

from diffaug.configuration.settings import SAMPLING_WORDS
from diffaug.errors import UsageError

SamplingStrategy = str | float | Mapping[Any, int] | Sequence[Any] | Callable[[Mapping[str, int]], Mapping[Any, int]]


def resolve_targets(
    counts: Mapping[str, int], strategy: SamplingStrategy = "auto", *, max_synthetic_ratio: float | None = None
) -> dict[str, int]:
    """Resolves a sampling strategy for real images per class to the images to add per class, in the same order.

    Words and totals mean what they mean in imbalanced-learn's over-samplers. Two extensions: a float lifts every
    class to that fraction of the largest one, with any number of classes; a list lifts the classes it names to
    the largest one.

    Args:
        counts: Real images of each class.
        strategy: `auto` or `not majority` (every class but the largest up to the largest), `minority` (only the
            smallest), `not minority`, `all`; a float in (0, 1]; a list of classes; a mapping of class to its
            *total after*; or a callable from counts to such a mapping. Classes by name or by index.
        max_synthetic_ratio: At most this many synthetic images per real one. It limits derived amounts (words, float,
            list), never explicit totals.

    Raises:
        UsageError: An unknown word or class, or a total below the number of real images.
    """
    if callable(strategy):
        return _from_totals(counts, strategy(counts))
    if isinstance(strategy, Mapping):
        return _from_totals(counts, strategy)
    goal = max(counts.values())
    if isinstance(strategy, str):
        chosen = _chosen_by_word(counts, strategy)
    elif isinstance(strategy, int | float):
        if isinstance(strategy, bool) or not 0 < strategy <= 1:
            raise UsageError(f"sampling_strategy {strategy}: a number must lie above 0 and not above 1")
        chosen, goal = set(counts), math.floor(goal * strategy)
    else:
        chosen = {_class_name(counts, key) for key in strategy}
    needed = {name: max(0, goal - count) if name in chosen else 0 for name, count in counts.items()}
    if max_synthetic_ratio is None:
        return needed
    return {name: min(number, math.floor(counts[name] * max_synthetic_ratio)) for name, number in needed.items()}


def _chosen_by_word(counts: Mapping[str, int], word: str) -> set[str]:
    if word not in SAMPLING_WORDS:
        hint = "over-sampling can't shrink a class" if word == "majority" else f"words: {', '.join(SAMPLING_WORDS)}"
        raise UsageError(f"unknown sampling_strategy '{word}'", fix=hint)
    smallest, largest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if word == "minority":
        return {smallest}
    left_out = {"auto": largest, "not majority": largest, "not minority": smallest, "all": None}[word]
    return {name for name in counts if name != left_out}


def _from_totals(counts: Mapping[str, int], totals: Mapping[Any, int]) -> dict[str, int]:
    added = dict.fromkeys(counts, 0)
    for key, total in totals.items():
        name = _class_name(counts, key)
        if not isinstance(total, Integral):
            raise UsageError(f"sampling_strategy asks for {total!r} images of class '{name}': not a whole number")
        if total < counts[name]:
            raise UsageError(
                f"sampling_strategy asks for {total} images of class '{name}', which has {counts[name]} already",
                fix="numbers are totals after adding, as in imbalanced-learn",
            )
        added[name] = int(total) - counts[name]
    return added


def _class_name(counts: Mapping[str, int], key: object) -> str:
    """The class of that name, or else of that index."""
    names, text = list(counts), str(key)
    if text in counts:
        return text
    if text.isdecimal() and int(text) < len(names):
        return names[int(text)]
    raise UsageError(f"sampling_strategy names an unknown class {key!r}", fix=f"classes: {', '.join(names)}")
