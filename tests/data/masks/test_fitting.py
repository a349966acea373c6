"""Masks at the working size: where their image goes, no object lost; and which look inverted."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.data.masks.reading import fit_mask, load_masks, looks_inverted
from diffaug.data.resize import fit_to_size


@given(
    height=st.integers(4, 60),
    width=st.integers(4, 60),
    size=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    resize=st.sampled_from(["squeeze", "crop"]),
    seed=st.integers(0, 99),
)
def test_a_mask_goes_where_its_image_goes(height, width, size, resize, seed) -> None:
    """Where the resized picture of the object is bright, the mask is set; it is no larger than that by 2 px."""
    random = np.random.default_rng(seed)
    top, left = random.integers(0, height - 2), random.integers(0, width - 2)
    mask = np.zeros((height, width), bool)
    mask[top : top + random.integers(2, height), left : left + random.integers(2, width)] = True
    shown = fit_to_size(mask[..., None].astype(np.uint8) * 255, size, resize)[..., 0]
    fitted = fit_mask(mask, size, resize)
    assert fitted.shape == size
    assert fitted[shown > 192].all()
    padded = np.pad(shown, 2)
    near = [padded[y : y + size[0], x : x + size[1]] for y in range(5) for x in range(5)]
    assert not fitted[np.max(near, axis=0) == 0].any()


@pytest.mark.parametrize("size", [(4, 4), (7, 5), (30, 40)])
def test_a_single_pixel_is_never_lost_and_nothing_is_invented(size) -> None:
    for at in ((0, 0), (50, 77), (89, 119)):
        mask = np.zeros((90, 120), bool)
        mask[at] = True
        fitted = fit_mask(mask, size, "squeeze")
        assert fitted.any()
        assert not fit_mask(mask & False, size, "squeeze").any()
        row, column = (
            int(position * small / large) for position, small, large in zip(at, size, (90, 120), strict=True)
        )
        assert fitted[row, column]


def test_a_mask_of_the_working_size_stays_as_it_is() -> None:
    mask = np.random.default_rng(0).random((16, 24)) > 0.5
    np.testing.assert_array_equal(fit_mask(mask, (16, 24), "squeeze"), mask)


def touched(mask: np.ndarray, size: tuple[int, int], part: tuple[Fraction, Fraction]) -> np.ndarray:
    """Which cells of a grid over the centered `part`, (height, width), share any area with the mask; exact."""
    found = np.zeros(size, bool)
    for cell in np.ndindex(size):
        sides = []
        for side, extent, count, number in zip(mask.shape, part, size, cell, strict=True):
            begin = (side - extent) / 2 + extent / count * number
            sides.append(slice(math.floor(begin), math.ceil(begin + extent / count)))
        found[cell] = mask[tuple(sides)].any()
    return found


@pytest.mark.parametrize("size", [(4, 4), (5, 9), (9, 5), (15, 19), (13, 17)])
@pytest.mark.parametrize("resize", ["squeeze", "crop"])
def test_a_pixel_is_set_where_it_shows_any_part_of_the_object(size, resize) -> None:
    mask = np.random.default_rng(0).random((13, 17)) > 0.9
    part = (Fraction(13), Fraction(17))
    if resize == "crop":  # the largest centered part with the sides' ratio of `size`
        scale = min(part[0] / size[0], part[1] / size[1])
        part = (size[0] * scale, size[1] * scale)
    np.testing.assert_array_equal(fit_mask(mask, size, resize), touched(mask, size, part))


def test_no_masks_are_masks_of_the_working_size(tmp_path) -> None:
    found = load_masks(tmp_path, (5, 7))
    assert (found.ids, found.pixels.shape, found.pixels.dtype) == ((), (0, 5, 7), bool)


def ground(side: int, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> np.ndarray:
    """All set but an object in the middle and rows and columns along the borders."""
    mask = np.zeros((side, side), bool)
    mask[top : side - bottom, left : side - right] = True
    mask[side // 2, side // 2] = False
    return mask


def test_the_ground_around_an_object_looks_inverted_and_no_object_does() -> None:
    inverted = ground(20)
    borders = [ground(20, **{border: 1}) for border in ("top", "bottom", "left", "right")]
    few = np.zeros((20, 20), bool)
    few[0], few[:, 0], few[-1], few[:, -1] = True, True, True, True
    half = np.indices((20, 20)).sum(axis=0) % 2 == 0
    masks = [inverted, *borders, few, half, ~inverted]
    assert [looks_inverted(mask) for mask in masks] == [True] + 7 * [False]
