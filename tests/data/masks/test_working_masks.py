import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.data.masks.reading import fit_mask, looks_inverted
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


def test_the_ground_around_an_object_looks_inverted_and_no_object_does() -> None:
    inside = np.zeros((20, 20), bool)
    inside[1:19, 1:19] = True
    corner = np.zeros((20, 20), bool)
    corner[:16, :16] = True
    small = np.zeros((20, 20), bool)
    small[5:9, 5:9] = True
    assert [looks_inverted(mask) for mask in (inside, corner, small, ~small, ~inside)] == [
        False,
        False,
        False,
        True,
        False,
    ]
