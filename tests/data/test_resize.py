import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffaug.configuration.settings import DataSettings
from diffaug.data.resize import choose_image_size, choose_resize, fit_to_size, to_channels

SETTINGS = DataSettings()
SIDES = st.integers(1, 300)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, st.sampled_from([(64, 64), (28, 28), (30, 60), (127, 127)]), st.sampled_from([1, 3]))
def test_any_size_fits_and_a_flat_color_stays(height: int, width: int, target: tuple[int, int], channels: int) -> None:
    pixels = np.full((height, width, channels), 137, np.uint8)
    fitted = fit_to_size(pixels, target)
    assert fitted.shape == (*target, channels)
    assert fitted.dtype == np.uint8
    assert (fitted == 137).all()


def test_squeezing_keeps_the_whole_image_and_cropping_the_center() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 120, 3), dtype=np.uint8)
    assert fit_to_size(pixels, (40, 120)) is pixels
    squeezed = np.asarray(Image.fromarray(pixels).resize((20, 20), Image.Resampling.BICUBIC))
    for resize in ("auto", "squeeze", "pad"):
        np.testing.assert_array_equal(fit_to_size(pixels, (20, 20), resize), squeezed)
    scaled = np.asarray(Image.fromarray(pixels).resize((60, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(fit_to_size(pixels, (20, 20), "crop"), scaled[:, 20:40])


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    rows, columns = np.indices((128, 128))
    checkerboard = (255 * ((rows + columns) % 2)).astype(np.uint8)[..., None]
    assert np.abs(fit_to_size(checkerboard, (16, 16)).astype(float) - 127.5).max() <= 1


def test_mirroring_commutes_with_fitting() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 33, 3), dtype=np.uint8)
    mirrored = fit_to_size(np.ascontiguousarray(pixels[::-1, ::-1]), (24, 24)).astype(int)
    assert np.abs(mirrored - fit_to_size(pixels, (24, 24))[::-1, ::-1]).max() <= 1


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(28, 28)] * 3, (28, 28)),
        ([(30, 30), (30, 30), (200, 200)], (30, 30)),
        ([(127, 127)], (64, 64)),
        ([(64, 70)], (64, 64)),
        ([(70, 64)], (64, 64)),
        ([(40, 60)], (40, 60)),
        ([(300, 450)], (64, 96)),
        ([(20, 200)], (20, 80)),
        ([(30, 90), (90, 30), (50, 50)], (30, 30)),
        ([(60, 180), (61, 183), (300, 100)], (61, 183)),
    ],
)
def test_automatic_size(sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    assert choose_image_size(sizes, SETTINGS) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=20))
def test_the_size_stays_in_its_range_and_follows_a_quarter_turn(sizes: list[tuple[int, int]]) -> None:
    height, width = choose_image_size(sizes, SETTINGS)
    assert 1 <= min(height, width) <= 64
    assert max(height, width) <= 4 * min(height, width)
    if len(sizes) % 2:  # the median of an odd number of ratios is one of them, so it can be inverted
        turned = choose_image_size([(w, h) for h, w in sizes], SETTINGS)
        assert np.abs(np.subtract(turned, (width, height))).max() <= 1  # a tie may round either way


@pytest.mark.parametrize("side", [4, 28, 30, 127, 256])
def test_the_user_sets_the_short_side(side: int) -> None:
    assert choose_image_size([(60, 40)], DataSettings(image_size=side)) == (round(side * 1.5), side)


def test_what_is_left_of_a_strip_is_not_called_nothing() -> None:
    assert choose_resize([(4, 5000)], (4, 16), SETTINGS).reason.startswith("squeezing keeps less than 1% of")


def test_to_channels() -> None:
    color = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    luma = color @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    gray = to_channels(color, 1)
    assert gray.shape == (5, 6, 1)
    assert np.abs(gray[..., 0] - luma).max() <= 1
    np.testing.assert_array_equal(to_channels(gray, 3), np.concatenate([gray] * 3, axis=2))
    assert to_channels(color, 3) is color
