"""Sentences about files that are not used, or used with a remark."""

import re
from pathlib import Path

import pandas as pd
import pytest

from diffaug.configuration.settings import DataSettings
from diffaug.data.problems import find_problems, require_training_images
from diffaug.errors import DataError


def table_of(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Rows of path, status and note, all of one class."""
    table = pd.DataFrame(rows, columns=["path", "status", "note"])
    table["split"] = table["status"].map(lambda status: "train" if status == "ok" else "")
    table["pixel_sha256"] = table["path"]
    return table.assign(label="cat", group="", picture="", left_out="")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("a", "unsupported format", "HEIC: convert it"), ("b", "unsupported format", "PDF: save")],
         "files of a format that is not read (HEIC: convert it): 1 (a)"),
        ([("a", "unsupported mode", "NaN"), ("b", "unsupported mode", "NaN")],
         "files whose values can't be shown (NaN): 2 (a, b)"),
        ([("a", "truncated", "x"), ("b", "truncated", "y")], "files that are cut short or damaged: 2 (a, b)"),
        ([("a", "ok", "first of 2 frames; transparent pixels became white"), ("b", "ok", "first of 9 frames")],
         "files of several pages, of which the first is read (data.pages=all reads each): 2 (a, b)"),
        ([("a", "ok", "first of 2 frames; transparent pixels became white")],
         "files of which transparent pixels became white: 1 (a)"),
    ],
)  # fmt: skip
def test_files_are_told_of_with_their_reason(rows: list[tuple[str, str, str]], sentence: str) -> None:
    assert sentence in find_problems(table_of(*rows), ["cat"], ())


def test_files_without_remark_and_pages_that_are_all_read_are_not_told_of() -> None:
    table = table_of(("c", "ok", ""), ("d", "ok", "first of 2 frames"), ("d#page=2", "ok", ""))
    assert not [sentence for sentence in find_problems(table, ["cat"], ()) if sentence.startswith("files of")]


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([20], ["cat 20 of 20"]),
        ([10, 1, 1, 8], ["cat 10 of 20"]),
        ([9, 9, 2], []),
        ([7], []),  # a series
        ([1] * 20, []),
    ],
)
def test_classes_of_one_picture_are_told_of_with_a_way_out(sizes: list[int], told: list[str]) -> None:
    shown = [f"{n}-0" for n, size in enumerate(sizes) for _ in range(size)]
    table = table_of(*((f"{n}", "ok", "") for n in range(len(shown)))).assign(picture=shown)
    found = [line for line in find_problems(table, ["cat"], ()) if "data.near_duplicates=false" in line]
    assert [line.split(": 1 (")[1].rstrip(")") for line in found] == told


def test_a_picture_of_many_files_and_two_labels_is_named_by_one_file_of_each() -> None:
    table = table_of(*((f"{n:02}", "ok", "") for n in range(40))).assign(picture="00", label=["cat", "dog"] * 20)
    assert "pictures that have two labels: 1 (00 = 01)" in find_problems(table, ["cat", "dog"], ())


def test_classes_whose_images_are_all_the_same_are_told_of() -> None:
    table = table_of(("a", "ok", ""), ("b", "ok", ""), ("c", "ok", ""), ("d", "ok", ""))
    same = table.assign(label=["cat", "cat", "dog", "dog"], pixel_sha256=["x", "x", "y", "z"])
    (line,) = [line for line in find_problems(same, ["cat", "dog"], ()) if "same pixels, so" in line]
    assert line.endswith("add images that differ: 1 (cat)")


@pytest.mark.parametrize(
    ("splits", "what", "fix"),
    [
        (["test", "test", "val"], "no image is in the split 'train': 1 in val, 2 in test", "to train on 'train'"),
        (["train", "test", "test"], "too few training images: cat has 1", "; add images$"),
        (["", "", ""], "too few training images: cat has 0", "; add images$"),
    ],
)
def test_the_advice_for_too_few_training_images_can_be_followed(splits, what, fix) -> None:
    table = table_of(*((str(n), "ok", "") for n in range(3))).assign(split=splits)
    with pytest.raises(DataError, match=what) as caught:
        require_training_images(table, ["cat"], DataSettings(), test_was_given=True, root=Path("here"))
    assert re.search(fix, str(caught.value.fix)) and caught.value.where == "here"


def test_a_class_that_is_short_because_one_image_was_held_out_says_so() -> None:
    table = table_of(("0", "ok", ""), ("1", "ok", "")).assign(split=["train", "test"])
    with pytest.raises(DataError, match="too few training images: cat has 1 beside 1 held out") as caught:
        require_training_images(table, ["cat"], DataSettings(), test_was_given=False, root=Path("here"))
    assert "that is 3 images in all" in str(caught.value.fix)
