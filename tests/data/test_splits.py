from collections import Counter
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffaug.data.building.grouping import assign_splits, join_pictures, keep_together
from diffaug.data.splits import choose_test as chosen_rows
from diffaug.data.splits import held_out_count, images_needed, units_of


class Item(NamedTuple):
    path: str
    label: str
    group: str
    pixel_sha256: str
    picture: str = ""


def choose_test(items: list[Item], *, test_fraction: float, seed: int) -> set[str]:
    rows = pd.DataFrame(items, columns=Item._fields, dtype="str")
    return set(rows["path"][chosen_rows(rows, units_of(rows), test_fraction=test_fraction, seed=seed)])


def plain_items(counts: dict[str, int]) -> list[Item]:
    return [Item(f"{label}/{i}.png", label, "", f"{label}{i}") for label, n in counts.items() for i in range(n)]


def labels_of(paths: set[str], items: list[Item]) -> Counter[str]:
    return Counter(item.label for item in items if item.path in paths)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(2, 60), min_size=1), st.floats(0.05, 0.9), st.integers(0, 99)
)
def test_every_class_gives_its_share(counts: dict[str, int], fraction: float, seed: int) -> None:
    items = plain_items(counts)
    held = labels_of(choose_test(items, test_fraction=fraction, seed=seed), items)
    for label, total in counts.items():
        assert held[label] == min(max(1, round(total * fraction)), total - 1)


def test_the_split_ignores_order_and_depends_on_the_seed() -> None:
    items = plain_items({"cat": 50, "dog": 20})
    chosen = choose_test(items, test_fraction=0.2, seed=0)
    assert choose_test(items[::-1], test_fraction=0.2, seed=0) == chosen
    assert choose_test(items, test_fraction=0.2, seed=1) != chosen


def test_one_more_image_moves_at_most_one_other() -> None:
    before = plain_items({"cat": 50, "dog": 20})
    chosen = choose_test(before, test_fraction=0.2, seed=0)
    for number in range(50, 70):
        after = [*before, Item(f"cat/{number}.png", "cat", "", f"new{number}")]
        assert len(chosen ^ choose_test(after, test_fraction=0.2, seed=0)) <= 2


def test_groups_are_taken_whole_and_near_the_share() -> None:
    units = [(label, f"{label}{number}") for label in "ab" for number in range(10)]
    items = [Item(f"{group}-{i}.png", label, group, f"{group}{i}") for label, group in units for i in range(4)]
    chosen = choose_test(items, test_fraction=0.2, seed=0)
    assert labels_of(chosen, items) == {"a": 8, "b": 8}
    assert len({item.group for item in items if item.path in chosen}) == 4


@pytest.mark.parametrize("seed", range(10))
def test_a_rare_class_picks_first_so_that_the_common_one_keeps_its_share(seed: int) -> None:
    pairs = [Item(f"{g}{i}", "aab"[i], f"group{g}", f"{g}{i}") for g in range(2) for i in range(3)]
    items = [*plain_items({"a": 6}), *pairs]
    assert labels_of(choose_test(items, test_fraction=0.2, seed=seed), items) == {"a": 2, "b": 1}


def test_a_class_that_is_one_group_stays_in_training() -> None:
    items = [*plain_items({"a": 10}), *(Item(f"b/{i}.png", "b", "patient", f"b{i}") for i in range(5))]
    assert labels_of(choose_test(items, test_fraction=0.2, seed=0), items) == {"a": 2}


def test_large_groups_give_the_smallest_one_that_leaves_something() -> None:
    sizes = {"p": 6, "q": 3, "r": 5}
    items = [Item(f"{g}{i}", "a", g, f"{g}{i}") for g, n in sizes.items() for i in range(n)]
    chosen = choose_test(items, test_fraction=0.1, seed=0)
    assert {item.group for item in items if item.path in chosen} == {"q"}


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("wanted", [1, 2, 5])
def test_images_needed_is_the_smallest_number_that_suffices(wanted: int, fraction: float) -> None:
    left = {total: total - held_out_count(total, fraction) for total in range(1, 200)}
    assert images_needed(wanted, fraction) == min(total for total, train in left.items() if train >= wanted)


def table(*rows: str) -> pd.DataFrame:
    """Rows of 'label split group pixels picture', '-' standing for nothing; paths are numbers."""
    values = [[value.replace("-", "") for value in row.split()] for row in rows]
    columns = ["label", "split", "group", "pixel_sha256", "picture"]
    return pd.DataFrame(values, columns=columns, dtype="str").assign(path=[str(n) for n in range(len(rows))])


@pytest.mark.parametrize(
    ("rows", "splits"),
    [
        # labeled images stay where the layout puts them; unlabeled ones must show no test or validation image
        (["a test - p x", "a train - q x", "a val - r x", "- unlabeled - s x"], ["test", "train", "val", ""]),
        (["a val - p -", "a train - p -", "- unlabeled - p -"], ["val", "train", ""]),
        (["a train - p -", "- unlabeled - p -"], ["train", "unlabeled"]),
        (["a test g p -", "a train g q -", "- unlabeled g r -"], ["test", "train", ""]),
        # nothing is empty by itself
        (["a test - p -", "a train - q -", "- unlabeled - r -"], ["test", "train", "unlabeled"]),
    ],
)
def test_only_unlabeled_images_leave_given_splits(rows: list[str], splits: list[str]) -> None:
    assert assign_splits(table(*rows), test_fraction=None, seed=0).tolist() == splits


any_rows = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", ""]),
        st.sampled_from(["", "g1", "g2"]),
        st.integers(0, 9).map(lambda number: f"pixels{number}"),
        st.sampled_from(["", "", "x", "y"]),
    ),
    min_size=2,
    max_size=40,
).map(lambda rows: pd.DataFrame([(str(n), *row) for n, row in enumerate(rows)], columns=Item._fields, dtype="str"))


@settings(deadline=None, max_examples=150)
@given(any_rows, st.floats(0.1, 0.5))
def test_no_made_split_shares_anything_with_training(rows: pd.DataFrame, fraction: float) -> None:
    rows = rows.assign(split=np.where(rows["label"] == "", "unlabeled", ""))
    split = assign_splits(rows, test_fraction=fraction, seed=0)
    assert set(split[rows["label"] == ""]) <= {"unlabeled", ""}
    assert set(split[rows["label"] != ""]) <= {"train", "test"}  # no labeled image is lost
    assert set(rows["label"][split == "train"]) == set(rows["label"]) - {""}
    for column in ("group", "pixel_sha256", "picture"):
        values = {name: set(rows[column][split == name]) - {""} for name in ("train", "test", "unlabeled")}
        assert not values["test"] & (values["train"] | values["unlabeled"])


@settings(deadline=None, max_examples=100)
@given(any_rows, st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=4))
def test_joined_pictures_are_one_unit_and_nothing_comes_apart(rows: pd.DataFrame, pairs: list[tuple[int, int]]) -> None:
    rows["picture"] = rows["path"].where(rows["picture"] != "", "").groupby(rows["picture"]).transform("first")
    rows = rows.assign(picture=rows["picture"].where(rows["picture"].duplicated(keep=False), ""))
    joined = rows.assign(
        picture=join_pictures(rows, [(rows["path"][one], rows["path"][other]) for one, other in pairs])
    )
    before, after = units_of(rows), units_of(joined)
    assert all(after[one] == after[other] for one, other in pairs)
    assert all(len(set(after[before == unit])) == 1 for unit in set(before))
    moved = keep_together(joined.assign(split=["test", "train"] * (len(rows) // 2) + ["test"] * (len(rows) % 2)))
    assert all(len(set(moved[after == unit])) == 1 for unit in set(after))


def test_units_join_through_others() -> None:
    rows = table("a - g p -", "a - - p x", "a - - q x", "a - h r -", "a - h s -", "a - - t -")
    assert units_of(rows).tolist() == [0, 0, 0, 1, 1, 2]
