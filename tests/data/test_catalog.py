from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffaug.configuration.settings import DataSettings
from diffaug.data.catalog import COLUMNS, Catalog, build_catalog, catalog_is_current, describe_changes
from diffaug.data.resize import fit_to_size
from diffaug.errors import DamagedError, DataError, UsageError
from diffaug.files import storage

SETTINGS = DataSettings()
MakeFolder = Callable[..., Path]


def build(root: Path, **settings: Any) -> Catalog:
    return build_catalog(root, DataSettings(**settings), seed=0)


def problem(catalog: Catalog, start: str) -> str:
    [sentence] = [sentence for sentence in catalog.problems if sentence.startswith(start)]
    return sentence


def test_class_folders_become_a_catalog(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 20, "dog": 10})
    catalog = build(root)
    assert tuple(catalog.table.columns) == COLUMNS
    assert catalog.classes == ("cat", "dog")
    assert (catalog.image_size, catalog.channels) == ((12, 12), 3)
    assert catalog.counts().to_dict("index") == {
        "cat": {"train": 16, "val": 0, "test": 4},
        "dog": {"train": 8, "val": 0, "test": 2},
    }
    assert catalog.problems == []


def test_images_are_those_of_the_files(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 12, "dog": 12})
    catalog = build(root)
    train, test = catalog.images("train"), catalog.images("test")
    assert not set(train.ids) & set(test.ids)
    assert len(train) + len(test) == 24 == len(catalog.pixels)
    assert len(catalog.images("val")) == 0
    for images in (train, test):
        assert images.pixels.dtype == np.uint8
        for pixels, label, path in zip(images.pixels, images.labels, images.ids, strict=True):
            np.testing.assert_array_equal(pixels, np.asarray(Image.open(root / path)))
            assert path.startswith(images.classes[label] + "/")


def test_given_splits_are_kept(make_folder: MakeFolder) -> None:
    catalog = build(make_folder({"train/cat": 9, "train/dog": 8, "valid/cat": 2, "test/cat": 3, "test/dog": 1}))
    assert catalog.counts().to_dict("index") == {
        "cat": {"train": 9, "val": 2, "test": 3},
        "dog": {"train": 8, "val": 0, "test": 1},
    }
    assert all(path.startswith("valid/") for path in catalog.images("val").ids)


def test_without_a_test_split_one_is_taken_from_train_and_val_is_kept_apart(make_folder: MakeFolder) -> None:
    catalog = build(make_folder({"train/cat": 10, "train/dog": 10, "val/cat": 3}))
    assert catalog.counts().to_dict("index") == {
        "cat": {"train": 8, "val": 3, "test": 2},
        "dog": {"train": 8, "val": 0, "test": 2},
    }


def test_csv_groups_stay_together(make_folder: MakeFolder) -> None:
    root = make_folder({"img": 60})
    lines = [f"img/{i}.png,{'ab'[i % 2]},patient{i // 4}" for i in range(60)]
    (root / "labels.csv").write_text("\n".join(["file_name,label,group", *lines]))
    table = build(root).table
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert set(table["split"]) == {"train", "test"}


def test_csv_naming_a_missing_file(make_folder: MakeFolder) -> None:
    root = make_folder({"img": 24})
    lines = [f"img/{i}.png,{'ab'[i % 2]}" for i in range(24)]
    (root / "labels.csv").write_text("\n".join(["file_name,label", *lines, "img/gone.png,a"]))
    catalog = build(root)
    row = catalog.table.set_index("path").loc["img/gone.png"]
    assert (row["verdict"], row["note"], row["split"]) == ("unreadable", "no such file or directory", "")
    assert problem(catalog, "files that can't be read") == "files that can't be read from the disk: 1 (img/gone.png)"


def test_bad_files_are_listed_and_skipped(make_folder: MakeFolder, encoded: Any) -> None:
    root = make_folder({"cat": 12, "dog": 12})
    (root / "cat" / "page.jpg").write_text("<html>")
    (root / "cat" / "cut.png").write_bytes((root / "cat" / "0.png").read_bytes()[:200])
    (root / "dog" / "dot.png").write_bytes(encoded(np.zeros((1, 1), np.uint8)))
    (root / "dog" / "heat.tiff").write_bytes(encoded(Image.new("F", (8, 8)), "TIFF"))
    catalog = build(root)
    bad = catalog.table[catalog.table["verdict"] != "ok"].set_index("path")["verdict"]
    assert bad.to_dict() == {
        "cat/cut.png": "truncated",
        "cat/page.jpg": "not an image",
        "dog/dot.png": "too small",
        "dog/heat.tiff": "unsupported mode",
    }
    assert (catalog.table.set_index("path").loc[bad.index, "split"] == "").all()
    assert len(catalog.pixels) == 24 == catalog.counts().to_numpy().sum()
    assert problem(catalog, "files that are cut short") == "files that are cut short or damaged: 1 (cat/cut.png)"
    ids = catalog.images("train").ids + catalog.images("test").ids
    for path, pixels in zip(ids, [*catalog.images("train").pixels, *catalog.images("test").pixels], strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(root / path)))


def test_copies_in_a_class_never_cross_the_split(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 30, "dog": 30})
    for number in range(15):
        (root / "cat" / f"copy{number}.png").write_bytes((root / "cat" / f"{number}.png").read_bytes())
    Image.open(root / "dog" / "3.png").save(root / "dog" / "again.bmp")
    catalog = build(root)
    assert (catalog.table.groupby("pixel_sha256")["split"].nunique() == 1).all()
    assert "16 (" in problem(catalog, "files that repeat the pixels")


def test_the_same_picture_under_two_labels_is_reported_and_never_crosses(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 20, "dog": 20})
    for number in range(10):
        (root / "dog" / f"{number}.png").write_bytes((root / "cat" / f"{number}.png").read_bytes())
    catalog = build(root)
    sentence = problem(catalog, "pictures that have two labels")
    assert sentence.startswith("pictures that have two labels: 10 (cat/0.png = dog/0.png, ")
    assert (catalog.table.groupby("pixel_sha256")["split"].nunique() == 1).all()


def test_training_images_that_are_in_the_test_are_dropped(make_folder: MakeFolder) -> None:
    root = make_folder({"train/cat": 12, "train/dog": 12, "test/cat": 4, "test/dog": 4})
    (root / "train" / "cat" / "0.png").write_bytes((root / "test" / "cat" / "1.png").read_bytes())
    (root / "train" / "dog" / "0.png").write_bytes((root / "test" / "cat" / "2.png").read_bytes())
    catalog = build(root)
    assert problem(catalog, "files left out").endswith("(leakage): 2 (train/cat/0.png, train/dog/0.png)")
    assert catalog.counts()["train"].to_dict() == {"cat": 11, "dog": 11}
    assert catalog.counts()["test"].to_dict() == {"cat": 4, "dog": 4}
    train, test = catalog.images("train"), catalog.images("test")
    assert not {image.tobytes() for image in train.pixels} & {image.tobytes() for image in test.pixels}


def test_groups_crossing_given_splits_are_reported(make_folder: MakeFolder) -> None:
    root = make_folder({"img": 24})
    lines = [f"img/{i}.png,{'ab'[i % 2]},p{i // 3},{'test' if i > 15 else 'train'}" for i in range(24)]
    (root / "labels.csv").write_text("\n".join(["file_name,label,group,split", *lines]))
    assert problem(build(root), "groups in more than one").endswith(": 1 (p5)")


def test_mixed_sizes_and_grey_among_colour(make_folder: MakeFolder) -> None:
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


def test_grey_sets_have_one_channel_and_settings_override(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 5, "dog": 5}, channels=1)
    assert build(root).pixels.shape == (10, 12, 12, 1)
    assert build(root, channels=3, image_size=16).pixels.shape == (10, 16, 16, 3)
    colour = make_folder({"cat": 5, "dog": 5}, root="colour")
    assert build(colour, channels=1).pixels.shape == (10, 12, 12, 1)


def test_the_fingerprint_follows_content_labels_and_size(make_folder: MakeFolder, encoded: Any) -> None:
    root = make_folder({"cat": 6, "dog": 6})
    first = build(root).fingerprint
    assert build(root).fingerprint == first
    assert build(root, image_size=16).fingerprint != first
    assert build_catalog(root, SETTINGS, seed=1).fingerprint != first
    (root / "cat" / "0.png").write_bytes(encoded(np.full((12, 12, 3), 7, np.uint8)))
    assert build(root).fingerprint != first
    assert build(make_folder({"cat": 6, "dog": 6}, root="moved")).fingerprint == first


def test_save_and_load(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"cat": 6, "dog": 6, "new\nline": 6})
    (root / "cat" / "broken.png").write_text("no")
    catalog = build(root)
    catalog.save(tmp_path / "study" / "catalog", settings={"image_size": None, "seed": 0})
    loaded = Catalog.load(tmp_path / "study" / "catalog")
    assert storage.committed_facts(tmp_path / "study" / "catalog", verify=True) == {
        "settings": {"image_size": None, "seed": 0},
        "inputs": {"root": str(root)},
        "fingerprint": catalog.fingerprint,
    }
    assert isinstance(loaded.pixels, np.memmap)
    np.testing.assert_array_equal(loaded.pixels, catalog.pixels)
    pd.testing.assert_frame_equal(loaded.table, catalog.table)
    for field in dataclasses.fields(Catalog):
        if field.name not in ("pixels", "table"):
            assert getattr(loaded, field.name) == getattr(catalog, field.name), field.name
    assert loaded.images("train").ids == catalog.images("train").ids


def test_loading_what_is_not_there_or_damaged(make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished catalog"):
        Catalog.load(tmp_path / "nothing")
    directory = tmp_path / "catalog"
    build(make_folder({"cat": 4, "dog": 4})).save(directory)
    with (directory / "pixels.npy").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DamagedError):
        Catalog.load(directory)


def test_changes_are_noticed_without_decoding(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"cat": 6, "dog": 6})
    (root / "cat" / "broken.png").write_text("no")
    build(root).save(tmp_path / "catalog")
    catalog = Catalog.load(tmp_path / "catalog")
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was opened"))
    assert catalog_is_current(catalog, root)
    assert describe_changes(catalog, root) == ""

    content = bytearray((root / "cat" / "1.png").read_bytes())
    content[-20] ^= 1
    (root / "cat" / "1.png").write_bytes(content)
    assert describe_changes(catalog, root).endswith(": 1 changed (cat/1.png)")
    (root / "cat" / "2.png").rename(root / "dog" / "moved.png")
    assert not catalog_is_current(catalog, root)
    assert describe_changes(catalog, root) == (
        "files since the catalog was made: 1 added (dog/moved.png), 1 removed (cat/2.png), 1 changed (cat/1.png)"
    )


def test_a_changed_label_in_the_csv_is_noticed(make_folder: MakeFolder) -> None:
    root = make_folder({"img": 12})
    lines = ["file_name,label", *(f"img/{i}.png,{'ab'[i % 2]}" for i in range(12))]
    (root / "labels.csv").write_text("\n".join(lines))
    catalog = build(root)
    assert catalog_is_current(catalog, root)
    (root / "labels.csv").write_text("\n".join([*lines[:-1], "img/11.png,a"]))
    assert not catalog_is_current(catalog, root)
    assert describe_changes(catalog, root).startswith("labels, groups, splits")


def test_one_class_only(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="only one class: cat") as caught:
        build(make_folder({"cat": 5}))
    assert "folders of all classes" in str(caught.value.fix)


def test_no_usable_image(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("not an image")
    with pytest.raises(DataError, match=r"no image can be used: files that hold no PNG.*2 \(cat/a.png, dog/b.jpg\)"):
        build(tmp_path)


def test_too_few_training_images(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 20, "dog": 2, "emu": 1, "fox": 5})
    (root / "emu" / "broken.png").write_text("no")
    with pytest.raises(DataError, match=r"dog has 1, emu has 1 \(1 of their files can't be used\)") as caught:
        build(root)
    assert "2 for training, that is 3 images in all with 20% held out" in str(caught.value.fix)
    assert "fox" not in caught.value.what
    with pytest.raises(DataError, match="fox has 4") as caught:
        build(root, min_train_images=5)
    assert "5 for training, that is 6 images" in str(caught.value.fix)


def test_an_empty_class_folder_is_too_few(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="too few training images: void has 0"):
        build(make_folder({"cat": 9, "dog": 9, "void": 0}))


def test_too_few_training_images_in_a_given_split(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="dog has 1") as caught:
        build(make_folder({"train/cat": 9, "train/dog": 1, "test/cat": 3, "test/dog": 3}))
    assert str(caught.value.fix) == "each class needs 2 for training; add images, or remove the class"


def test_a_class_missing_in_the_given_test_and_small_classes_are_problems(make_folder: MakeFolder) -> None:
    catalog = build(make_folder({"train/cat": 9, "train/dog": 5, "test/cat": 3}))
    assert problem(catalog, "classes without a test image").endswith(": 1 (dog)")
    assert problem(catalog, "classes with under 8").endswith(": 1 (dog 5)")


def test_missing_folder_and_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    for path in (tmp_path / "missing", tmp_path / "a.png"):
        with pytest.raises(UsageError):
            build(path)


def test_labels_that_look_like_numbers_stay_text(make_folder: MakeFolder, tmp_path: Path) -> None:
    catalog = build(make_folder({"10": 5, "9": 5, "nan": 5}))
    catalog.save(tmp_path / "catalog")
    assert Catalog.load(tmp_path / "catalog").classes == ("10", "9", "nan")
    assert catalog.images("train").counts_by_name == {"10": 4, "9": 4, "nan": 4}
