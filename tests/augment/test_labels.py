from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ChainDataset, ConcatDataset, Subset, TensorDataset

from diffaug.augment.labels import get_class_to_idx, get_targets
from diffaug.errors import DataError, UsageError
from tests.augment.items import Items

LABELS = [2, 0, 1, 1]


def blank(count: int = len(LABELS), **attributes: Any) -> Items:
    return Items([None] * count, **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"targets": LABELS},
        {"targets": torch.tensor(LABELS)},
        {"labels": np.array(LABELS, np.uint8)},
        {"labels": np.array(LABELS)[:, None]},
        {"_labels": tuple(LABELS)},
        {"samples": [("a.png", label) for label in LABELS]},
        {"imgs": [("a.png", label) for label in LABELS]},
        {"_samples": [(torch.zeros(1, 2, 2), label) for label in LABELS]},
        {"targets": np.array(LABELS, np.float32)},
        {"targets": [torch.tensor(label) for label in LABELS]},
    ],
)
def test_finds_what_torchvision_calls_labels(attributes: dict[str, Any]) -> None:
    dataset = blank(**attributes)
    assert get_targets(dataset) == LABELS
    assert all(type(label) is int for label in get_targets(dataset))
    assert dataset.reads == 0


def test_tensors_have_labels_and_names_stay_names() -> None:
    assert get_targets(TensorDataset(torch.zeros(4, 1, 2, 2), torch.tensor(LABELS))) == LABELS
    assert get_targets(blank(3, targets=["cat", "dog", "cat"])) == ["cat", "dog", "cat"]


@pytest.mark.parametrize(
    "misleading",
    [
        {"labels": ["cat", "dog"]},  # the names of the classes
        {"targets": [{"boxes": []}] * 4},  # annotations of a detection set
        {"targets": torch.ones(4, 4)},  # several classes
        {"targets": [0.5, 1.5, 2.5, 3.5]},  # regression
        {"labels": lambda: LABELS},
        {"targets": [None] * 4},
    ],
)
def test_an_attribute_that_is_no_label_an_item_is_passed_over(misleading: dict[str, Any]) -> None:
    assert get_targets(blank(**misleading, _labels=LABELS)) == LABELS


@st.composite
def nested_datasets(draw: st.DrawFn, depth: int = 3) -> tuple[Any, list[int]]:
    """A dataset under Subset and ConcatDataset, and its labels by brute force."""
    kind = draw(st.sampled_from(["leaf", "subset", "concat"])) if depth else "leaf"
    if kind == "subset":
        inner, labels = draw(nested_datasets(depth=depth - 1))
        indices = draw(st.lists(st.integers(0, len(labels) - 1), min_size=1, max_size=5))
        held = draw(st.sampled_from([list, np.array, torch.tensor]))(indices)
        return Subset(inner, held), [labels[index] for index in indices]
    if kind == "concat":
        parts = draw(st.lists(nested_datasets(depth=depth - 1), min_size=1, max_size=3))
        return ConcatDataset([part for part, _ in parts]), [label for _, labels in parts for label in labels]
    labels = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    return blank(len(labels), **{draw(st.sampled_from(["targets", "_labels"])): labels}), labels


@given(nested_datasets())
def test_wrappers_to_any_depth(case: tuple[Any, list[int]]) -> None:
    dataset, labels = case
    assert get_targets(dataset) == labels


@pytest.mark.parametrize(
    "items", [[(None, k) for k in LABELS], [[None, torch.tensor(k)] for k in LABELS], [{"label": k} for k in LABELS]]
)
def test_last_resort_reads_every_item_and_says_so(items: list[Any]) -> None:
    dataset = Items(items)
    with pytest.warns(UserWarning, match="labels="):
        assert get_targets(dataset) == LABELS
    assert dataset.reads == len(items)


def test_items_without_a_label_are_a_data_error() -> None:
    with pytest.warns(UserWarning), pytest.raises(DataError, match=r"item 1 .* several values"):
        get_targets(Items([(None, [0.0, 1.0]), (None, [0.5, 0.5])]))


def test_given_labels_win_and_are_checked_and_a_stream_is_refused() -> None:
    dataset = blank(targets=[0, 0, 0, 0])
    assert get_targets(dataset, np.array(LABELS)) == LABELS
    assert get_targets(Subset(dataset, [3]), ["cat"]) == ["cat"]
    for wrong in (LABELS[:3], [[1, 1]] * 4, [0.5] * 4):
        with pytest.raises(UsageError, match="4 items"):
            get_targets(dataset, wrong)
    with pytest.raises(UsageError, match="length"):
        get_targets(ChainDataset([]))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"class_to_idx": {"b": 0, "a": 1}}, {"b": 0, "a": 1}),
        ({"classes": ["b", "a"]}, {"b": 0, "a": 1}),
        ({}, None),
        ({"classes": [("tench", "Tinca tinca"), ("goldfish",)]}, None),
        ({"classes": ["a", "a"]}, None),
        ({"class_to_idx": {}, "classes": ["b", "a"]}, {"b": 0, "a": 1}),
        ({"class_to_idx": {0: "b", 1: "a"}}, {"b": 0, "a": 1}),
        ({"class_to_idx": {10: 0, 5: 1}}, {"10": 0, "5": 1}),
        ({"class_to_idx": {"b": torch.tensor(0), "a": 1.0}}, {"b": 0, "a": 1}),
        ({"class_to_idx": {"b": None}}, None),
        ({"classes": {0: "b", 1: "a"}}, {"b": 0, "a": 1}),
        ({"idx_to_class": {1: "a", 0: "b"}}, {"b": 0, "a": 1}),
        ({"idx_to_class": ["b", "a"]}, {"b": 0, "a": 1}),
        ({"info": {"label": {"0": "2", "1": "0"}}}, {"2": 0, "0": 1}),
        ({"classes": [0, 1, 2], "targets": LABELS}, None),
        ({"classes": np.array([1, 2, 3]), "targets": [3, 1, 2, 2]}, None),
        ({"classes": [10, 20, 30], "targets": LABELS}, {"10": 0, "20": 1, "30": 2}),
        ({"classes": [10, 20], "targets": ["20", "10", "20", "10"]}, {"10": 0, "20": 1}),
        ({"classes": ["tench", "goldfish"], "class_to_idx": {"tench": 0, "Tinca tinca": 0, "goldfish": 1}}, None),
    ],
)
def test_class_names_are_found_where_they_are_plain(attributes: dict[str, Any], expected: Any) -> None:
    assert get_class_to_idx(blank(**attributes)) == expected


@pytest.mark.parametrize("attributes", [{}, {"targets": LABELS}, {"targets": [7, 8, 9, 9]}])
def test_classes_that_are_numbers_in_another_order_are_refused_with_both_readings(attributes: dict[str, Any]) -> None:
    dataset = blank(classes=[2, 0, 1], **attributes)
    with pytest.raises(UsageError, match=r"one of them or its position[\s\S]*\{'2': 0, '0': 1, '1': 2\} if"):
        get_class_to_idx(dataset)
    dataset.class_to_idx = {2: 0, 0: 1, 1: 2}
    assert get_class_to_idx(dataset) == {"2": 0, "0": 1, "1": 2}


def test_a_column_of_hugging_face_is_read_as_it_was_before_a_transform() -> None:
    features = datasets.Features({"label": datasets.ClassLabel(names=["b", "a"])})
    stored = datasets.Dataset.from_dict({"label": [1, 0]}, features=features)
    renamed = stored.with_transform(lambda batch: {"labels": batch["label"]})
    assert get_targets(renamed) == [1, 0]


def test_joined_parts_must_number_their_classes_alike() -> None:
    one, other = blank(classes=["a", "b"]), blank(classes=["b", "a"])
    assert get_class_to_idx(ConcatDataset([one, blank()])) == {"a": 0, "b": 1}
    with pytest.raises(UsageError, match="differently"):
        get_class_to_idx(ConcatDataset([one, other]))
