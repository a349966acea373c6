from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from diffaug.classifiers.patch_features import patch_features
from diffaug.classifiers.working_size import choose_working_size, smallest_within_one_error
from diffaug.data.resize import SizeScore, fit_to_size

Pixels = NDArray[np.uint8]


def loader(images: Pixels, loaded: list[int] | None = None) -> Callable[[NDArray[np.int64], int], Pixels]:
    """Reads `images` (N, H, W, C) at any short side."""
    height, width = images.shape[1:3]

    def load_at(positions: NDArray[np.int64], side: int) -> Pixels:
        scale = side / min(height, width)
        if loaded is not None:
            loaded.append(len(positions))
        return np.stack([fit_to_size(images[i], (round(height * scale), round(width * scale))) for i in positions])

    return load_at


def stripes(count: int, period: int, side: int = 80) -> tuple[Pixels, NDArray[np.int64]]:
    """Lying and upright stripes of this period in px, shifted at random, under noise."""
    rng, labels = np.random.default_rng(0), np.arange(count) % 2
    wave = 128 + 20 * np.sign(np.sin(2 * np.pi * (np.arange(side) + 0.5) / period))
    images = rng.normal(0, 30, (count, side, side))
    for number, shift in enumerate(rng.integers(0, period, count)):
        shifted = np.roll(wave, shift)
        images[number] += shifted if labels[number] else shifted[:, None]
    return images.clip(0, 255).astype(np.uint8)[..., None], labels.astype(np.int64)


@pytest.mark.e2e
def test_fine_marks_ask_for_a_large_size_and_coarse_ones_do_not() -> None:
    sides, groups = [], np.arange(60)
    for period in (2, 40):
        images, labels = stripes(60, period)
        choice = choose_working_size(loader(images), labels, groups, median_side=80)
        again = choose_working_size(loader(images), labels, groups, median_side=80)
        assert (choice, choice.images) == (again, 60)
        assert [score.side for score in choice.scores] == [32, 48, 64, 80]
        sides.append(choice.side)
        assert choice.scores[-1].balanced_accuracy > 0.95
    assert sides == [64, 32]  # at 48 px a stripe of 1 px is less than a pixel wide


@pytest.mark.parametrize(
    ("median_side", "labels", "groups", "reason"),
    [
        (32, [0, 1] * 6, range(12), "at most 32 px"),
        (80, [0] * 10 + [1] * 2, range(12), "fewer than two classes"),
        (80, [0] * 6 + [1] * 6, [0, 1, 2, 3, 4, 5, *[6] * 6], "fewer than two classes"),
    ],
)
def test_what_needs_no_measurement_is_not_measured(
    median_side: int, labels: list[int], groups: list[int], reason: str
) -> None:
    def load_at(positions: NDArray[np.int64], side: int) -> Pixels:
        raise AssertionError("nothing is to be read")

    choice = choose_working_size(load_at, np.array(labels), np.array(groups), median_side=median_side)
    assert (choice.side, choice.scores) == (None, ())
    assert reason in choice.reason


def test_noise_is_no_evidence_and_a_group_is_in_one_fold() -> None:
    rng, labels = np.random.default_rng(1), np.repeat(np.arange(30) % 2, 4)
    scenes = rng.integers(0, 256, (30, 40, 40, 1), dtype=np.uint8)
    images = np.repeat(scenes, 4, axis=0)  # four times the same: by itself each would be told by its copies
    apart = choose_working_size(loader(images), labels, np.arange(120), median_side=40)
    together = choose_working_size(loader(images), labels, np.repeat(np.arange(30), 4), median_side=40)
    assert apart.scores[0].balanced_accuracy > 0.9
    assert together.side is None
    assert "no size tells the classes apart" in together.reason


def test_time_and_number_of_images_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffaug.classifiers.working_size.MOST_IMAGES", 20)
    images, _ = stripes(50, 20, side=40)
    labels, loaded = np.array([0] * 44 + [1] * 6), list[int]()
    choice = choose_working_size(loader(images, loaded), labels, np.arange(50), median_side=40, seconds=0)
    assert [score.side for score in choice.scores] == [32]
    assert "not measured for lack of time: 40 px" in choice.reason
    assert loaded == [1, 20]  # one tells the shape; all 6 of the rare class and 14 others


def test_the_smallest_size_within_one_standard_error_of_the_best() -> None:
    table = [(32, 0.70, 0.05), (48, 0.80, 0.02), (64, 0.83, 0.04), (96, 0.82, 0.01)]
    assert smallest_within_one_error([SizeScore(*row) for row in table]).side == 48
    assert smallest_within_one_error([SizeScore(32, 0.5, 0.0), SizeScore(48, 0.5, 0.0)]).side == 32


@pytest.mark.parametrize("channels", [1, 3])
def test_features_of_flat_images_are_finite_and_any_size_gives_as_many(channels: int) -> None:
    flat = np.full((3, 33, 70, channels), 7, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, channels), dtype=np.uint8)
    first, second = patch_features(flat, 0), patch_features(noise, 0)
    assert first.shape == second.shape
    assert np.isfinite(first).all()
    assert np.array_equal(second, patch_features(noise, 0))
    assert not np.array_equal(second, patch_features(noise, 1))
