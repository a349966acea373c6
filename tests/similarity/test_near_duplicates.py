import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits

from diffaug.configuration.settings import DataSettings
from diffaug.data.building.build import build_catalog
from diffaug.data.catalog import Catalog
from diffaug.similarity.keypoints.compare import align
from diffaug.similarity.keypoints.detect import find_keypoints, frame_of, mirrored, mirrored_descriptors
from diffaug.similarity.near_duplicates import matching_pairs, near_duplicates
from diffaug.similarity.thresholds import LEAST_SUPPORT

Pixels = NDArray[np.uint8]
SIZE = 40


def scene(seed: int) -> Pixels:
    random = np.random.default_rng(seed)
    noise = Image.fromarray(random.integers(0, 256, (SIZE, SIZE), dtype=np.uint8))
    soft = np.asarray(noise.filter(ImageFilter.GaussianBlur(4)), np.float64)[:, :, None]
    return np.clip((soft - soft.mean()) * random.uniform(4, 6, 3) + 128, 0, 255).astype(np.uint8)


def compressed(image: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=50)
    return np.array(Image.open(buffer), np.uint8)


def cropped(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), box=(3, 1, 39, 37)))


def shifted(image: Pixels) -> Pixels:
    """By a pixel; what comes in repeats the border."""
    return np.pad(image, ((1, 0), (1, 0), (0, 0)), mode="edge")[:SIZE, :SIZE]


def darker(image: Pixels) -> Pixels:
    noise = np.random.default_rng(9).normal(0, 4, image.shape)
    return np.clip(0.8 * image.astype(np.float64) + 10 + noise, 0, 255).astype(np.uint8)


@pytest.mark.e2e
@pytest.mark.parametrize("change", [compressed, cropped, shifted, darker, lambda image: image[:, ::-1]])
def test_the_same_picture_again_is_found_and_nothing_else(change: Callable[[Pixels], Pixels]) -> None:
    scenes = [scene(seed) for seed in range(30)]
    images = np.stack([*scenes, *map(change, scenes[:10])])
    assert near_duplicates(images).tolist() == [*range(30), *range(10)]


@pytest.mark.e2e
def test_a_series_is_one_picture_even_where_its_ends_differ() -> None:
    wide = np.concatenate([scene(100), scene(101)], axis=1)
    series = [wide[:, start : start + SIZE] for start in range(8)]  # each moved by a pixel
    images = np.stack([*(scene(seed) for seed in range(20)), *series])
    assert near_duplicates(images).tolist() == [*range(20), *[20] * 8]


@pytest.mark.e2e
def test_parts_that_are_merely_alike_stay_apart() -> None:
    part, random = scene(0), np.random.default_rng(1)
    marks = random.integers(0, SIZE - 8, (30, 2))
    images = np.stack([part] * 30)
    for image, (y, x) in zip(images, marks, strict=True):
        image[y : y + 8, x : x + 8] = random.choice([20, 235])
    assert len(set(near_duplicates(images).tolist())) == 30


@pytest.mark.parametrize("count", [0, 1, 10])
def test_images_without_contrast_stay_apart(count: int) -> None:
    images = np.full((count, 12, 12, 1), 25, np.uint8) * np.arange(count, dtype=np.uint8)[:, None, None, None]
    assert near_duplicates(images).tolist() == list(range(count))


def textured(seed: int, height: int = 96, width: int = 96, channels: int = 1) -> Pixels:
    """Rough noise, like a surface: much structure and nothing in common with the others."""
    noise = np.random.default_rng(seed).normal(size=(height, width, channels)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 2).reshape(noise.shape)
    return np.clip(128 + 40 * soft / soft.std(), 0, 255).astype(np.uint8)


def moved(image: Pixels, linear: list[list[float]], border: int = cv2.BORDER_CONSTANT) -> Pixels:
    """By a linear map of x and y about the middle."""
    matrix, middle = np.array(linear), (np.array(image.shape[1::-1]) - 1) / 2
    affine = np.column_stack([matrix, middle - matrix @ middle])
    return cv2.warpAffine(image, affine, image.shape[1::-1], borderMode=border).reshape(image.shape)


def turned(image: Pixels, degrees: float, **border: int) -> Pixels:
    turn = np.deg2rad(degrees)
    return moved(image, [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], **border)


def exposed(image: Pixels, factor: float, gamma: float = 1) -> Pixels:
    return np.clip(255 * (factor * image / 255) ** gamma, 0, 255).astype(np.uint8)


AUGMENTED: dict[str, Callable[[Pixels], Pixels]] = {
    "half exposure": lambda image: exposed(image, 0.5),
    "twice exposure, clipped": lambda image: exposed(image, 1.8),
    "gamma": lambda image: exposed(image, 1, 1.6),
    "turned, black corners": lambda image: turned(image, 37),
    "turned, reflected": lambda image: turned(image, -130, border=cv2.BORDER_REFLECT),
    "quarter turn, mirrored": lambda image: np.rot90(image)[:, ::-1],
    "sheared": lambda image: moved(image, [[1, 0.36], [0, 1]]),
    "zoomed": lambda image: moved(image, [[1.5, 0], [0, 1.5]]),
    "shrunk, turned, darker": lambda image: exposed(turned(moved(image, [[0.8, 0], [0, 0.8]]), 60), 0.7),
    "cropped to another shape": lambda image: image[5:85, 2:],
}


@pytest.mark.e2e
def test_what_cameras_and_augmentation_tools_change_is_seen_through() -> None:
    originals = [textured(seed) for seed in range(len(AUGMENTED) + 6)]
    copies = [change(one) for change, one in zip(AUGMENTED.values(), originals, strict=False)]
    found = near_duplicates([*originals, *copies])[len(originals) :]
    assert dict(zip(AUGMENTED, found.tolist(), strict=True)) == dict(zip(AUGMENTED, range(len(copies)), strict=True))
    assert near_duplicates(originals).tolist() == list(range(len(originals)))


@pytest.mark.e2e
def test_series_of_parts_on_one_background_are_told_apart() -> None:
    background, random, views = textured(500, 116, 116).astype(float), np.random.default_rng(0), []
    for part in range(6):
        scene_of_part = background.copy()
        scene_of_part[40:72, 38:70] = textured(600 + part, 32, 32)
        for top, left in random.integers(0, 8, (4, 2)):
            view = scene_of_part[top : top + 96, left : left + 96] * random.uniform(0.6, 1.4)
            views.append(np.clip(view + random.normal(0, 3, view.shape), 0, 255).astype(np.uint8))
    assert near_duplicates(views).tolist() == [4 * (number // 4) for number in range(24)]


@pytest.mark.e2e
def test_odd_shapes_and_depths_are_compared_without_an_error() -> None:
    shapes = [(1, 40, 1), (40, 1, 3), (2, 2, 1), (1, 1, 3), (16, 300, 1), (300, 16, 3), (64, 64, 1), (64, 64, 3)]
    odd = [textured(seed, *shape) for seed, shape in enumerate(shapes)]
    flat = [np.full((50, 30, 3), level, np.uint8) for level in (0, 0, 128, 255)]
    ramp = [np.tile(np.linspace(low, 200, 60).astype(np.uint8)[:, None, None], (1, 60, 1)) for low in (0, 50, 100)]
    assert near_duplicates([*odd, *flat, *ramp]).tolist() == list(range(15))
    again = [*odd, np.repeat(odd[6], 3, axis=2)]  # the same in three channels
    assert near_duplicates(again).tolist() == [*range(8), 6]


@pytest.mark.e2e
def test_thumbnails_of_one_kind_are_not_chained() -> None:
    digits = load_digits().images[:150, :, :, None]
    assert len(set(near_duplicates((16 * digits).clip(0, 255).astype(np.uint8)).tolist())) > 145


@pytest.mark.e2e
def test_worker_processes_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [textured(seed, 60, 60) for seed in range(80)] + [turned(textured(seed, 60, 60), 30) for seed in range(8)]
    alone = matching_pairs(images)
    monkeypatch.setattr("diffaug.similarity.keypoints.search.ROWS_WORTH_PROCESSES", 1)
    assert len(alone) == 8 and matching_pairs(images).tolist() == alone.tolist()


def test_progress_ends_with_all_images() -> None:
    seen: list[tuple[int, int]] = []
    near_duplicates([textured(seed, 40, 40) for seed in range(5)], lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5) and seen == sorted(seen)


def test_progress_of_small_images_goes_on_while_they_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffaug.similarity.whole_images.QUERIES_AT_ONCE", 2)
    seen: list[int] = []
    near_duplicates([textured(seed, 16, 16) for seed in range(8)], lambda done, total: seen.append(done))
    assert {6, 7} < set(seen) and seen == sorted(seen)


@pytest.mark.e2e
@settings(max_examples=20)
@given(st.floats(-np.pi, np.pi), st.floats(0.7, 1.4), st.floats(-0.3, 0.3), st.booleans())
def test_keypoints_find_the_movement_that_was_made(angle: float, zoom: float, shear: float, mirror: bool) -> None:
    image = textured(3, 128, 128)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = zoom * rotation @ np.array([[1, shear], [0, 1]])
    copy = moved(image[:, ::-1] if mirror else image, linear.tolist())
    query = find_keypoints(frame_of(copy))
    if mirror:
        linear = np.diag([-1, 1]) @ np.linalg.inv(linear) @ np.diag([-1, 1])
        query = mirrored(query, 128, mirrored_descriptors(query.descriptors))
    else:
        linear = np.linalg.inv(linear)
    found = align(query, find_keypoints(frame_of(image)))
    assert found is not None and found.support >= LEAST_SUPPORT
    np.testing.assert_allclose(found.matrix[:, :2], linear, atol=0.04)


def write(root: Path, name: str, image: Pixels) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / name)


def write_scenes(root: Path, count: int, *, folder: str = "", repeats: int = 1) -> Path:
    for number in range(count):
        write(root, f"{folder}{'ab'[number % 2]}/{number:02}.png", scene(number // repeats))
    return root


def build(root: Path, seed: int = 0, **settings: object) -> tuple[Catalog, dict[str, str]]:
    directory = root.with_name(f"{root.name}-{seed}-{len(settings)}") / "catalog"
    catalog = build_catalog(root, DataSettings(**settings), directory=directory, seed=seed)
    return catalog, dict(zip(catalog.table["path"], catalog.table["split"], strict=True))


@pytest.mark.e2e
@pytest.mark.parametrize("seed", range(4))
def test_no_split_parts_a_picture(tmp_path: Path, seed: int) -> None:
    write_scenes(tmp_path, 24)
    for number in range(12):
        write(tmp_path, f"{'ab'[number % 2]}/{number:02} again.png", compressed(scene(number)))
    catalog, splits = build(tmp_path, seed)
    assert all(splits[path] == splits[path.replace(" again", "")] for path in splits)
    assert set(splits.values()) == {"train", "test"}
    names, groups = catalog.images("train").ids, catalog.groups("train")
    for name, group in zip(names, groups, strict=True):
        alike = [groups[other] for other in range(len(names)) if names[other].replace(" again", "") == name]
        assert set(alike) <= {group}
    [sentence] = [problem for problem in catalog.problems if "nearly the same picture" in problem]
    assert ": 12 (" in sentence
    loose, _ = build(tmp_path, seed, near_duplicates=False)
    assert (loose.table["picture"] == "").all() and loose.problems == []


def test_what_shows_a_given_test_image_is_reported(tmp_path: Path) -> None:
    write_scenes(tmp_path, 12, folder="train/")
    write(tmp_path, "test/a/x.png", compressed(scene(4)))
    write(tmp_path, "test/b/x.png", scene(50))
    catalog, splits = build(tmp_path)
    assert splits["train/a/04.png"] == "train"
    assert [(leak.test_id, leak.seen_id) for leak in catalog.leaks] == [("test/a/x.png", "train/a/04.png")]
    assert any("without --drop-leaked" in problem and "04.png" in problem for problem in catalog.problems)


@pytest.mark.parametrize(
    ("name", "change", "reported", "not_reported"),
    [
        ("b/other.png", compressed, "two labels: 1 (a/00.png = b/other.png)", "repeat the pixels"),
        ("a/equal.png", lambda image: image, "repeat the pixels", "nearly the same picture"),
    ],
)
def test_one_picture_twice_is_reported_once(tmp_path: Path, name, change, reported, not_reported) -> None:
    write(write_scenes(tmp_path, 16), name, change(scene(0)))
    problems = build(tmp_path)[0].problems
    assert any(reported in problem for problem in problems)
    assert not any(not_reported in problem for problem in problems)
