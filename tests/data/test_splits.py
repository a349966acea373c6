from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffaug.data.splits import Item, choose_test, held_out_count, images_needed, leaks


def plain_items(counts: dict[str, int]) -> list[Item]:
    return [Item(f"{label}/{i}.png", label, "", f"{label}{i}") for label, n in counts.items() for i in range(n)]


def labels_of(paths: set[str], items: list[Item]) -> Counter[str]:
    return Counter(item.label for item in items if item.path in paths)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(2, 60), min_size=1),
    st.floats(0.05, 0.9),
    st.integers(0, 99),
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


grouped_items = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["", "", "g1", "g2", "g3", "g4"]), st.integers(0, 12)),
    min_size=1,
    max_size=60,
).map(lambda rows: [Item(f"{i}.png", label, group, f"pixels{pixels}") for i, (label, group, pixels) in enumerate(rows)])


@settings(deadline=None, max_examples=200)
@given(grouped_items, st.floats(0.1, 0.5))
def test_groups_and_equal_pixels_never_cross(items: list[Item], fraction: float) -> None:
    chosen = choose_test(items, test_fraction=fraction, seed=0)
    train = [item for item in items if item.path not in chosen]
    test = [item for item in items if item.path in chosen]
    assert not {item.group for item in train if item.group} & {item.group for item in test}
    assert not {item.pixel_sha256 for item in train} & {item.pixel_sha256 for item in test}
    assert {item.label for item in train} == {item.label for item in items}


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


def test_leaks_leave_the_less_strict_split() -> None:
    found = leaks({"train": ["a", "b", "c", "d"], "val": ["b", "c", "x"], "test": ["c", "d", "x"]})
    assert found == {"test": set(), "val": {"c", "x"}, "train": {"b", "c", "d"}}
