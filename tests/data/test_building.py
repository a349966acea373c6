"""What the parts of intake do together: pages, masks, unlabeled images, groups, leaks and deep images."""

import numpy as np
import pytest
from PIL import Image

from diffaug.configuration.settings import Config
from diffaug.data.building import layout
from diffaug.data.leaks import Leak
from diffaug.errors import Interrupted
from diffaug.stages import catalog as stage


def noise(seed: int, side: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8))


def write(root, names, **options) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(root / name, **options)


def test_unlabeled_images_are_kept_apart_and_none_shows_a_test_image(tmp_path, build) -> None:
    root = tmp_path / "data"
    write(root, [f"{split}/{label}/{n}.png" for split in ("train", "test") for label in "ab" for n in range(4)])
    (root / "unlabeled").mkdir()
    noise(50).save(root / "unlabeled" / "new.png")
    catalog = build(root, near_duplicates=False)
    pixels, paths = catalog.unlabeled()
    assert paths == ("unlabeled/new.png",) and len(pixels) == 1
    Image.open(root / "test" / "a" / "0.png").save(root / "unlabeled" / "leaked.bmp")
    again = build(root, near_duplicates=False)
    assert "unlabeled/leaked.bmp" not in again.unlabeled()[1]
    assert any("unlabeled images left out" in problem and "leaked.bmp" in problem for problem in again.problems)
    np.testing.assert_array_equal(pixels[paths.index("unlabeled/new.png"), ..., 0], np.asarray(noise(50)))
    assert len(again.images("train")) == 8 and set(again.images("train").labels) == {0, 1}


def test_each_page_is_an_image_of_its_files_group(tmp_path, build) -> None:
    root = tmp_path / "data"
    for label in "ab":
        (root / label).mkdir(parents=True)
        for number in range(4):
            pages = [noise(100 * number + page + ord(label)) for page in range(3)]
            pages[0].save(root / label / f"{number}.tif", save_all=True, append_images=pages[1:])
    assert len(build(root, near_duplicates=False).table) == 8
    catalog = build(root, pages="all", near_duplicates=False)
    assert len(catalog.usable) == 24
    assert (catalog.table.groupby("file")["split"].nunique() == 1).all()
    for split in ("train", "test"):
        for path, pixels in zip(catalog.images(split).ids, catalog.images(split).pixels, strict=True):
            name, _, page = path.partition("#page=")
            number = 100 * int(name[2]) + int(page or 1) - 1 + ord(name[0])
            np.testing.assert_array_equal(pixels[..., 0], np.asarray(noise(number)))


def test_a_deep_image_that_the_sample_of_headers_missed_is_shown_by_the_rule_too(tmp_path, build, monkeypatch) -> None:
    root = tmp_path / "data"
    write(root, [f"{label}/{n}.png" for label in "ab" for n in range(4)])
    deep = np.linspace(1000, 3000, 24 * 24).reshape(24, 24).astype(np.uint16)
    for label in "ab":
        Image.fromarray(deep).save(root / label / "deep.png")
    wanted = build(root, near_duplicates=False)
    assert wanted.intensity is not None
    monkeypatch.setattr("diffaug.data.reading.headers.SAMPLED", 1)
    missed = build(root, near_duplicates=False)
    assert missed.intensity == wanted.intensity and missed.fingerprint == wanted.fingerprint
    np.testing.assert_array_equal(missed.pixels, wanted.pixels)


def test_groups_that_cross_given_splits_are_leaks(tmp_path, build) -> None:
    root = tmp_path / "data"
    write(root, [f"{n}.png" for n in range(16)])
    rows = [f"{n}.png,{'ab'[n % 2]},g{n // 3},{'test' if n > 10 else 'train'}" for n in range(16)]
    (root / "labels.csv").write_text("\n".join(["file_name,label,group,split", *rows]))
    catalog = build(root)
    assert catalog.leaks == (Leak("11.png", "10.png", "same group"),) or catalog.leaks[0].seen_id == "9.png"
    assert {leak.test_id for leak in catalog.leaks} == {"11.png"}
    assert len(catalog.rows("test")) == 5
    assert any(text.startswith("groups in more than one") and text.endswith(": 1 (g3)") for text in catalog.problems)


def test_what_the_leak_check_finds_is_joined_until_it_finds_nothing(tmp_path, build, monkeypatch) -> None:
    """The check takes images of equal brightness for one picture, which no search before it does."""
    root = tmp_path / "data"
    for number in range(40):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8), 10 + number // 4, np.uint8)
        pixels[number % 8, number // 8] = 255
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    rounds = []

    def equal_median(test, seen, groups, *, device):
        rounds.append(len(test))
        medians = [np.median(pixels) for pixels in seen]
        return {n: medians.index(np.median(one)) for n, one in enumerate(test) if np.median(one) in medians}

    monkeypatch.setattr(layout, "copied_by", equal_median)
    monkeypatch.setattr(layout, "pictures_shown", lambda paths, pictures, progress: [""] * len(paths))
    catalog = build(root)
    medians = [{np.median(one) for one in catalog.images(split).pixels} for split in ("train", "test")]
    assert not medians[0] & medians[1] and medians[1]
    assert catalog.leaks == () and len(rounds) > 1


@pytest.mark.parametrize("given", [False, True])
def test_images_that_are_said_to_only_look_alike_are_no_leaks_but_equal_ones_are(tmp_path, build, given) -> None:
    root = tmp_path / "data"
    write(
        root,
        [
            f"{part}{label}/{n}.png"
            for part in (["train/", "test/"] if given else [""])
            for label in "ab"
            for n in range(8)
        ],
    )
    if given:
        (root / "test/a/0.png").write_bytes((root / "train/a/1.png").read_bytes())
    catalog = build(root, near_duplicates=False)
    assert [(leak.test_id, leak.how) for leak in catalog.leaks] == [("test/a/0.png", "same pixels")] * given
    assert (catalog.counts()["test"] > 0).all()


def test_ctrl_c_says_what_was_kept_and_how_to_go_on(tmp_path, monkeypatch) -> None:
    class Silent:
        def progress(self, *given) -> None: ...

    def stopped(root, settings, *, progress, **given):
        progress(512, 2000)
        raise KeyboardInterrupt

    class Job:
        config, narrator, device, command = Config(), Silent(), "cpu", "diffaug fit data"
        study = type("Study", (), {"catalog": tmp_path / "catalog", "path": tmp_path, "has_training": False})()

    monkeypatch.setattr(stage, "build_catalog", stopped)
    with pytest.raises(Interrupted, match="512 of 2,000 files were read") as caught:
        stage._build(Job(), tmp_path)
    assert caught.value.fix == "continue with: diffaug fit data"
