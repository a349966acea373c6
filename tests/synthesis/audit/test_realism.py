import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from diffaug.classifiers.encoders.trained import ClassifierOutput
from diffaug.data.images import LabeledImages
from diffaug.synthesis.audit.quality import kernel_distance
from diffaug.synthesis.audit.realism import contrasts, measure_realism, relative_kernel_distance, texture_shift
from diffaug.synthesis.filters.held_out import HeldOut

CLASSES = tuple("abc")
LABELS = np.repeat(np.arange(3), 40)


def shapes(seed: int) -> LabeledImages:
    """Blobs at a place of their class, with some noise."""
    random = np.random.default_rng(seed)
    levels = random.normal(100, 8, (len(LABELS), 16, 16, 1))
    for number, label in enumerate(LABELS):
        y, x = random.integers(0, 4, 2) + np.array([2 + 3 * label, 4])
        levels[number, y : y + 4, x : x + 6] += random.uniform(60, 110)
    pixels = levels.clip(0, 255).astype(np.uint8)
    return LabeledImages(pixels, LABELS, CLASSES, tuple(map(str, range(len(LABELS)))))


def changed(images: LabeledImages, how: str) -> LabeledImages:
    random, levels = np.random.default_rng(9), images.pixels.astype(float)
    pixels = {
        "unchanged": levels,
        "noise": random.normal(110, 40, levels.shape),
        "noisy": levels + random.normal(0, 40, levels.shape),
        "blurred": gaussian_filter(levels, (0, 1.2, 1.2, 0)),
        "pixels in random order": random.permuted(levels.reshape(len(levels), -1), axis=1).reshape(levels.shape),
        "brighter": levels + 10,
    }[how]
    return LabeledImages(pixels.clip(0, 255).astype(np.uint8), images.labels, images.classes, images.ids)


class Projection:
    """Two classifiers on random projections, whatever the brightness; noise may look like anything to them."""

    def predict(self, pixels):
        flat = pixels.reshape(len(pixels), -1) / 255
        flat = flat - flat.mean(axis=1, keepdims=True)
        weights = np.random.default_rng(0).normal(size=(2, flat.shape[1], 8)) / 8
        return [
            ClassifierOutput((flat @ one).astype(np.float32), np.zeros((len(flat), 3), np.float32)) for one in weights
        ]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("unchanged", ""),
        ("brighter", ""),
        ("noise", "samples have more contrast in details of 1 px"),
        ("noisy", "samples have more contrast in details of 1 px"),
        ("blurred", "samples have less contrast in details of 1 px"),
        ("pixels in random order", "samples have less contrast in details of"),
    ],
)
def test_noise_and_blur_are_found_and_good_images_are_not(how, says) -> None:
    real, made = shapes(0), changed(shapes(1), how)
    folds = np.arange(len(LABELS)) % 2
    held = HeldOut(real.ids, real.labels, folds, np.zeros((len(LABELS), 3), np.float32))
    outputs = (Projection().predict(real.pixels), Projection().predict(made.pixels))
    figures, reasons = measure_realism(held, real, made, outputs, np.ones(len(LABELS), bool), seed=0)
    assert bool(reasons) == bool(says), (figures, reasons)
    assert says in "".join(reasons)
    few = np.arange(len(LABELS)) < 5
    assert measure_realism(held, real, made, outputs, few, seed=0) == ({}, ())


def test_samples_that_lie_elsewhere_are_found_whatever_their_texture() -> None:
    real = shapes(0)
    held = HeldOut(real.ids, real.labels, np.zeros(len(LABELS), np.int64), np.zeros((len(LABELS), 3), np.float32))
    features = np.random.default_rng(0).normal(size=(2, len(LABELS), 6)) + LABELS[:, None]
    elsewhere = np.roll(features[1], 40, axis=0)  # each class where another one is
    for made, is_found in ((features[1], False), (elsewhere, True)):
        both = [[ClassifierOutput(one.astype(np.float32), np.zeros((len(LABELS), 3)))] for one in (features[0], made)]
        _, reasons = measure_realism(held, real, shapes(1), tuple(both), np.ones(len(LABELS), bool), seed=0)
        assert any("KID" in reason for reason in reasons) == is_found


def test_contrasts_of_white_noise_halve_from_scale_to_scale_and_a_flat_image_has_none() -> None:
    noise = np.random.default_rng(0).normal(128, 20, (50, 32, 32, 1)).clip(0, 255).astype(np.uint8)
    found = contrasts(noise).mean(axis=0)
    expected = np.log(20 * np.sqrt(3 / 4)) - np.log(2) * np.arange(5)
    np.testing.assert_allclose(found, expected, atol=0.1)
    np.testing.assert_allclose(contrasts(np.full((2, 8, 8, 3), 7, np.uint8)), np.log(0.25) / 2)
    assert contrasts(np.zeros((2, 1, 9, 3), np.uint8)).shape == (2, 0)


@pytest.mark.parametrize("shape", [(1, 5, 1), (7, 5, 3)])
def test_images_of_any_shape_have_a_shift_or_none(shape) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, *shape), dtype=np.uint8)
    images = LabeledImages(pixels, np.array([0, 0, 1, 1]), ("a", "b"), tuple("0123"))
    found = texture_shift(images, images)
    assert found is None if shape[0] == 1 else found.deviations == 0
    assert texture_shift(images, images.select(np.array([], int))) is None


def test_the_relative_distance_is_a_ratio_of_kids() -> None:
    random = np.random.default_rng(0)
    real, other = random.normal(size=(30, 4)) + np.repeat([0, 1, 3], 10)[:, None], random.normal(size=(12, 4))
    labels, other_labels = np.repeat([0, 1, 2], 10), np.repeat([0, 2], 6)
    same = [kernel_distance(real[labels == one], other[other_labels == one]) for one in (0, 2)]
    pairs = [kernel_distance(real[labels == a], real[labels == b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    found = relative_kernel_distance(real, labels, other, other_labels)
    assert found == pytest.approx(np.mean(same) / np.mean(pairs))
    assert relative_kernel_distance(real[:10], labels[:10], other, other_labels) is None
    assert relative_kernel_distance(real, labels, other[:1], other_labels[:1]) is None
