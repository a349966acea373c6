"""Which classes are taken for which others, without and with synthetic images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 20
MISTAKES = 8


def confusion_tables(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The confusion matrices of the baseline and of the arm that the verdict is about, as shares of each true class.

    Returns:
        For each arm that has one: its `name` and `rows` of a true class's `name` and `cells`, each with the `share`
        (nan: the class has no test image), a `heat` in [0, 1] and whether it is `right`. Empty for more than 20
        classes.
    """
    classes = evaluation["classes"]
    if len(classes) > MAX_CLASSES:
        return []
    return [{"name": name, "rows": _rows(classes, shares)} for name, shares in _shares_by_arm(evaluation).items()]


def common_mistakes(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The confusions that are most frequent in either of the two arms, as shares of the true class's test images.

    Returns:
        Up to 8 of `true`, `predicted`, `before` and `after`, the most frequent first.
    """
    shares = list(_shares_by_arm(evaluation).values())
    if len(shares) < 2:
        return []
    worst = np.nan_to_num(np.maximum(*shares))
    np.fill_diagonal(worst, 0)
    order = np.argsort(-worst, axis=None, kind="stable")[:MISTAKES]
    places = [divmod(int(place), len(worst)) for place in order]
    classes = evaluation["classes"]
    return [
        {
            "true": classes[true],
            "predicted": classes[other],
            "before": shares[0][true, other],
            "after": shares[1][true, other],
        }
        for true, other in places
        if worst[true, other] > 0
    ]


def _shares_by_arm(evaluation: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """(K, K) shares of each true class by arm, the baseline first; nan in the row of a class without test images."""
    arms = {arm["name"]: arm.get("confusion") for arm in evaluation["arms"]}
    names = dict.fromkeys(evaluation["verdict"].get(role) for role in ("baseline", "arm"))
    return {name: _shares(arms[name]) for name in names if name is not None and arms.get(name)}


def _shares(counts: Any) -> NDArray[np.float64]:
    matrix = np.array(counts, dtype=np.float64)
    totals = matrix.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(matrix, totals, out=np.full_like(matrix, np.nan), where=totals > 0)
    return shares


def _rows(classes: list[str], shares: NDArray[np.float64]) -> list[dict[str, Any]]:
    return [
        {"name": name, "cells": [_cell(share, true == predicted) for predicted, share in enumerate(row)]}
        for true, (name, row) in enumerate(zip(classes, shares.tolist(), strict=True))
    ]


def _cell(share: float, right: bool) -> dict[str, Any]:
    """Heat grows with the root of the share, since a mistake in one image of ten should be seen."""
    return {"share": share, "heat": round(float(np.nan_to_num(share)) ** 0.5, 2), "right": right}
