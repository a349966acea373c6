import itertools
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.data.layouts.entries import Entry
from diffaug.data.layouts.groups import confirmation, propose_group_rule, with_groups


def entries(paths: list[str]) -> list[Entry]:
    """The first folder that is no root or patient is the class."""
    return [Entry(path, re.sub(r"^root/|^p\d+/", "", path).split("/")[0]) for path in paths]


def names(*parts: object) -> list[str]:
    """All combinations of the parts, each of which is a text or a list of texts."""
    lists = [[part] if isinstance(part, str) else list(part) for part in parts]  # type: ignore[call-overload]
    return ["".join(map(str, chosen)) for chosen in itertools.product(*lists)]


AB = ["a/", "b/"]
HASHES = [f"{number * 7919:032x}" for number in range(1, 41)]
GROUPED: dict[str, tuple[list[str], Callable[[str], str]]] = {
    "patients": (names(AB, "patient", range(10), "_slice", range(4), ".png"), lambda path: path[2:10]),
    "patients, numbered before": (
        [f"{'ab'[n % 2]}/{n:03}-Patient{n // 2 % 9}.png" for n in range(80)],
        lambda path: path.split("-")[1][:-4],
    ),
    "parts seen by several cameras": (
        names(AB, "cam", range(3), "_part", range(20, 32), ".png"),
        lambda path: path[7:13],
    ),
    "cameras": (
        [f"{'ab'[part % 2]}/cam{part // 2 % 5}_part{part:04}.png" for part in range(60)],
        lambda path: path[:6],
    ),
    "crops": (names(AB, "IMG_", range(10, 30), "_crop", range(3), ".png"), lambda path: path[:8]),
    "Roboflow": ([f"a/x{n % 9}_jpg.rf.{code}.jpg" for n, code in enumerate(HASHES)], lambda path: path[2:4]),
    "augmented copies": (names(AB, "x", range(10, 30), ["", "_aug_1", "_aug_22"], ".png"), lambda path: path[:5]),
    "rotated copies": (
        names(AB, "x", range(10, 30), ["", "_rot90", "_flipLR", "_new30degFlipLR"], ".png"),
        lambda p: p[:5],
    ),
    "few copies": (
        names(AB, "x", range(10, 60), ".png") + names(AB, "x1", range(3), " (2).png"),
        lambda path: path[:5],
    ),
    "videos of one number per class": (
        names("a/run_video", range(6), "_frame", range(9), ".png"),
        lambda path: path[2:12],
    ),
    "tracks of one number per class": (names(AB, "000", range(10, 17), "_", range(10), ".png"), lambda path: path[:7]),
    "exposures": (names(AB, range(100, 130), "_exp", range(6), ".png"), lambda path: path[:5]),
    "folders of patients": (names(AB, "p", range(7), "/", range(10), ".png"), lambda path: path[2:4]),
    "person in two classes": (names(AB, "sub-", range(10, 30), "_ses-", range(2), ".png"), lambda path: path[2:8]),
    "magnifications of patients": (
        names("a/p", range(10, 20), "/", ["40X/", "100X/", "200X/", "400X/"], range(2), ".png")
        + names("b/p", range(20, 30), "/", ["40X/", "100X/", "200X/", "400X/"], range(2), ".png"),
        lambda path: path[2:5],
    ),
    "eyes": (names("a/", range(10, 40), ["_left", "_right"], ".png"), lambda path: path[2:4]),
    "views of a breast": (names("b/P", range(10, 40), ["_L", "_R"], ["_CC", "_MLO"], ".png"), lambda path: path[2:5]),
    "sites of a well": (
        names("a/plate_", list("ABCF"), "0", range(5), "_s", range(3), "_w1.tif"),
        lambda path: path[:11],
    ),
    "classes in patients": (names("p", range(10, 40), ["/0/", "/1/"], range(3), ".png"), lambda path: path[:3]),
    "numbers after numbers": (names(AB, "NORMAL-", range(1000, 1020), "-", range(4), ".png"), lambda path: path[:13]),
}
UNGROUPED = {
    "plain numbers": names(AB, range(40), ".png"),
    "numbers after the class": names("a/a_", range(40), ".png") + names("b/b_", range(40), ".png"),
    "numbers in brackets": names("a/a (", range(40), ").png") + names("b/b (", range(40), ").png"),
    "identifiers": names("a/ISIC_00", range(40), ".png"),
    "random": [f"a/{code}.png" for code in HASHES],
    "random from Roboflow": [f"a/x{n}_jpg.rf.{code}.jpg" for n, code in enumerate(HASHES)],
    "the class's number first": names("a/n014_", range(40), ".png") + names("b/n021_", range(40), ".png"),
    "one patient": names(AB, "patient1_", range(40), ".png"),
    "two patients per class": names("a/patient", range(2), "_", range(20), ".png"),
    "few images per class": names(AB, "image_", range(8), ".png") + names("c/c (", range(5), ").png"),
    "few images per class, the class's number first": names("a/n01_", range(8), ".png")
    + names("b/n02_", range(8), ".png")
    + names("c/n03_", range(8), ".png"),
    "folders of classes": names("root/", ["a/", "b/", "c/"], "image_", range(8), ".png"),
    "magnifications": names(AB, ["40X/", "100X/", "200X/", "400X/"], range(10), ".png"),
    "parts numbered in each class": names(["a/", "b/", "c/"], "part", range(20), ".png"),
    "nothing": [],
}


def as_partition(groups: list[str | None]) -> set[frozenset[int]]:
    members: dict[str | None, set[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, set()).add(number)
    return {frozenset(numbers) for numbers in members.values()}


@pytest.mark.parametrize("name", GROUPED)
def test_groups_in_file_names_are_proposed(name: str) -> None:
    paths, group = GROUPED[name]
    rule = propose_group_rule(entries(paths))
    assert rule is not None
    found, remarks = with_groups(entries(paths), rule.pattern)
    assert as_partition([entry.group for entry in found]) == as_partition([group(path) for path in paths])
    assert rule.groups == len({group(path) for path in paths})
    assert f"{rule.groups} groups of" in rule.evidence and not remarks


@pytest.mark.parametrize("name", UNGROUPED)
def test_plain_names_propose_nothing(name: str) -> None:
    assert propose_group_rule(entries(UNGROUPED[name])) is None


@pytest.mark.parametrize("part", ["_rotate", "_rot__", "_30deg", "1_", "1", "-", "-1", " - copy", "part1_", "_aug_1_"])
@pytest.mark.parametrize("end", ["", ".png", "/x"])
def test_no_name_takes_forever(part: str, end: str) -> None:
    names = [f"a/x{part * (240 // len(part))}{number}{end}" for number in range(20)]
    propose_group_rule(entries(names))


def test_groups_by_an_expression() -> None:
    some = entries(["a/p1_x2.png", "a/p1_x3.png", "b/q.png"])
    found, remarks = with_groups(some, r"(p\d)_(x\d)")
    assert [entry.group for entry in found] == ["p1/x2", "p1/x3", None]
    assert remarks == ["images whose path --group-by does not match, each a group of its own: 1 (b/q.png)"]
    assert [entry.group for entry in with_groups(some, r"p\d|q")[0]] == ["p1", "p1", "q"]
    with_table = [replace(some[0], group="t"), *some[1:]]
    assert with_groups(with_table, r"p\d|q") == (with_table, [])
    assert with_groups(some, None) == (some, [])


def test_near_duplicates_confirm_groups() -> None:
    groups = [name for name in "abcdefgh" for _ in range(5)]
    in_groups = np.repeat(np.arange(20), 2) * 2  # pairs of neighbors; four of five are within a group
    confirmed = confirmation(groups, in_groups)
    assert (confirmed.pairs, confirmed.inside) == (20, 16)
    assert confirmed.expected == pytest.approx(20 * (8 * 10) / (40 * 39 / 2))
    assert confirmed.is_strong
    assert not confirmation(groups, np.tile(np.arange(20), 2)).is_strong
    assert not confirmation(groups, np.arange(40)).is_strong
    assert confirmation(["", "", ""], np.zeros(3, np.int64)).inside == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), min_size=2, max_size=12))
def test_confirmation_counts_pairs(images: list[tuple[str, int]]) -> None:
    found = confirmation([group for group, _ in images], np.array([picture for _, picture in images]))
    pairs = list(itertools.combinations(images, 2))
    alike = [(one, two) for one, two in pairs if one[1] == two[1]]
    together = sum(one[0] == two[0] for one, two in pairs)
    assert found.pairs == len(alike)
    assert found.inside == sum(one[0] == two[0] for one, two in alike)
    assert found.expected == pytest.approx(len(alike) * together / len(pairs))
