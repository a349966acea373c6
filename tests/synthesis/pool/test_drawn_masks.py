import numpy as np
import pytest

from diffaug.synthesis.pool.drawn_masks import box_masks, difference_masks

from marks import CLEAN, PIT, SCRATCH, STAIN, marked_surface


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    return np.stack([marked_surface(CLEAN, "train", number).pixels for number in range(60)])[..., None]


def overlap(masks: np.ndarray, others: np.ndarray) -> float:
    return float(((masks & others).sum(axis=(1, 2)) / (masks | others).sum(axis=(1, 2))).mean())


@pytest.mark.parametrize(("kind", "least"), [(PIT, 0.4), (SCRATCH, 0.25), (STAIN, 0.35)])
def test_masks_are_drawn_around_marks(clean, kind, least) -> None:
    """On marks that no constant was chosen on; a mask of the same size anywhere would overlap in under a tenth."""
    made = [marked_surface(kind, "test", number) for number in range(20)]
    true = np.stack([one.mask for one in made])
    found = difference_masks(np.stack([one.pixels for one in made])[..., None], clean, seed=0)
    assert overlap(found, true) > least
    assert overlap(found, np.roll(true, 1, axis=0)) < 0.15
    assert overlap(box_masks(found), box_masks(true)) > least


def test_an_object_is_found_in_color_and_one_that_is_everywhere_is_none(clean) -> None:
    colored = np.repeat(clean, 3, axis=3)
    marked = colored[:2].copy()
    marked[0, 10:16, 8:14, 2] = 255
    found = difference_masks(marked, colored[2:], seed=0)
    assert found[0, 11:15, 9:13].all() and found[0].mean() < 0.2
    with_logo = colored.copy()
    with_logo[:, 2:6, 2:6] = 255
    marked = with_logo[:1].copy()
    marked[0, 20:26, 18:24] = 0
    found = difference_masks(marked, with_logo[1:], seed=0)[0]
    assert found[21:25, 19:23].all() and not found[2:6, 2:6].any()


def test_an_image_without_anything_unusual_and_too_few_to_compare_with_give_empty_masks(clean) -> None:
    usual = np.stack([clean[:30].mean(axis=0)] * 2).astype(np.uint8)
    assert not difference_masks(usual, clean, seed=0).any()
    assert not difference_masks(usual, clean[:2], seed=0).any()


def test_a_box_is_the_smallest_rectangle_around_a_mask() -> None:
    masks = np.zeros((2, 6, 7), bool)
    masks[0, [1, 4], [5, 2]] = True
    boxes = box_masks(masks)
    assert boxes[0, 1:5, 2:6].all() and boxes[0].sum() == 16
    assert not boxes[1].any()
