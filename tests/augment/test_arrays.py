"""Arrays as images: what comes in, what goes out, and errors that name what is wrong."""

import numpy as np
import pandas as pd
import pytest

from diffaug import UsageError
from diffaug.augment.arrays import image_rows, like
from diffaug.data.images import LabeledImages

GRAY = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4) * 5


def synthetic(shape=(2, 4, 4, 1), value=255) -> LabeledImages:
    pixels = np.full(shape, value, np.uint8)
    return LabeledImages(pixels, np.array([1, 0]), ("7", "9"), ("a", "b"))


@pytest.mark.parametrize(
    ("rows", "shape", "given"),
    [
        (GRAY, (4, 4, 1), None),
        (GRAY[..., None], (4, 4, 1), None),
        (np.repeat(GRAY[..., None], 3, axis=3), (4, 4, 3), None),
        (GRAY.reshape(3, 16), (4, 4, 1), None),
        (GRAY.reshape(3, 16), (2, 8, 1), (2, 8)),
        (np.repeat(GRAY[..., None], 3, axis=3).reshape(3, 48), (4, 4, 3), (4, 4, 3)),
    ],
)
def test_images_and_labels_come_and_go_as_they_are(rows, shape, given):
    images = image_rows(rows, [9, 7, 9], given)
    assert len(images) == 3 and images.counts == {"7": 1, "9": 2}
    for index, label in enumerate(("9", "7", "9")):
        pixels, name = images[index]
        np.testing.assert_array_equal(pixels.ravel(), rows[index].ravel())
        assert pixels.shape == shape and name == label
    extended, labels = images.extended(synthetic())
    assert (extended.dtype, extended.shape[1:]) == (rows.dtype, rows.shape[1:])
    np.testing.assert_array_equal(extended[:3], rows)
    assert (extended[3:] == 255).all() and labels.tolist() == [9, 7, 9, 9, 7]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint16, np.int16])
def test_other_types_keep_their_range(dtype):
    rows = GRAY.astype(dtype) * (2 if dtype == np.uint16 else 1)
    images = image_rows(rows, ["a", "b", "a"])
    assert images[0][0].min() == 0 and images[2][0].max() == 255
    for value, expected in ((0, rows.min()), (255, rows.max())):
        extended, _ = image_rows(rows, [7, 9, 9]).extended(synthetic(value=value))
        assert extended.dtype == dtype and (extended[3:] == expected).all()


def test_synthetic_images_of_another_size_and_no_color_are_fitted():
    rows = np.repeat(GRAY[..., None], 3, axis=3)
    extended, _ = image_rows(rows, [7, 9, 9]).extended(synthetic((2, 8, 6, 1)))
    assert extended.shape == (5, 4, 4, 3) and (extended[3:] == 255).all()
    none, labels = image_rows(rows, [7, 9, 9]).extended(synthetic((0, 8, 6, 1)).select(np.array([], np.int64)))
    assert none.shape == rows.shape and len(labels) == 3


def test_tables_stay_tables():
    table = pd.DataFrame(GRAY.reshape(3, 16)).add_prefix("pixel ")
    labels = pd.Series(["x", "y", "x"], name="kind", dtype="category")
    images = image_rows(table, labels)
    again, same = like(table, images.rows), like(labels, images.labels)
    pd.testing.assert_frame_equal(again, table)
    pd.testing.assert_series_equal(same, labels)


@pytest.mark.parametrize(
    ("rows", "labels", "shape", "message"),
    [
        (GRAY, [1, 2], None, "X has 3 images and y has 2 labels"),
        (GRAY[:0], [], None, "X has 0 images"),
        (GRAY.reshape(3, 16)[:, :15], [1, 2, 2], None, r"15 columns.*image_shape=\(height, width\)"),
        (GRAY.reshape(3, 16), [1, 2, 2], (4, 5), r"image_shape \(4, 5\) does not fit X.*\(16,\)"),
        (GRAY.reshape(3, 16), [1, 2, 2], (4,), "does not fit X"),
        (np.zeros((3, 3, 4, 4)), [1, 2, 2], None, r"transpose\(0, 2, 3, 1\)"),
        (np.zeros(3), [1, 2, 2], None, "one image per row"),
        (GRAY.astype(str), [1, 2, 2], None, "X must hold numbers"),
        (np.where(GRAY > 200, np.nan, GRAY), [1, 2, 2], None, "values of X are NaN"),
        (np.ones((3, 4, 4)), [1, 2, 2], None, r"all values of X are 1\.0"),
        (GRAY, np.eye(3), None, r"one label per image.*argmax"),
        (GRAY, [0.5, 1, 1], None, r"y\[0\].*whole number"),
        (GRAY, np.array(["1", 1, 1], object), None, "which have one name"),
        (GRAY, np.array(["a", None, "b"], object), None, r"y\[1\].*missing label"),
    ],
)
def test_what_is_no_images_and_labels_is_refused(rows, labels, shape, message):
    with pytest.raises(UsageError, match=f"(?s){message}"):
        image_rows(rows, labels, shape)
