import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from diffaug.configuration.settings import DataSettings
from diffaug.data.catalog import Catalog, build_catalog
from diffaug.similarity.near_duplicates import near_duplicates

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


@pytest.mark.parametrize("change", [compressed, cropped, shifted, darker, lambda image: image[:, ::-1]])
def test_the_same_picture_again_is_found_and_nothing_else(change: Callable[[Pixels], Pixels]) -> None:
    scenes = [scene(seed) for seed in range(30)]
    images = np.stack([*scenes, *map(change, scenes[:10])])
    assert near_duplicates(images).tolist() == [*range(30), *range(10)]


def test_a_series_is_one_picture_even_where_its_ends_differ() -> None:
    wide = np.concatenate([scene(100), scene(101)], axis=1)
    series = [wide[:, start : start + SIZE] for start in range(8)]  # each moved by a pixel
    images = np.stack([*(scene(seed) for seed in range(20)), *series])
    assert near_duplicates(images).tolist() == [*range(20), *[20] * 8]


def test_parts_that_are_merely_alike_stay_apart() -> None:
    part, random = scene(0), np.random.default_rng(1)
    marks = random.integers(0, SIZE - 8, (30, 2))
    images = np.stack([part] * 30)
    for image, (y, x) in zip(images, marks, strict=True):
        image[y : y + 8, x : x + 8] = random.integers(0, 256, 3)
    assert len(set(near_duplicates(images).tolist())) == 30


@pytest.mark.parametrize("count", [0, 1, 10])
def test_images_without_contrast_stay_apart(count: int) -> None:
    images = np.full((count, 12, 12, 1), 25, np.uint8) * np.arange(count, dtype=np.uint8)[:, None, None, None]
    assert near_duplicates(images).tolist() == list(range(count))


def write(root: Path, name: str, image: Pixels) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / name)


def write_scenes(root: Path, count: int, *, folder: str = "", repeats: int = 1) -> Path:
    for number in range(count):
        write(root, f"{folder}{'ab'[number % 2]}/{number:02}.png", scene(number // repeats))
    return root


def build(root: Path, seed: int = 0, **settings: object) -> tuple[Catalog, dict[str, str]]:
    catalog = build_catalog(root, DataSettings(**settings), seed=seed)
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


def test_what_shows_a_given_test_image_is_not_trained_on(tmp_path: Path) -> None:
    write_scenes(tmp_path, 12, folder="train/")
    write(tmp_path, "test/a/x.png", compressed(scene(4)))
    write(tmp_path, "test/b/x.png", scene(50))
    catalog, splits = build(tmp_path)
    assert splits["train/a/04.png"] == ""
    assert catalog.counts()["train"].sum() == 11
    assert any("leakage" in problem and "04.png" in problem for problem in catalog.problems)


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


def test_what_is_not_searched_for_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffaug.data.problems.MOST_COMPARED", 15)
    catalog, _ = build(write_scenes(tmp_path, 16, repeats=2))
    assert (catalog.table["picture"] == "").all()
    assert any("are not searched for" in problem for problem in catalog.problems)
