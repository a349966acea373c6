from typing import Any

import numpy as np
import pytest

from diffaug.configuration.settings import FILTER_NAMES

import filters


def line(seed: int, shown: str, kind: str, rejected: float, accuracy: float | None = None) -> dict[str, Any]:
    return {**filters.row(seed, shown, kind, rejected, 10), "accuracy": accuracy}


def test_the_summary_is_of_means_over_seeds_and_of_the_worst_kind_of_copy() -> None:
    rows = []
    for seed, gain in ((0, 0.02), (1, 0.04)):
        rows += [line(seed, "copies", kind, 0.9 + 0.02 * number) for number, kind in enumerate(filters.KINDS)]
        rows += [line(seed, "good as copies", "", 0.01 * seed), line(seed, "wrong class", "", 0.8 + 0.1 * seed)]
        rows += [line(seed, "good", f"{kind} ({9 - kind})", 0.1 + 0.1 * kind) for kind in range(3)]
        rows += [line(seed, "samples", filters.NONE, 0, 0.7), line(seed, "samples", filters.ALL, 0.2, 0.7 + gain)]
        rows += [line(seed, "samples", f"without {name}", 0.1, 0.73) for name in FILTER_NAMES]
    rows[-1]["accuracy"] = 0.75
    summary = filters.summarize(rows)
    assert summary.pop("better_without") == "duplicate"
    assert summary == pytest.approx(
        {
            "gain_filtered_over_unfiltered": 0.03,
            "copies_rejected": 0.9,
            "genuine_rejected": 0.005,
            "wrong_class_rejected": 0.85,
            "rarest_rejected": 0.3,
            "commonest_rejected": 0.1,
        }
    )


def test_the_first_kept_images_are_taken_up_to_the_same_number_a_class() -> None:
    labels, kept = np.array([0, 0, 0, 1, 1, 1]), np.array([False, True, True, True, True, True])
    assert filters.first_of_each_class(labels, kept, np.array([1, 2.5])).tolist() == [1, 3, 4]
    assert filters.first_of_each_class(labels, kept, np.array([9, 0])).tolist() == [1, 2]


def test_every_filter_is_tried_alone_and_left_out() -> None:
    variants = filters.variants()
    assert len(variants) == 2 * len(FILTER_NAMES) + 2
    assert len(set(variants.values())) == len(variants)
