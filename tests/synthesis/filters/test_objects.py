"""Noise is found to be unlike real objects, and real ones are not, whatever their class, size and colors."""

import numpy as np
import pytest

from diffaug.synthesis.filters.objects import (
    FEWEST_GROUPS,
    RealObjects,
    calibrated_checks,
    grown,
    is_blind,
    object_features,
    upper_bound,
)

from marks import PIT, SCRATCH, STAIN, marked_surface

KINDS = (PIT, SCRATCH, STAIN)


def marks(kind: str, count: int, split: str = "train") -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Colored images (32, 32, 3) of one kind of mark, and its masks."""
    made = [marked_surface(kind, split, number) for number in range(count)]
    return [one.pixels[..., None] // np.array([1, 2, 1], np.uint8) for one in made], [one.mask for one in made]


def checks(count: int):
    return calibrated_checks([RealObjects(*marks(kind, count), np.arange(count)) for kind in KINDS], seed=0)


def painted(images, masks, paint) -> list[np.ndarray]:
    made = []
    for image, mask in zip(images, masks, strict=True):
        one, place = image.copy(), grown(mask, 1)
        one[place] = paint(image[place])
        made.append(one)
    return made


@pytest.fixture(scope="module")
def calibrated():
    return checks(16)


def test_few_new_real_objects_are_rejected(calibrated) -> None:
    rejected = [one.unlike(*marks(kind, 40, "test")).mean() for kind, one in zip(KINDS, calibrated, strict=True)]
    assert np.mean(rejected) <= 0.05 and max(rejected) <= 0.1


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_noise_in_the_shape_of_an_object_is_rejected(calibrated, share) -> None:
    """Noise of any kind: white, the object's own values in another order, or half of it and half of the object."""
    random = np.random.default_rng(0)
    for kind, one in zip(KINDS, calibrated, strict=True):
        images, masks = marks(kind, 20, "test")
        white = painted(images, masks, lambda v: v * (1 - share) + share * random.integers(0, 256, v.shape))
        assert one.unlike(white, masks).all()
        if share == 1:
            assert one.unlike(painted(images, masks, random.permutation), masks).mean() >= 0.9
            assert one.unlike(painted(images, masks, lambda v: 0 * v), masks).all()
        assert one.told.value >= 0.9 and not is_blind(one.told)


def test_objects_are_compared_with_what_lies_around_them(calibrated) -> None:
    """The same mark on a darker surface is as real; the surface far away does not count."""
    images, masks = marks(STAIN, 10, "test")
    darker = [image - image.min() // 2 for image in images]
    assert calibrated[2].unlike(darker, masks).mean() <= 0.1
    for image, mask in zip(images, masks, strict=True):
        other = np.where(grown(mask, 8)[..., None], image, 255 - image)
        np.testing.assert_array_equal(object_features(other, mask), object_features(image, mask))


@pytest.mark.parametrize("count", [0, 1, FEWEST_GROUPS - 1])
def test_too_few_objects_tell_nothing(count) -> None:
    few, many = calibrated_checks(
        [RealObjects(*marks(kind, size), np.arange(size)) for kind, size in ((PIT, count), (STAIN, 8))], seed=0
    )
    assert is_blind(few.told) and not few.unlike(*marks(STAIN, 3)).any()
    assert not is_blind(many.told)
    images, masks = marks(PIT, 12)
    of_one_group = RealObjects(images, masks, np.zeros(12, np.int64))
    assert is_blind(calibrated_checks([of_one_group], seed=0)[0].told)


def test_a_class_whose_objects_are_noise_is_blind() -> None:
    random = np.random.default_rng(0)
    images, masks = marks(PIT, 12)
    noisy = painted(images, masks, lambda v: random.integers(0, 256, v.shape))
    assert is_blind(calibrated_checks([RealObjects(noisy, masks, np.arange(12))], seed=0)[0].told)


@pytest.mark.parametrize("side", [1, 2, 24])
def test_objects_of_any_size_have_features(side) -> None:
    """One pixel in a corner, and an object that leaves no ground."""
    mask = np.zeros((24, 24), bool)
    mask[:side, :side] = True
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 1), dtype=np.uint8)
    found = object_features(image, mask)
    assert found.shape == (8,) and np.isfinite(found).all()


def test_one_in_a_hundred_exceeds_the_bound_where_logarithms_are_normal() -> None:
    random = np.random.default_rng(0)
    for count in (4, 20):
        drawn = np.exp(random.normal(2, 0.7, (4000, count + 1)))
        exceeded = np.mean([row[-1] > upper_bound(row[:-1]) for row in drawn])
        assert 0.005 <= exceeded <= 0.015
    assert upper_bound(np.empty(0)) == np.inf
