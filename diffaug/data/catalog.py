"""The catalog: every file of a data folder with its verdict, label and split, and the usable pixels at one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.configuration.settings import DataSettings
from diffaug.data import problems
from diffaug.data.decode import content_sha256
from diffaug.data.entries import SPLITS, Entry, Split, listed
from diffaug.data.images import LabeledImages
from diffaug.data.loading import Loaded, Progress, in_threads, load_images
from diffaug.data.scan import Scan, scan
from diffaug.data.splits import Item, choose_test, group_names, leaks
from diffaug.errors import UsageError
from diffaug.files import storage

COLUMNS = (
    *("path", "label", "split", "group", "sha256", "pixel_sha256", "picture"),
    *("width", "height", "mode", "verdict", "note"),
)
ITEM_COLUMNS = ("path", "label", "group", "pixel_sha256", "picture")


TABLE = "table.parquet"


@dataclass(frozen=True, eq=False)
class Catalog:
    """What a data folder holds.

    Attributes:
        table: One row a file, sorted by path, also those that can't be used. Columns: `COLUMNS`; path is relative
            to `root`, split and group are empty where there is none, picture is the path of the first file that
            shows nearly the same picture and empty where no other one does, width and height are those of the
            upright image in px. A row is in use when its split isn't empty.
        classes: Sorted class names.
        image_size: Height and width in px that all images were brought to.
        channels: 1 grey, 3 RGB.
        root: The data folder.
        fingerprint: Changes with any file, label, split, and the working size.
        pixels: uint8 (M, H, W, C), the rows whose verdict is "ok" in table order; memory-mapped once loaded.
        problems: What a person should know, in sentences.
        scan_fingerprint: Changes with any path, label, group or given split.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int
    root: Path
    fingerprint: str
    pixels: NDArray[np.uint8]
    problems: list[str]
    scan_fingerprint: str

    def images(self, split: Split) -> LabeledImages:
        """The images of one split. Only those of "train" may reach a generator."""
        ok = self.table[self.table["verdict"] == "ok"]
        positions = np.flatnonzero(ok["split"] == split)
        rows = ok.iloc[positions]
        index = {name: number for number, name in enumerate(self.classes)}
        labels = np.array([index[name] for name in rows["label"]], dtype=np.int64)
        return LabeledImages(np.asarray(self.pixels[positions]), labels, self.classes, tuple(rows["path"]))

    def items(self, split: Split) -> list[Item]:
        """What splitting sees of the images of one split, in their order."""
        rows = self.table[(self.table["verdict"] == "ok") & (self.table["split"] == split)]
        return [Item(*row) for row in rows[list(ITEM_COLUMNS)].itertuples(index=False)]

    def groups(self, split: Split) -> NDArray[np.int64]:
        """One number for each image of a split, int64 (N,); images of one group or one picture have the same."""
        items = self.items(split)
        names = group_names(items)
        return np.unique([names[item.path] for item in items], return_inverse=True)[1].astype(np.int64)

    def counts(self) -> pd.DataFrame:
        """Images in use, classes x (train, val, test)."""
        return problems.split_counts(self.table, self.classes)

    def save(self, directory: Path, *, settings: Mapping[str, Any] | None = None) -> None:
        """Writes the catalog as one committed directory, replacing an older one.

        Args:
            directory: Where to.
            settings: What it was made with; recorded as a fact of the directory.
        """
        facts = {"settings": dict(settings or {}), "inputs": {"root": str(self.root)}, "fingerprint": self.fingerprint}
        about = {name: value for name, value in vars(self).items() if name not in ("table", "pixels")}
        about["root"] = str(self.root)
        with storage.new_directory(directory, facts) as staging:
            storage.write_json(staging / "catalog.json", about)
            storage.write_parquet(staging / TABLE, self.table)
            storage.write_array(staging / "pixels.npy", self.pixels)

    @classmethod
    def load(cls, directory: Path) -> Catalog:
        """Reads a saved catalog.

        Raises:
            UsageError: There is no finished one.
            DamagedError: Files are missing or cut short.
        """
        if storage.committed_facts(directory) is None:
            raise UsageError("there is no finished catalog here", where=directory, fix="diffaug inspect DATA")
        about = storage.read_json(directory / "catalog.json")
        return cls(
            **{
                **about,
                "classes": tuple(about["classes"]),
                "image_size": tuple(about["image_size"]),
                "root": Path(about["root"]),
            },
            table=pd.read_parquet(directory / TABLE),
            pixels=np.load(directory / "pixels.npy", mmap_mode="r", allow_pickle=False),
        )


def build_catalog(
    root: Path,
    settings: DataSettings,
    *,
    seed: int,
    progress: Progress | None = None,
    comparing: Progress | None = None,
) -> Catalog:
    """Reads a data folder.

    Args:
        root: A folder in one of the layouts of `scan`.
        settings: Working size, channels, test share and the smallest class.
        seed: Decides which images are held out where the data names no test split.
        progress: Called with (files done, files in all).
        comparing: Called with (images compared, images in all), while near-duplicates are looked for.

    Raises:
        UsageError: `root` is missing or a file.
        DataError: No layout fits, one class only, no usable image, or classes with too few training images.
    """
    found = scan(root)
    problems.require_two_classes(found.classes, root)
    paths = [root / entry.path for entry in found.entries]
    loaded, pixels = load_images(paths, settings, progress or (lambda done, total: None))
    table = pd.DataFrame(map(_row, found.entries, loaded), columns=COLUMNS)
    problems.require_images(table, root)
    table["picture"] = _pictures(table, pixels, comparing) if settings.near_duplicates else ""
    test_was_given = any(entry.split == "test" for entry in found.entries)
    table["split"] = _splits(table, None if test_was_given else settings.test_fraction, seed)
    problems.require_training_images(table, found.classes, settings, test_was_given=test_was_given, root=root)
    _, height, width, channels = pixels.shape
    identity = table[["path", "sha256", "label", "split"]].to_numpy().tolist()
    return Catalog(
        table=table,
        classes=found.classes,
        image_size=(height, width),
        channels=channels,
        root=root.resolve(),
        fingerprint=storage.fingerprint([identity, height, width, channels]),
        pixels=pixels,
        problems=[*found.remarks, *problems.find_problems(table, found.classes, settings)],
        scan_fingerprint=_scan_fingerprint(found),
    )


def catalog_is_current(catalog: Catalog, root: Path) -> bool:
    """Whether the folder still holds the same files, labels, groups and given splits; decodes nothing."""
    return not describe_changes(catalog, root)


def describe_changes(catalog: Catalog, root: Path) -> str:
    """How the folder differs from the catalog, in one sentence; empty when it doesn't.

    Raises:
        UsageError: The folder is gone.
        DataError: It can no longer be read as labelled images.
    """
    found = scan(root)
    paths = [entry.path for entry in found.entries]
    now = dict(zip(paths, in_threads(content_sha256, [root / path for path in paths]), strict=True))
    before = dict(zip(catalog.table["path"], catalog.table["sha256"], strict=True))
    kinds = {
        "added": now.keys() - before.keys(),
        "removed": before.keys() - now.keys(),
        "changed": {path for path in now.keys() & before.keys() if now[path] != before[path]},
    }
    parts = [f"{len(names)} {kind} ({listed(names)})" for kind, names in kinds.items() if names]
    if parts:
        return f"files since the catalog was made: {', '.join(parts)}"
    same = _scan_fingerprint(found) == catalog.scan_fingerprint
    return "" if same else "labels, groups, splits or class folders were changed since the catalog was made"


def _scan_fingerprint(found: Scan) -> str:
    return storage.fingerprint([found.classes, [asdict(entry) for entry in found.entries]])


def _row(entry: Entry, loaded: Loaded) -> dict[str, Any]:
    row = {**vars(loaded.decoded), **vars(entry), "pixel_sha256": loaded.pixel_sha256, "picture": ""}
    return {name: "" if row[name] is None else row[name] for name in COLUMNS}


def _pictures(table: pd.DataFrame, pixels: NDArray[np.uint8], progress: Progress | None) -> list[str]:
    """For each row the path of the first file that shows nearly the same picture; empty where no other one does."""
    from diffaug.similarity.near_duplicates import near_duplicates

    paths = table["path"][table["verdict"] == "ok"].to_numpy()
    if len(paths) > problems.MOST_COMPARED:
        return [""] * len(table)
    first = near_duplicates(pixels, progress)
    repeated = np.bincount(first)[first] > 1
    shown = dict(zip(paths, np.where(repeated, paths[first], ""), strict=True))
    return [shown.get(path, "") for path in table["path"]]


def _splits(table: pd.DataFrame, test_fraction: float | None, seed: int) -> list[str]:
    """The split of each row, empty where it is not used.

    Args:
        table: All rows, `split` as given by the data.
        test_fraction: Share of each class to hold out; none: the data has a test split.
        seed: Decides which.
    """
    ok = table["verdict"] == "ok"
    split = table["split"].where(table["split"] != "", "train").where(ok, "")
    for column in ("pixel_sha256", "picture"):
        leaked = leaks({name: table[column][(split == name) & (table[column] != "")] for name in SPLITS})
        for name, pictures in leaked.items():
            split[(split == name) & table[column].isin(pictures)] = ""
    if test_fraction is not None:
        rows = table[split == "train"][list(ITEM_COLUMNS)]
        items = [Item(*row) for row in rows.itertuples(index=False)]
        split[table["path"].isin(choose_test(items, test_fraction=test_fraction, seed=seed))] = "test"
    return list(split)
