from dataclasses import replace

import numpy as np
import pytest

from diffaug.data.images import LabeledImages, ObjectMasks
from diffaug.synthesis.audit.sheets import (
    CAPTION_HEIGHT,
    MAX_ROWS,
    _outlined,
    accepted_sheet,
    masks_sheet,
    nearest_sheet,
    rejected_sheet,
)

CLASSES = ("cat", "dog", "none of these")


def images(counts: tuple[int, ...], shape: tuple[int, int, int], classes: tuple[str, ...] = CLASSES) -> LabeledImages:
    """Every image is of one grey level, its number."""
    labels = np.repeat(np.arange(len(counts)), counts)
    levels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return LabeledImages(levels * np.ones(shape, np.uint8), labels, classes, tuple(map(str, range(len(labels)))))


def shown(sheet: np.ndarray, count: int) -> list[int]:
    """Which of the first levels are there as a whole image, 50 x 50 px."""
    return [level for level in range(count) if (sheet[..., 0] == level).sum() >= 2500]


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (28, 20, 3), (64, 64, 3), (300, 4, 1)])
def test_all_sheets_have_the_channels_of_the_images_and_grow_by_rows(shape) -> None:
    one, two = (accepted_sheet(images(counts, shape)) for counts in ((3,), (3, 9)))
    assert one.shape[2] == two.shape[2] == shape[2]
    assert two.shape[0] == 2 * one.shape[0]
    assert one.shape[0] > CAPTION_HEIGHT + shape[0]


def test_rows_hold_the_first_eight_as_generated() -> None:
    sheet = accepted_sheet(images((3, 12, 0), (50, 50, 1)))
    row = sheet.shape[0] // 2
    assert (shown(sheet[:row], 15), shown(sheet[row:], 15)) == ([0, 1, 2], list(range(3, 11)))
    left = [np.flatnonzero(sheet[row + CAPTION_HEIGHT + 20, :, 0] == number)[0] for number in range(3, 11)]
    assert left == sorted(left)


def test_small_images_are_enlarged_by_a_whole_factor() -> None:
    rng = np.random.default_rng(0)
    tiny = LabeledImages(rng.integers(0, 256, (1, 8, 8, 3), dtype=np.uint8), np.zeros(1, int), CLASSES, ("0",))
    sheet = accepted_sheet(tiny)
    expected = tiny.pixels[0].repeat(6, axis=0).repeat(6, axis=1)
    assert np.array_equal(sheet[CAPTION_HEIGHT : CAPTION_HEIGHT + 48, 2:50], expected)


@pytest.mark.parametrize("name", ["x" * 400, "two\nlines\x1b[31m", "Größe 猫 \u202e", " "])
def test_any_class_name_fits_and_leaves_the_layout_alone(name) -> None:
    plain = accepted_sheet(images((2,), (30, 30, 1), ("a",)))
    assert accepted_sheet(images((2,), (30, 30, 1), (name,))).shape == plain.shape


def test_rejected_images_are_grouped_by_reason_and_class() -> None:
    made = images((10, 2, 0), (50, 50, 1))
    reasons = ["copy"] * 9 + ["wrong class"] + ["copy", "wrong class"]
    sheet = rejected_sheet(made, reasons)
    row = sheet.shape[0] // 4
    expected = [list(range(8)), [10], [9], [11]]  # copies of cat, of dog; wrong class of cat, of dog
    for number, levels in enumerate(expected):
        assert shown(sheet[number * row : (number + 1) * row], 12) == levels


def test_the_images_most_like_a_training_image_stand_above_it() -> None:
    made = images((10,), (50, 50, 1))
    nearest = made.pixels + np.array([60, 50, 40, 30, 20, 25, 35, 45, 55, 65], np.uint8)[:, None, None, None]
    sheet = nearest_sheet(made, nearest)
    row = sheet.shape[0] // 2
    order = [4, 5, 3, 6, 2, 7, 1, 8]
    for half, levels in ((sheet[:row], order), (sheet[row:], [int(nearest[i, 0, 0, 0]) for i in order])):
        line = half[CAPTION_HEIGHT + 25, :, 0]
        assert [np.flatnonzero(line == level)[0] for level in levels] == [2 + 52 * i for i in range(8)]


def test_many_classes_are_thinned_out_evenly_and_keep_the_last() -> None:
    names = tuple(f"class {number}" for number in range(100))
    made = images((1,) * 100, (50, 50, 1), names)
    sheet = accepted_sheet(made)
    levels = shown(sheet, 100)
    assert (len(levels), levels[0], levels[-1]) == (MAX_ROWS, 0, 99)
    assert set(np.diff(levels)) <= {4, 5}
    assert nearest_sheet(made, made.pixels).shape[0] == sheet.shape[0]


def test_letters_of_other_alphabets_are_drawn_and_told_apart() -> None:
    captions = [accepted_sheet(images((1,), (48, 48, 1), (name,)))[:CAPTION_HEIGHT].tobytes() for name in "äöøжλא"]
    assert len(set(captions)) == 6


def test_masks_are_outlined_around_the_object_and_origins_have_rows_of_their_own(make_images) -> None:
    made = make_images([3, 2], size=16)
    masks = np.zeros((5, 16, 16), bool)
    masks[[0, 4], 5:8, 6:9] = True
    sheet = masks_sheet(made, ObjectMasks(made.ids, masks), drawn=["class 1"])
    assert sheet.shape[0] > 2 * 16
    outlined = _outlined(made.pixels[0], masks[0])
    np.testing.assert_array_equal(outlined[masks[0]], made.pixels[0][masks[0]])
    changed = (outlined != made.pixels[0]).any(axis=2)
    assert changed.sum() >= 8 and changed[4:9, 5:10].sum() == changed.sum()
    of_one = accepted_sheet(replace(made, origins=("sampled",) * 5))
    of_two = accepted_sheet(replace(made, origins=("sampled", "transplant", *["sampled"] * 3)))
    assert of_two.shape[0] > of_one.shape[0]
