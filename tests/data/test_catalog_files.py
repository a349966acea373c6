"""A saved catalog reads back as what was built, and one whose parts don't fit each other is damage."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffaug.configuration.settings import DataSettings
from diffaug.data.building.build import build_catalog
from diffaug.data.catalog import (
    ABOUT,
    COLUMNS,
    LARGEST_SIDE,
    PICTURES,
    PIXELS,
    TABLE,
    Catalog,
    in_order_of_use,
    indices_of,
    require_fitting,
)
from diffaug.data.images import NO_LABEL
from diffaug.data.reading.pictures import MAX_AREA
from diffaug.data.resize import boxes_of
from diffaug.decoding.decode import decode
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage


def noise(seed: int, height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8))


def write_folder(root: Path) -> Path:
    """Images of two classes and other sizes, two unlabeled ones, and a file that is none."""
    sizes = {
        "train/cat": [(8, 8), (8, 12), (6, 9)],
        "train/dog": [(8, 8)] * 3,
        "test/cat": [(8, 8)],
        "test/dog": [(9, 5)],
    }
    for number, (folder, shapes) in enumerate({**sizes, "unlabeled": [(8, 8), (8, 10)]}.items()):
        (root / folder).mkdir(parents=True)
        for index, shape in enumerate(shapes):
            noise(10 * number + index, *shape).save(root / folder / f"{index}.png")
    (root / "train" / "cat" / "text.png").write_text("no image")
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data folder and the folder of its catalog."""
    folder = tmp_path_factory.mktemp("built")
    root, directory = write_folder(folder / "data"), folder / "study" / "catalog"
    build_catalog(root, DataSettings(image_size=8, resize="pad"), directory=directory, seed=0)
    return root, directory


@pytest.fixture(scope="module")
def catalog(built: tuple[Path, Path]) -> Catalog:
    return Catalog.load(built[1])


@pytest.fixture
def copied(built: tuple[Path, Path], tmp_path: Path) -> Path:
    shutil.copytree(built[1], tmp_path / "catalog")
    return tmp_path / "catalog"


def test_images_pictures_and_boxes_are_those_of_the_rows_of_each_split(built, catalog) -> None:
    root, _ = built
    names = {
        "train": ["train/cat/0.png", "train/cat/1.png", "train/cat/2.png"] + [f"train/dog/{n}.png" for n in range(3)]
    }
    names |= {
        "val": [],
        "test": ["test/cat/0.png", "test/dog/0.png"],
        "unlabeled": ["unlabeled/0.png", "unlabeled/1.png"],
    }
    assert catalog.usable["path"].tolist() == [*names["train"], *names["val"], *names["test"], *names["unlabeled"]]
    for split, expected in names.items():
        rows = catalog.rows(split)
        assert rows["path"].tolist() == expected
        pictures = list(catalog.pictures_of(split))
        for name, picture in zip(expected, pictures, strict=True):
            np.testing.assert_array_equal(picture, decode(root / name).pixels)
        boxes = boxes_of(rows[["height", "width"]].to_numpy(np.int64), catalog.image_size)
        if split == "unlabeled":
            images = catalog.unlabeled_images()
            assert images.ids == tuple(expected) == catalog.unlabeled()[1] and images.weights.tolist() == [1, 1]
            np.testing.assert_array_equal(images.groups, catalog.seen_groups()[6:])
        else:
            images = catalog.images(split)
            assert images.ids == tuple(expected) and images.classes == ("cat", "dog")
            assert [images.classes[label] for label in images.labels] == [name.split("/")[1] for name in expected]
            assert catalog.counts_by_name(split) == images.counts_by_name
            assert len(set(catalog.groups(split))) == len(expected)
        np.testing.assert_array_equal(images.boxes, boxes)
        assert images.pixels.shape == (len(expected), 8, 8, 1)
        for name, pixels in zip(expected, images.pixels, strict=True):
            if name.endswith("/0.png") and "test/dog" not in name:  # of the working size already
                np.testing.assert_array_equal(pixels, decode(root / name).pixels)
    seen, alone = catalog.seen_images(), catalog.seen_images(unlabeled=False)
    assert seen.ids == (*names["train"], *names["unlabeled"]) and alone.ids == tuple(names["train"])
    assert seen.labels.tolist() == [0, 0, 0, 1, 1, 1, NO_LABEL, NO_LABEL]
    assert alone.labels.tolist() == [0, 0, 0, 1, 1, 1] and len(alone.groups) == len(alone.pixels) == 6
    np.testing.assert_array_equal(seen.pixels[:6], catalog.images("train").pixels)
    np.testing.assert_array_equal(seen.pixels[6:], catalog.unlabeled()[0])
    assert len(seen.groups) == 8 and len(catalog.seen_groups(unlabeled=False)) == 6
    assert replace(catalog, resize=replace(catalog.resize, resize="squeeze")).images("train").boxes is None


def test_pixels_of_a_split_stay_on_the_disk(catalog) -> None:
    for pixels in (catalog.images("train").pixels, catalog.unlabeled()[0]):
        assert isinstance(pixels, np.memmap) and np.shares_memory(pixels, catalog.pixels)
    assert catalog.pictures_of("train").max_area == MAX_AREA


def test_what_is_left_out_takes_its_unlabeled_repeats_along(catalog) -> None:
    table = catalog.table.copy()
    table.loc[table["path"].isin(["train/dog/1.png", "unlabeled/0.png"]), "picture"] = "train/dog/1.png"
    joined = replace(catalog, table=table)
    assert joined.seen_groups()[4] == joined.seen_groups()[6] == joined.unlabeled_images().groups[0]
    left_out = np.arange(6) == 4
    rest = joined.without(left_out)
    assert rest.images("train").ids == tuple(np.delete(joined.images("train").ids, 4))
    assert rest.unlabeled()[1] == ("unlabeled/1.png",)
    np.testing.assert_array_equal(rest.unlabeled()[0], catalog.unlabeled()[0][1:])
    assert [len(rest.pictures), len(rest.usable), len(rest.pixels)] == [8, 8, 10]
    assert rest.fingerprint == storage.fingerprint(
        [joined.fingerprint, "without", "train/dog/1.png", "unlabeled/0.png"]
    )


def test_a_folder_without_a_finished_catalog_names_the_command_that_makes_one(tmp_path) -> None:
    with pytest.raises(UsageError, match="no finished catalog") as caught:
        Catalog.load(tmp_path)
    assert (caught.value.where, caught.value.fix) == (str(tmp_path), "diffaug inspect DATA")


def rewritten(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        array = storage.read_array(folder / name)
        storage.write_array(folder / name, change(array))

    return rewrite


def tabled(**columns: Any) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        table = storage.read_parquet(folder / TABLE)
        for name, value in columns.items():
            table.loc[table["path"] == "train/cat/0.png", name] = value
        storage.write_parquet(folder / TABLE, table)

    return rewrite


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (rewritten(PIXELS, lambda array: array[1:]), r"images of other shapes than \(10, 8, 8, 1\)"),
        (rewritten(PIXELS, lambda array: array.astype(np.int8)), "pixels.npy holds int8"),
        (rewritten(PICTURES, lambda array: array[1:]), "images of other shapes"),
        (rewritten(PICTURES, lambda array: np.append(array, array[:1])), "images of other shapes"),
        (rewritten(PICTURES, lambda array: array.astype(np.uint16)), "pictures.npy holds uint16"),
        (lambda folder: (folder / PIXELS).unlink(), "cannot reshape"),
        (tabled(picture_height=9), "images of other shapes"),
        (tabled(picture_height=0), "impossible sizes"),
        (tabled(label="emu"), "impossible classes"),
        (tabled(split="exam"), "impossible splits"),
        (tabled(weight=2.0), "impossible weights"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_damage(copied, damage, why) -> None:
    damage(copied)
    storage.commit_directory(copied, storage.recorded_metadata(copied))
    with pytest.raises(DamagedError, match=rf"the parts of the catalog don't fit each other \({why}") as caught:
        Catalog.load(copied)
    assert (caught.value.where, caught.value.fix) == (str(copied), storage.REPAIR_HINT)


@pytest.mark.parametrize(
    "change", [{"classes": []}, {"image_size": [0, 8]}, {"image_size": [2**31 + 1, 8]}, {"channels": 4}, {"reading": 3}]
)
def test_a_record_of_another_shape_is_damage(copied, change) -> None:
    storage.write_json(copied / ABOUT, {**storage.read_json(copied / ABOUT), **change})
    storage.commit_directory(copied, storage.recorded_metadata(copied))
    with pytest.raises(DamagedError, match="not as diffaug wrote it") as caught:
        Catalog.load(copied)
    assert caught.value.where == str(copied / ABOUT)


def test_a_table_without_one_of_its_columns_is_damage(copied) -> None:
    for name in (COLUMNS[0], "note", COLUMNS[-1]):
        table = storage.read_parquet(copied / TABLE)
        storage.write_parquet(copied / TABLE, table.drop(columns=name))
        storage.commit_directory(copied, storage.recorded_metadata(copied))
        with pytest.raises(DamagedError, match=f"lacks the column '{name}'"):
            Catalog.load(copied)
        storage.write_parquet(copied / TABLE, table)


ROWS = {
    "path": ["a", "b", "c", "d"],
    "label": ["cat", "dog", "", "emu"],
    "split": ["train", "test", "unlabeled", ""],
    "status": ["ok", "ok", "ok", "truncated"],
    **{name: [1, LARGEST_SIDE, 5, 0] for name in ("picture_height", "picture_width", "picture_channels")},
    "height": [1, LARGEST_SIDE, 5, 0],
    "width": [1, LARGEST_SIDE, 5, 0],
    "weight": [1.0, 0.0, 0.5, 7.0],
}
SIDES = ("picture_height", "picture_width", "picture_channels", "height", "width")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"label": ["cat", "emu", "", ""]}, "classes"),
        ({"split": ["train", "exam", "", ""]}, "splits"),
        ({"split": ["train", "test", "", "train"], "label": ["cat", "dog", "", "cat"]}, "splits"),
        ({"split": ["train", "test", "", "unlabeled"]}, "splits"),
        ({"path": ["a", "b", "c", "a"]}, "paths"),
        ({"path": ["a", "b", "c", 4]}, "paths"),
        *(({name: [0, 1, 1, 1]}, "sizes") for name in SIDES),
        *(({name: [1, 1, LARGEST_SIDE + 1, 1]}, "sizes") for name in SIDES),
        ({"weight": [1, 1.001, 1, 1]}, "weights"),
        ({"weight": [-0.001, 1, 1, 1]}, "weights"),
        ({"weight": [1, np.nan, 1, 1]}, "weights"),
    ],
)
def test_a_table_fits_its_classes_or_the_first_thing_wrong_is_named(wrong, named) -> None:
    require_fitting(pd.DataFrame(ROWS), ["cat", "dog"])
    with pytest.raises(ValueError, match=f"^impossible {named} in its table$"):
        require_fitting(pd.DataFrame({**ROWS, **wrong}), ["cat", "dog"])
    with pytest.raises(ValueError, match="impossible classes"):
        require_fitting(pd.DataFrame(ROWS), ["cat", "dog", "cat"])


def test_usable_rows_come_split_by_split_in_their_order() -> None:
    split = ["", "unlabeled", "test", "train", "val", "train", "", "test", "train"]
    status = ["ok"] * 8 + ["not an image"]
    table = pd.DataFrame({"split": split, "status": status}, index=list("abcdefghi"))
    assert in_order_of_use(table).index.tolist() == ["d", "f", "e", "c", "h", "b", "a", "g"]


def test_labels_become_positions_and_an_unknown_one_is_an_error() -> None:
    labels = pd.Series(["b", "a", "c", "b"])
    assert indices_of(labels, ["c", "a", "b"]).tolist() == [2, 1, 0, 2]
    assert indices_of(labels[:0], ["a"]).dtype == np.int64
    with pytest.raises(KeyError):
        indices_of(labels, ["a", "b"])
