import numpy as np
import pandas as pd
import pytest

from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.stages.evaluating.checks import Leak, require_unseen, same_pixels

ROWS = pd.DataFrame({"id": ["a/1", "a/2", "b/1"], "pixel_sha256": ["11", "22", "33"], "part": ["trained"] * 3})


def labeled(pixels, prefix):
    labels = np.arange(len(pixels)) % 2
    return LabeledImages(pixels, labels, ("a", "b"), tuple(f"{prefix}/{i}" for i in range(len(pixels))))


def test_the_same_pixels_are_found_under_any_name():
    leaks = same_pixels(["test/x", "test/y"], ["44", "22"], ROWS)
    assert leaks == [Leak("test/y", "a/2", "same pixels")]
    assert same_pixels(["test/x"], ["44"], ROWS) == []


def test_leaks_are_refused_by_name_or_left_out_unless_a_class_would_be_lost():
    test = labeled(np.arange(5, dtype=np.uint8)[:, None, None, None], "test")
    with pytest.raises(DataError, match=r"1 of 5 test images show .*test/2 = a/1") as error:
        require_unseen(test, [Leak("test/2", "a/1", "near copy"), Leak("test/2", "a/1", "same pixels")], drop=False)
    assert "evaluate(drop_leaked=True)" in error.value.fix
    assert require_unseen(test, [], drop=False) is test
    rest = require_unseen(test, [Leak("test/2", "a/1", "near copy"), Leak("test/3", "a/2", "same pixels")], drop=True)
    assert rest.ids == ("test/0", "test/1", "test/4")
    assert (rest.pixels == test.pixels[[0, 1, 4]]).all()
    lost = [Leak(f"test/{i}", "b/1", "same pixels") for i in (1, 3)]
    with pytest.raises(DataError, match="all test images of class b show"):
        require_unseen(test, lost, drop=True)
