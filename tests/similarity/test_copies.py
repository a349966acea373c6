import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffaug.similarity.copies import CopyDetector, copy_threshold, descriptor_maps
from diffaug.similarity.registration import (
    COARSE,
    FINE,
    WHOLE,
    describe,
    registered_distances,
    searchable,
    tangent_distances,
    tangent_probes,
    thumbnails,
)
from diffaug.similarity.thresholds import COPY_RATIO

Pixels = NDArray[np.uint8]


def blobs(count: int, size: int = 20, channels: int = 1, seed: int = 0) -> Pixels:
    noise = np.random.default_rng(seed).normal(size=(count, size, size, channels))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2, 0))
    low, high = (reduce(axis=(1, 2, 3), keepdims=True) for reduce in (smooth.min, smooth.max))
    return (255 * (smooth - low) / (high - low)).astype(np.uint8)


def cropped(image: Pixels, top: float, left: float, side: float = 0.9) -> Pixels:
    height, width = image.shape[:2]
    box = (left * width, top * height, (left + side) * width, (top + side) * height)
    enlarged = Image.fromarray(image.squeeze()).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(enlarged).reshape(image.shape)


def enlarged(image: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """A window (1, 3) of an image (1, C, H, W), enlarged to its size."""
    y, x, side = window[0].tolist()
    matrix = torch.tensor([[[side, 0, 2 * x - 1], [0, side, 2 * y - 1]]])
    grid = torch.nn.functional.affine_grid(matrix, list(image.shape), align_corners=False)
    return torch.nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)


def jpeg(image: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer)).reshape(image.shape)


TRAIN = blobs(60)
GROUPS = np.arange(60)
TWINS = np.concatenate([TRAIN, TRAIN])
IMAGES = thumbnails(TRAIN, "cpu")
DESCRIBED = describe(IMAGES, COARSE)


@pytest.fixture(scope="module")
def detector() -> CopyDetector:
    return CopyDetector(TRAIN, GROUPS)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image[:, ::-1],
        lambda image: cropped(image, 0.0, 0.1),
        lambda image: cropped(image, 0.03, 0.07),
        lambda image: cropped(image, 0.05, 0.05)[:, ::-1],
        lambda image: cropped(image, 0.02, 0.01, side=0.95),
        jpeg,
        lambda image: (image * 0.6 + 40).astype(np.uint8),
    ],
    ids=["exact", "mirrored", "corner", "crop", "mirrored crop", "larger crop", "JPEG", "fainter"],
)
def test_a_copy_and_the_image_that_it_shows_are_found(detector, change) -> None:
    matches = detector.match(np.stack([change(image) for image in TRAIN]))
    assert matches.nearest.tolist() == GROUPS.tolist()
    assert np.all(matches.ratios < COPY_RATIO)


def test_new_images_are_no_copies(detector) -> None:
    matches = detector.match(blobs(200, seed=1))
    threshold = copy_threshold(detector, TRAIN, GROUPS, share=0.01, seed=0)
    assert np.mean(matches.ratios < threshold) <= 0.02
    assert matches.ratios.max() <= 1
    assert matches.distances.max() <= 2


def test_an_exact_copy_has_no_distance_even_where_training_images_are_twins() -> None:
    matches = CopyDetector(TWINS, np.arange(120)).match(TRAIN)
    assert np.all(matches.ratios == 0)
    assert np.all(matches.distances < 1e-3)


def test_color_odd_shapes_and_large_images_are_compared_too() -> None:
    odd, large = blobs(12, size=21, channels=3)[:, :, :18], blobs(12, size=80)
    shown_again = odd[:, :, ::-1], np.stack([cropped(one, 0.04, 0.08) for one in large])
    for images, copies in zip((odd, large), shown_again, strict=True):
        matches = CopyDetector(images, np.arange(12)).match(copies)
        assert matches.nearest.tolist() == list(range(12))
        assert np.all(matches.ratios < COPY_RATIO)


def test_a_group_is_no_neighbor_of_its_images_and_hides_no_copy() -> None:
    pairs, groups = np.concatenate([TRAIN, np.stack([jpeg(image) for image in TRAIN])]), np.tile(GROUPS, 2)
    together = CopyDetector(pairs, groups)
    matches = together.match(pairs, groups)
    assert np.all(groups[matches.nearest] != groups)
    assert np.median(matches.ratios) > 0.7
    copies = np.stack([cropped(image, 0.02, 0.06) for image in TRAIN])
    ratios = together.match(copies).ratios
    assert np.all(ratios < COPY_RATIO)
    assert np.median(CopyDetector(pairs, np.arange(120)).match(copies).ratios) > np.median(ratios)


def test_the_threshold_is_the_share_of_training_images_and_never_below_the_published_ratio(detector) -> None:
    ratios = detector.match(TRAIN, GROUPS).ratios
    assert np.mean(ratios < copy_threshold(detector, TRAIN, GROUPS, share=0.1, seed=0)) == pytest.approx(0.1)
    assert copy_threshold(CopyDetector(TWINS, np.arange(120)), TWINS, np.arange(120), share=0.5, seed=0) == COPY_RATIO


def test_the_threshold_of_many_images_is_taken_from_some(detector, monkeypatch) -> None:
    whole = copy_threshold(detector, TRAIN, GROUPS, share=0.2, seed=0)
    monkeypatch.setattr("diffaug.similarity.copies.CALIBRATED_ON", 30)
    some = {copy_threshold(detector, TRAIN, GROUPS, share=0.2, seed=seed) for seed in range(6)}
    assert len(some) > 1
    assert all(abs(one - whole) < 0.15 for one in some)


def test_one_training_image_is_known_by_an_exact_copy_alone() -> None:
    detector = CopyDetector(TRAIN[:1], GROUPS[:1])
    assert detector.match(TRAIN[:1]).ratios.tolist() == [0]
    assert detector.match(TRAIN[:1], GROUPS[:1]).ratios.tolist() == [1]


def test_flat_images_and_no_images_have_no_match(detector) -> None:
    matches = detector.match(np.stack([np.zeros_like(TRAIN[0]), np.full_like(TRAIN[0], 200)]))
    assert np.all(matches.ratios > 0.9)
    nothing = detector.match(TRAIN[:0])
    assert (len(nothing.ratios), len(nothing.distances), len(nothing.nearest)) == (0, 0, 0)


def test_the_order_and_company_of_images_change_nothing_but_rounding(detector) -> None:
    queries = blobs(70, seed=3)
    whole, alone = detector.match(queries), detector.match(queries[66:67])
    assert alone.nearest[0] == whole.nearest[66]
    assert alone.ratios[0] == pytest.approx(whole.ratios[66], abs=1e-3)


def test_the_search_is_the_same_on_any_number_of_threads() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 12, 12, 1), dtype=np.uint8)
    before, bases = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            bases.append(CopyDetector(pixels, np.arange(300), "cpu")._basis)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*bases)


def test_a_window_is_what_pillow_cuts_out() -> None:
    image, box = blobs(1, size=24)[0].squeeze(), (0.02 * 24, 0.07 * 24, 0.92 * 24, 0.97 * 24)
    expected = Image.fromarray(image).resize((24, 24), Image.Resampling.BILINEAR, box=box)
    tensors = [torch.from_numpy(np.array(one, np.float32))[None, None] for one in (image, expected)]
    window = torch.tensor([[0.07 + 0.45, 0.02 + 0.45, 0.9]])
    assert torch.allclose(describe(tensors[0], 24, window), describe(tensors[1], 24), atol=4e-3)


def test_tangent_distances_are_what_no_small_movement_explains() -> None:
    queries, step = thumbnails(blobs(5, seed=3), "cpu"), 1e-3
    found = tangent_distances(tangent_probes(queries) @ searchable(DESCRIBED).T).sqrt()
    for query, distances in zip(queries[:, None], found, strict=True):
        own = describe(query, COARSE)
        moved = torch.cat([describe(query, COARSE, torch.tensor([WHOLE]) + step * axis) for axis in torch.eye(3)])
        residuals = (DESCRIBED - own).T
        explained = ((moved - own) / step).T @ torch.linalg.lstsq(((moved - own) / step).T, residuals).solution
        assert torch.allclose(distances, (residuals - explained).norm(dim=0), rtol=0.05)


def test_a_moved_image_is_near_by_tangent_distance_and_an_other_one_is_not() -> None:
    moved = torch.cat([enlarged(image[None], torch.tensor([[0.515, 0.49, 0.97]])) for image in IMAGES])
    distances = tangent_distances(tangent_probes(moved) @ searchable(DESCRIBED).T).clamp_min(0).sqrt()
    plain = torch.cdist(describe(moved, COARSE), DESCRIBED)
    assert distances.argmin(dim=1).tolist() == GROUPS.tolist()
    assert (distances.diagonal() / plain.diagonal()).median() < 0.4
    assert (distances / plain).median() > 0.8


def test_images_that_a_movement_does_not_change_have_tangent_distances() -> None:
    flat, striped = np.full((20, 20, 1), 90, np.uint8), np.tile(np.arange(20, dtype=np.uint8) * 12, (20, 1))
    queries = thumbnails(np.stack([flat, striped[:, :, None]]), "cpu")
    distances = tangent_distances(tangent_probes(queries) @ searchable(DESCRIBED).T)
    assert ((distances > -1e-3) & (distances < 4)).all()


@settings(deadline=None, max_examples=25)
@given(st.floats(0.91, 0.99), st.floats(-1, 1), st.floats(-1, 1), st.integers(0, 59))
def test_registration_finds_any_window_from_the_middle(side, y, x, number) -> None:
    image = torch.from_numpy(TRAIN[number]).permute(2, 0, 1)[None].float()
    reach = (1 - side) / 2
    window = torch.tensor([[0.5 + reach * y, 0.5 + reach * x, side]])
    query, start = enlarged(image, window), torch.tensor([[0.5, 0.5, 0.95]])
    begun = (describe(query, FINE) - describe(image, FINE, start)).norm()
    assert registered_distances(query, image[None], start[None], registered=(1, 1)) <= min(0.15, float(begun) + 1e-6)


def test_descriptors_ignore_brightness_and_contrast_and_mirror_with_the_image() -> None:
    maps = descriptor_maps(TRAIN)
    assert maps.shape == (60, 1, 10, 10)
    np.testing.assert_allclose(np.square(maps).sum(axis=(1, 2, 3)), 1, atol=1e-2)
    np.testing.assert_allclose(descriptor_maps(TRAIN // 2 + 30), maps, atol=0.02)
    np.testing.assert_allclose(descriptor_maps(TRAIN[:, :, ::-1]), maps[..., ::-1], atol=1e-6)
