import numpy as np
import pytest
import torch

from diffaug.diffusion.cascade.reducing import Reduction, base_size_of
from diffaug.diffusion.process.boxes import box_masks

UNEVEN = Reduction((50, 33), (16, 11))


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        ((200, 200), (64, 64)),
        ((128, 192), (64, 96)),
        ((300, 100), (192, 64)),
        ((40, 60), (40, 60)),
        ((256, 256), (64, 64)),
        ((512, 600), (128, 150)),  # no more than 4 times the base
    ],
)
def test_the_base_has_the_proportions_of_the_images(image_size, expected) -> None:
    assert base_size_of(image_size) == expected


def test_enlarging_is_linear_keeps_constants_and_does_not_depend_on_the_batch() -> None:
    first, second = torch.randn(2, 3, 2, 16, 11, generator=torch.Generator().manual_seed(0)).double().unbind()
    joined = UNEVEN.enlarged(3 * first - second)
    assert joined.shape == (3, 2, 50, 33)
    torch.testing.assert_close(joined, 3 * UNEVEN.enlarged(first) - UNEVEN.enlarged(second), rtol=0, atol=1e-5)
    torch.testing.assert_close(UNEVEN.enlarged(torch.full((1, 1, 16, 11), 0.7)), torch.full((1, 1, 50, 33), 0.7))
    assert torch.equal(UNEVEN.enlarged(first)[1:2], UNEVEN.enlarged(first[1:2]))


def test_enlarging_by_no_factor_changes_nothing() -> None:
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(Reduction((8, 8), (8, 8)).enlarged(images), images)


def test_the_gain_of_noise_is_the_variance_of_enlarged_noise() -> None:
    noise = torch.randn(1000, 1, 16, 11, generator=torch.Generator().manual_seed(0))
    assert UNEVEN.noise_gain == pytest.approx(UNEVEN.enlarged(noise).square().mean().item(), rel=0.01)


def test_a_reduced_mask_covers_what_the_masked_pixels_contribute_to() -> None:
    image = np.full((1, 50, 33, 1), 100, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros((1, 50, 33), np.bool_)
        top, left = rng.integers(0, 46), rng.integers(0, 30)
        mask[0, top : top + 4, left : left + 3] = True
        changed = np.where(mask[..., None], np.uint8(200), image)
        change = np.abs(UNEVEN.reduced(changed).astype(int) - 100)[..., 0]
        covered = UNEVEN.masks(mask)
        assert change[covered].max() > 40
        assert change[~covered].max() < 10  # the outer lobes of bicubic reduction
        assert covered.mean() < 0.25


def test_boxes_keep_their_proportions_and_what_the_base_makes_has_no_more_detail_than_they_hold() -> None:
    reduction = Reduction((64, 64), (16, 16))
    boxes = np.array([[64, 64], [64, 32], [20, 64]])
    own = reduction.boxes(boxes)
    assert own.tolist() == [[16, 16], [16, 8], [4, 16]]  # 5 would not be centered in 16
    assert box_masks(torch.from_numpy(own), (16, 16)).sum((1, 2, 3)).tolist() == [256, 128, 64]
    stripes = np.zeros((3, 64, 64, 1), np.uint8)
    stripes[:, :, ::8] = stripes[:, :, 1::8] = stripes[:, :, 2::8] = stripes[:, :, 3::8] = (
        255  # 8 px long, so 2 px small
    )
    small = reduction.as_the_base_makes_them(stripes, boxes).astype(float)
    contrast = small.std(axis=2).mean(axis=(1, 2))
    assert contrast[1] < 0.5 * contrast[0]  # half the columns can't show stripes of 2 px
    assert contrast[2] > 0.95 * contrast[0]  # rows are fewer, columns are not
    assert np.array_equal(reduction.as_the_base_makes_them(stripes), reduction.reduced(stripes))
