from __future__ import annotations

import numpy as np
import pytest

from diffaug.evaluation.report.confusion import common_mistakes, confusion_tables

BEFORE = [[6, 4, 0], [0, 10, 0], [0, 0, 0]]
AFTER = [[9, 1, 0], [3, 5, 2], [0, 0, 0]]


def evaluation(before=BEFORE, after=AFTER):
    arms = [
        {"name": "x", "confusion": after},
        {"name": "more", "confusion": after},
        {"name": "plain", "confusion": before},
    ]
    classes = [f"c{i}" for i in range(len(after))]
    return {"classes": classes, "arms": arms, "verdict": {"baseline": "plain", "arm": "more"}}


def test_the_baseline_comes_first_and_rows_are_shares():
    tables = confusion_tables(evaluation())
    assert [table["name"] for table in tables] == ["plain", "more"]
    for table, counts in zip(tables, (BEFORE, AFTER), strict=True):
        shares = [[cell["share"] for cell in row["cells"]] for row in table["rows"]]
        assert np.allclose(shares[:2], np.array(counts[:2]) / 10)
        assert np.isnan(shares[2]).all()
        assert [[cell["right"] for cell in row["cells"]] for row in table["rows"]] == np.eye(3, dtype=bool).tolist()
        assert all(0 <= cell["heat"] <= 1 for row in table["rows"] for cell in row["cells"])


def test_mistakes_are_those_most_frequent_in_either_arm():
    mistakes = common_mistakes(evaluation())
    assert [(row["true"], row["predicted"]) for row in mistakes] == [("c0", "c1"), ("c1", "c0"), ("c1", "c2")]
    assert [(row["before"], row["after"]) for row in mistakes] == [(0.4, 0.1), (0.0, 0.3), (0.0, 0.2)]


def test_many_classes_have_mistakes_and_no_table():
    counts = np.random.default_rng(0).integers(0, 50, (21, 21)).tolist()
    assert confusion_tables(evaluation(counts, counts)) == []
    assert len(common_mistakes(evaluation(counts, counts))) == 8


@pytest.mark.parametrize("missing", [None, []])
def test_arms_without_confusions(missing):
    assert [table["name"] for table in confusion_tables(evaluation(before=missing))] == ["more"]
    assert common_mistakes(evaluation(before=missing)) == []


def test_where_the_claim_equals_its_baseline_there_is_one_table():
    same = evaluation() | {"verdict": {"baseline": "plain", "arm": "plain"}}
    assert [table["name"] for table in confusion_tables(same)] == ["plain"]
    assert common_mistakes(same) == []
