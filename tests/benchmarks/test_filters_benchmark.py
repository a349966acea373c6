import json
from collections.abc import Callable
from pathlib import Path
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
        rows += [line(seed, "good as copies", "", 0.01 * seed), line(seed, "off-class", "", 0.8 + 0.1 * seed)]
        rows += [
            line(seed, "good", kind, rejected) for kind, rejected in (("a (9)", 0.1), ("b (5)", 0.2), ("c (2)", 0.3))
        ]
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
            "off_class_rejected": 0.85,
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


def test_planted_images_are_judged(tmp_path: Path, make_classes: Callable[..., Path], monkeypatch: Any) -> None:
    monkeypatch.setattr("diffaug.classifiers.encoders.default_updates", lambda count: 5)
    for seed, (split, counts) in enumerate(
        {"train": {"dark": 12, "bright": 6}, "test": {"dark": 7, "bright": 9}}.items()
    ):
        make_classes(tmp_path / "data" / split, counts, size=8 + seed)
    filters.main(
        [
            str(tmp_path / "data"),
            "--quick",
            "--seeds",
            "0",
            "--work",
            str(tmp_path / "work"),
            "--json",
            str(tmp_path / "r.json"),
        ]
    )
    content = json.loads((tmp_path / "r.json").read_text())
    shown = [(row["shown"], row["kind"]) for row in content["rows"]]
    assert shown[:4] == [("copies", kind) for kind in filters.KINDS]
    assert shown[-2:] == [("good", "dark (12)"), ("good", "bright (6)")]
    assert content["rows"][0]["rejected"] == content["rows"][1]["rejected"] == 1
    assert content["summary"]["gain_filtered_over_unfiltered"] is None
