import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffaug.data.images import LabeledImages
from diffaug.data.leaks import copied_by
from diffaug.errors import DataError
from diffaug.stages.evaluating.checks import Leak, require_unseen, same_pixels

ROWS = pd.DataFrame({"id": ["a/1", "a/2", "b/1"], "pixel_sha256": ["11", "22", "33"], "part": ["trained"] * 3})


def scenes(count, seed, size=24):
    """Smooth pictures of their own, like photographs that differ."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 6, 6), dtype=np.uint8)
    pictures = [Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC) for one in coarse]
    return np.stack([np.asarray(picture) for picture in pictures])[..., None]


def labeled(pixels, prefix):
    labels = np.arange(len(pixels)) % 2
    return LabeledImages(pixels, labels, ("a", "b"), tuple(f"{prefix}/{i}" for i in range(len(pixels))))


def compressed(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture[..., 0]).save(buffer, format="JPEG", quality=40)
    return np.asarray(Image.open(buffer))[..., None]


def cropped(picture):
    inside = Image.fromarray(picture[1:-1, 1:-1, 0])
    return np.asarray(inside.resize(picture.shape[1::-1], Image.Resampling.BICUBIC))[..., None]


CHANGES = {
    "same": lambda picture: picture,
    "mirrored": lambda picture: picture[:, ::-1],
    "compressed": compressed,
    "cropped": cropped,
    "brighter": lambda picture: (0.8 * picture.astype(float) + 40).astype(np.uint8),
}


def test_the_same_pixels_are_found_under_any_name():
    leaks = same_pixels(["test/x", "test/y"], ["44", "22"], ROWS)
    assert leaks == [Leak("test/y", "a/2", "same pixels")]
    assert same_pixels(["test/x"], ["44"], ROWS) == []


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_of_a_seen_image_is_found_and_named(change):
    seen, new = scenes(60, 0), scenes(10, 1)
    copies = np.stack([CHANGES[change](picture) for picture in seen[[3, 41]]])
    assert copied_by(np.concatenate([new, copies]), seen, np.arange(60)) == {10: 3, 11: 41}


def test_new_images_of_a_real_data_set_are_not_taken_for_copies(digits):
    assert len(copied_by(digits[0][400:700], digits[0][:400], np.arange(400))) <= 1


def test_leaks_are_refused_by_name_or_left_out_unless_a_class_would_be_lost():
    test = labeled(scenes(5, 0), "test")
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
