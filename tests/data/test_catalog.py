import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffaug.configuration.settings import DataSettings
from diffaug.data.building.build import build_catalog
from diffaug.data.building.changes import describe_changes
from diffaug.data.catalog import COLUMNS, Catalog
from diffaug.data.images import LabeledImages
from diffaug.data.resize import fit_to_size
from diffaug.errors import DamagedError, DataError, UsageError
from diffaug.files import storage


def assert_pixels_of_files(root: Path, images: LabeledImages) -> None:
    for path, pixels in zip(images.ids, images.pixels, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(root / path)))


def problem(catalog: Catalog, start: str) -> str:
    [sentence] = [sentence for sentence in catalog.problems if sentence.startswith(start)]
    return sentence


def changes(catalog: Catalog, root: Path, directory: Path) -> str:
    return describe_changes(catalog, root, DataSettings(), directory)


def write_csv(root: Path, columns: str, lines: list[str]) -> Path:
    (root / "labels.csv").write_text("\n".join([f"file_name,label{columns}", *lines]))
    return root


def copy(root: Path, source: str, target: str) -> None:
    (root / target).write_bytes((root / source).read_bytes())


@pytest.mark.parametrize(
    ("folders", "counts"),
    [
        ({"cat": 20, "dog": 10}, {"cat": (16, 0, 4), "dog": (8, 0, 2)}),
        (
            {"train/cat": 9, "train/dog": 8, "valid/cat": 2, "test/cat": 3, "test/dog": 1},
            {"cat": (9, 2, 3), "dog": (8, 0, 1)},
        ),
        ({"train/cat": 10, "train/dog": 10, "val/cat": 3}, {"cat": (8, 3, 2), "dog": (8, 0, 2)}),
    ],
    ids=["classes", "given splits", "no test split"],
)
def test_folders_become_a_catalog(build, make_folder, folders, counts) -> None:
    catalog = build(make_folder(folders))
    assert tuple(catalog.table.columns) == COLUMNS
    assert catalog.classes == ("cat", "dog")
    assert (catalog.image_size, catalog.channels) == ((12, 12), 3)
    assert list(catalog.counts().columns) == ["train", "val", "test"]
    assert {name: tuple(row) for name, *row in catalog.counts().itertuples()} == counts
    assert all(path.startswith("val") for path in catalog.images("val").ids)
    assert catalog.problems == []


def test_images_are_those_of_the_files(build, make_folder) -> None:
    root = make_folder({"cat": 12, "dog": 12})
    catalog = build(root)
    train, test = catalog.images("train"), catalog.images("test")
    assert not set(train.ids) & set(test.ids)
    assert len(train) + len(test) == 24 == len(catalog.pixels)
    assert len(catalog.images("val")) == 0
    for images in (train, test):
        assert images.pixels.dtype == np.uint8
        assert_pixels_of_files(root, images)
        assert [path.split("/")[0] for path in images.ids] == [images.classes[label] for label in images.labels]


def test_bad_files_are_listed_and_skipped(build, make_folder, encoded) -> None:
    root = make_folder({"cat": 12, "dog": 12})
    (root / "cat" / "page.jpg").write_text("<html>")
    (root / "cat" / "cut.png").write_bytes((root / "cat" / "0.png").read_bytes()[:200])
    (root / "dog" / "dot.png").write_bytes(encoded(np.zeros((1, 1), np.uint8)))
    (root / "dog" / "volume.nii").write_bytes(b"\x5c\x01\0\0" + bytes(400))
    catalog = build(root)
    bad = catalog.table[catalog.table["status"] != "ok"].set_index("path")["status"]
    assert bad.to_dict() == {
        "cat/cut.png": "truncated",
        "cat/page.jpg": "not an image",
        "dog/dot.png": "too small",
        "dog/volume.nii": "not an image",
    }
    assert (catalog.table.set_index("path").loc[bad.index, "split"] == "").all()
    assert len(catalog.pixels) == 24 == catalog.counts().to_numpy().sum()
    assert problem(catalog, "files that are cut short") == "files that are cut short or damaged: 1 (cat/cut.png)"
    assert_pixels_of_files(root, catalog.images("train"))
    assert_pixels_of_files(root, catalog.images("test"))


def test_copies_and_pictures_under_two_labels_are_reported_and_never_cross_the_split(build, make_folder) -> None:
    root = make_folder({"cat": 30, "dog": 30})
    for number in range(10):
        copy(root, f"cat/{number}.png", f"cat/copy{number}.png")
        copy(root, f"cat/{number + 10}.png", f"dog/{number + 10}.png")
    Image.open(root / "dog" / "3.png").save(root / "dog" / "again.bmp")
    catalog = build(root)
    assert (catalog.table.groupby("pixel_sha256")["split"].nunique() == 1).all()
    assert "11 (" in problem(catalog, "files that repeat the pixels")
    sentence = problem(catalog, "pictures that have two labels")
    assert sentence.startswith("pictures that have two labels: 10 (cat/10.png = dog/10.png, ")


def test_images_in_two_given_splits_stay_there_and_are_reported(build, make_folder) -> None:
    root = make_folder({"train/cat": 12, "train/dog": 12, "test/cat": 4, "test/dog": 4})
    copy(root, "test/cat/1.png", "train/cat/0.png")
    copy(root, "test/cat/2.png", "train/dog/0.png")
    catalog = build(root)
    pairs = "(test/cat/1.png = train/cat/0.png, test/cat/2.png = train/dog/0.png)"
    assert problem(catalog, "test images that show").endswith(f"--drop-leaked: 2 {pairs}")
    assert catalog.counts()["train"].to_dict() == {"cat": 12, "dog": 12}
    assert [(leak.test_id, leak.how) for leak in catalog.leaks] == [
        ("test/cat/1.png", "same pixels"),
        ("test/cat/2.png", "same pixels"),
    ]


def test_mixed_sizes_and_gray_among_color(build, make_folder) -> None:
    make_folder({"cat": 6}, size=(30, 30))
    make_folder({"dog": 6}, size=(127, 127), channels=1)
    root = make_folder({"emu": 6}, size=(28, 28))
    catalog = build(root)
    assert (catalog.image_size, catalog.channels) == ((30, 30), 3)
    images = catalog.images("train")
    dogs = images.pixels[images.labels == 1]
    assert (dogs == dogs[..., :1]).all()
    path = next(path for path in images.ids if path.startswith("emu"))
    expected = fit_to_size(np.asarray(Image.open(root / path)), (30, 30))
    np.testing.assert_array_equal(images.pixels[images.ids.index(path)], expected)


def test_damaged_files_do_not_decide_the_size(build, make_folder, encoded) -> None:
    root = make_folder({"cat": 5, "dog": 5}, size=(20, 20))
    large = encoded(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8))
    for number in range(15):
        (root / "cat" / f"cut{number}.png").write_bytes(large[:300])
    assert build(root).pixels.shape == (10, 20, 20, 3)


def test_gray_sets_have_one_channel_and_settings_override(build, make_folder) -> None:
    root = make_folder({"cat": 5, "dog": 5}, channels=1)
    assert build(root).pixels.shape == (10, 12, 12, 1)
    assert build(root, channels=3, image_size=16).pixels.shape == (10, 16, 16, 3)
    color = make_folder({"cat": 5, "dog": 5}, root="color")
    assert build(color, channels=1).pixels.shape == (10, 12, 12, 1)


def test_the_fingerprint_follows_content_labels_and_size(build, make_folder, encoded) -> None:
    root = make_folder({"cat": 6, "dog": 6})
    first = build(root).fingerprint
    assert build(root).fingerprint == first
    assert build(root, image_size=16).fingerprint != first
    assert build(root, seed=1).fingerprint != first
    (root / "cat" / "0.png").write_bytes(encoded(np.full((12, 12, 3), 7, np.uint8)))
    assert build(root).fingerprint != first
    assert build(make_folder({"cat": 6, "dog": 6}, root="moved")).fingerprint == first


def test_save_and_load(make_folder, tmp_path) -> None:
    root, directory = make_folder({"cat": 6, "9": 6, "nan": 6, "new\nline": 6}), tmp_path / "study" / "catalog"
    (root / "cat" / "broken.png").write_text("no")
    catalog = build_catalog(root, DataSettings(), directory=directory, seed=0, recorded={"seed": 0})
    loaded = Catalog.load(directory)
    assert loaded.classes == ("9", "cat", "nan", "new\nline")
    assert storage.committed_metadata(directory, verify=True) == {
        "settings": {"seed": 0},
        "inputs": {"root": str(root)},
        "fingerprint": catalog.fingerprint,
    }
    assert sorted(path.name for path in directory.parent.iterdir()) == ["catalog", "catalog-stamps.npy"]
    for array in (loaded.pixels, loaded.images("train").pixels, *loaded.pictures.files):
        assert isinstance(array, np.memmap)
    np.testing.assert_array_equal(loaded.pixels, catalog.pixels)
    pd.testing.assert_frame_equal(loaded.table, catalog.table)
    for field in dataclasses.fields(Catalog):
        if field.name not in ("pixels", "table", "pictures", "object_masks"):
            assert getattr(loaded, field.name) == getattr(catalog, field.name), field.name


def test_loading_what_is_not_there_or_damaged(build, make_folder, tmp_path) -> None:
    with pytest.raises(UsageError, match="no finished catalog"):
        Catalog.load(tmp_path / "nothing")
    directory = tmp_path / "catalog"
    build(make_folder({"cat": 4, "dog": 4}), directory=directory)
    with (directory / "pictures.npy").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DamagedError):
        Catalog.load(directory)


def test_changes_are_noticed_without_decoding(build, make_folder, tmp_path, monkeypatch) -> None:
    root = make_folder({"cat": 6, "dog": 6})
    (root / "cat" / "broken.png").write_text("no")
    catalog = build(root, directory=tmp_path / "catalog")
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was opened"))
    assert changes(catalog, root, tmp_path / "catalog") == ""
    content = bytearray((root / "cat" / "1.png").read_bytes())
    content[-20] ^= 1
    (root / "cat" / "1.png").write_bytes(content)
    assert changes(catalog, root, tmp_path / "catalog").endswith(": 1 changed (cat/1.png)")
    (root / "cat" / "2.png").rename(root / "dog" / "moved.png")
    assert changes(catalog, root, tmp_path / "catalog") == (
        "files since the catalog was made: 1 added (dog/moved.png), 1 removed (cat/2.png), 1 changed (cat/1.png)"
    )


def test_a_changed_label_in_the_csv_is_noticed(build, make_folder, tmp_path) -> None:
    lines = [f"img/{i}.png,{'ab'[i % 2]}" for i in range(12)]
    root = write_csv(make_folder({"img": 12}), "", lines)
    catalog = build(root, directory=tmp_path / "catalog")
    assert changes(catalog, root, tmp_path / "catalog") == ""
    write_csv(root, "", [*lines[:-1], "img/11.png,a"])
    assert changes(catalog, root, tmp_path / "catalog").startswith("labels, groups, splits")


def test_no_usable_image(build, tmp_path) -> None:
    for name in ("cat/a.png", "dog/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("not an image")
    with pytest.raises(
        DataError, match=r"no image can be used: files that are not PNG.*2 \(cat/a.png, dog/b.jpg\)"
    ) as caught:
        build(tmp_path)
    assert caught.value.fix.startswith("give PNG, JPEG")


def test_images_that_are_all_too_small_are_not_answered_with_a_list_of_formats(build, make_folder) -> None:
    with pytest.raises(DataError, match="that are too small: 4") as caught:
        build(make_folder({"cat": 2, "dog": 2}, size=(1, 500)))
    assert "PNG" not in caught.value.fix


def test_too_few_training_images(build, make_folder) -> None:
    root = make_folder({"cat": 20, "dog": 2, "emu": 1, "fox": 5})
    (root / "emu" / "broken.png").write_text("no")
    with pytest.raises(
        DataError, match=r"dog has 1 beside 1 held out, emu has 1 \(files that are not PNG.*: 1 \(emu/broken.png\)\)"
    ) as caught:
        build(root)
    assert "2 for training, that is 3 images in all with 20% held out" in str(caught.value.fix)
    assert "fox" not in caught.value.what
    with pytest.raises(DataError, match="fox has 4") as caught:
        build(root, min_train_images=5)
    assert "5 for training, that is 6 images" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("folders", "what", "fix"),
    [
        ({"cat": 5}, "only one class: cat", "folders of all classes"),
        ({"cat": 9, "dog": 9, "void": 0}, "too few training images: void has 0", "that is 3 images in all"),
        (
            {"train/cat": 9, "train/dog": 1, "test/cat": 3, "test/dog": 3},
            "dog has 1",
            "each class needs 2 for training; add images",
        ),
    ],
)
def test_folders_that_no_generator_can_learn_from(build, make_folder, folders, what, fix) -> None:
    with pytest.raises(DataError, match=what) as caught:
        build(make_folder(folders))
    assert fix in str(caught.value.fix)


def test_a_class_missing_in_the_given_test_and_small_classes_are_problems(build, make_folder) -> None:
    catalog = build(make_folder({"train/cat": 9, "train/dog": 5, "test/cat": 3}))
    assert problem(catalog, "classes without a test image").endswith(": 1 (dog)")
    assert problem(catalog, "classes with under 8").endswith(": 1 (dog 5)")


def test_counting_reads_no_pixels(build, make_folder) -> None:
    catalog = build(make_folder({"cat": 12, "dog": 8}))
    images = catalog.images("train")
    np.testing.assert_array_equal(catalog.labels("train"), images.labels)
    unread = dataclasses.replace(catalog, pixels=None)
    assert unread.counts_by_name("train") == images.counts_by_name
    assert unread.labels("val").shape == (0,)


def test_a_catalog_without_some_images_is_that_of_a_folder_without_them(tmp_path, make_classes) -> None:
    root = make_classes(tmp_path / "images", {"a": 9, "b": 7})
    make_classes(tmp_path / "images" / "unlabeled", {"x": 3}, size=9)
    whole = build_catalog(root, DataSettings(), directory=tmp_path / "whole", seed=0)
    left_out = np.zeros(len(whole.rows("train")), np.bool_)
    left_out[[0, 3, -1]] = True
    rest = whole.without(left_out)
    images, fewer = whole.images("train"), rest.images("train")
    kept = images.select(np.flatnonzero(~left_out))
    assert fewer.ids == kept.ids
    np.testing.assert_array_equal(fewer.pixels, kept.pixels)
    np.testing.assert_array_equal(fewer.labels, kept.labels)
    for split in ("test", "val"):
        np.testing.assert_array_equal(rest.images(split).pixels, whole.images(split).pixels)
    np.testing.assert_array_equal(rest.unlabeled()[0], whole.unlabeled()[0])
    shown = [pixels for pixels, name in zip(whole.pictures, whole.usable["path"], strict=True) if name in set(kept.ids)]
    assert all(map(np.array_equal, rest.pictures_of("train"), shown))
    assert len(rest.pictures) == len(rest.usable) == len(whole.usable) - 3
    again = rest.without(np.arange(len(kept)) == 1)  # of one that lacks some already
    np.testing.assert_array_equal(again.images("train").pixels, kept.select(np.delete(np.arange(len(kept)), 1)).pixels)
    assert len({whole.fingerprint, rest.fingerprint, again.fingerprint}) == 3
    assert rest.fingerprint == whole.without(left_out).fingerprint
