"""The catalog: every file of a data folder with status, label and split, and the usable pixels at one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import TypeAdapter

from diffaug.configuration.settings import DataSettings
from diffaug.data import problems
from diffaug.data.decoding.decode import Decoded
from diffaug.data.images import LabeledImages, count_by_name
from diffaug.data.layouts.entries import SPLITS, Entry, Split, listed
from diffaug.data.layouts.scan import Scan, scan
from diffaug.data.loading import Progress, load_images
from diffaug.data.sources import KnownFiles
from diffaug.data.splits import Item, choose_test, group_names, leaks
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.files.records import read_record, write_record

COLUMNS = (
    *("path", "label", "split", "group", "sha256", "pixel_sha256", "picture"),
    *("width", "height", "mode", "status", "note"),
)
TABLE, PIXELS, ABOUT = "table.parquet", "pixels.npy", "catalog.json"


@dataclass(frozen=True, eq=False)
class _About:
    classes: tuple[str, ...]  # sorted
    image_size: tuple[int, int]  # height and width in px that all images were brought to
    channels: int  # 1 gray, 3 RGB
    root: Path
    fingerprint: str  # changes with any file, label, split, and the working size
    problems: list[str]  # what a person should know, in sentences
    scan_fingerprint: str  # changes with any path, label, group or given split


_ABOUT = TypeAdapter(_About)


@dataclass(frozen=True, eq=False)
class Catalog(_About):
    """The content of a data folder.

    Attributes:
        table: One row per file, sorted by path, including unusable files. Columns: `COLUMNS`; path is relative to
            `root`, split and group are empty if there is none, picture is the path of the first file that shows nearly
            the same picture and empty if no other one does, width and height are those of the upright image in px.
            A row is in use if its split is not empty.
        pixels: uint8 (M, H, W, C), the rows whose status is "ok" in table order; memory-mapped once loaded.
    """

    table: pd.DataFrame
    pixels: NDArray[np.uint8]

    def images(self, split: Split) -> LabeledImages:
        """The images of one split, copied once. Only those of "train" may reach a generator."""
        if split not in self._images:
            pixels = np.asarray(self.pixels[(self._usable["split"] == split).to_numpy()])
            ids = tuple(self._rows(split)["path"])
            self._images[split] = LabeledImages(pixels, self.labels(split), self.classes, ids)
        return self._images[split]

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Class index of each image of one split, int64 (N,)."""
        index = {name: number for number, name in enumerate(self.classes)}
        return np.array([index[name] for name in self._rows(split)["label"]], dtype=np.int64)

    def counts_by_name(self, split: Split) -> dict[str, int]:
        """Images of each class of one split by name, in class order; copies no pixels."""
        return count_by_name(self.labels(split), self.classes)

    def items(self, split: Split) -> list[Item]:
        """The images of one split as splitting sees them, in their order."""
        return _items(self._rows(split))

    def groups(self, split: Split) -> NDArray[np.int64]:
        """One number per image of a split, int64 (N,); images of one group or one picture share a number."""
        items = self.items(split)
        names = group_names(items)
        return np.unique([names[item.path] for item in items], return_inverse=True)[1].astype(np.int64)

    def counts(self) -> pd.DataFrame:
        """Images in use, classes x (train, val, test)."""
        return problems.split_counts(self.table, self.classes)

    def content(self) -> dict[str, str]:
        """The sha256 of each file by path."""
        return dict(zip(self.table["path"], self.table["sha256"], strict=True))

    def save(self, directory: Path, *, settings: Mapping[str, Any] | None = None) -> None:
        """Writes the catalog as one committed directory, which also records the settings it was made with."""
        inputs = {"root": str(self.root)}
        metadata = {"settings": dict(settings or {}), "inputs": inputs, "fingerprint": self.fingerprint}
        with storage.new_directory(directory, metadata) as staging:
            write_record(staging / ABOUT, _ABOUT, self)
            storage.write_parquet(staging / TABLE, self.table)
            storage.write_array(staging / PIXELS, self.pixels)

    @classmethod
    def load(cls, directory: Path) -> Catalog:
        """Reads a saved catalog."""
        if storage.committed_metadata(directory) is None:
            raise UsageError("there is no finished catalog here", where=directory, fix="diffaug inspect DATA")
        return cls(
            **vars(read_record(directory / ABOUT, _ABOUT)),
            table=pd.read_parquet(directory / TABLE),
            pixels=np.load(directory / PIXELS, mmap_mode="r", allow_pickle=False),
        )

    @cached_property
    def _images(self) -> dict[Split, LabeledImages]:
        return {}

    @cached_property
    def _usable(self) -> pd.DataFrame:
        return self.table[self.table["status"] == "ok"]

    def _rows(self, split: Split) -> pd.DataFrame:
        return self._usable[self._usable["split"] == split]


def build_catalog(
    root: Path,
    settings: DataSettings,
    *,
    seed: int,
    progress: Progress | None = None,
    comparing: Progress | None = None,
) -> Catalog:
    """Reads a data folder in one of the layouts of `scan`.

    `progress` counts the files read, `comparing` the images compared in the search for near-duplicates.

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


def describe_changes(catalog: Catalog, root: Path, known: KnownFiles | None = None) -> str:
    """How the folder differs from the catalog, in one sentence; empty if it does not.

    Decodes nothing, and of the known files reads only those touched since.
    """
    found = scan(root)
    now = (known or KnownFiles()).current(root, [entry.path for entry in found.entries])
    before = catalog.content()
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


def _items(rows: pd.DataFrame) -> list[Item]:
    return [Item(*row) for row in rows[["path", "label", "group", "pixel_sha256", "picture"]].itertuples(index=False)]


def _scan_fingerprint(found: Scan) -> str:
    return storage.fingerprint([found.classes, [asdict(entry) for entry in found.entries]])


def _row(entry: Entry, decoded: Decoded) -> dict[str, Any]:
    row = {**vars(decoded), **vars(entry), "picture": ""}
    return {name: "" if row[name] is None else row[name] for name in COLUMNS}


def _pictures(table: pd.DataFrame, pixels: NDArray[np.uint8], progress: Progress | None) -> list[str]:
    """For each row the path of the first file that shows nearly the same picture; empty if no other one does."""
    from diffaug.similarity.near_duplicates import near_duplicates

    paths = table["path"][table["status"] == "ok"].to_numpy()
    if len(paths) > problems.MOST_COMPARED:
        return [""] * len(table)
    first = near_duplicates(pixels, progress)
    repeated = np.bincount(first)[first] > 1
    shown = dict(zip(paths, np.where(repeated, paths[first], ""), strict=True))
    return [shown.get(path, "") for path in table["path"]]


def _splits(table: pd.DataFrame, test_fraction: float | None, seed: int) -> list[str]:
    """The split of each row, empty if it is not used; a test fraction of None means that the data has a test split."""
    ok = table["status"] == "ok"
    split = table["split"].where(table["split"] != "", "train").where(ok, "")
    for column in ("pixel_sha256", "picture"):
        leaked = leaks({name: table[column][(split == name) & (table[column] != "")] for name in SPLITS})
        for name, pictures in leaked.items():
            split[(split == name) & table[column].isin(pictures)] = ""
    if test_fraction is not None:
        held_out = choose_test(_items(table[split == "train"]), test_fraction=test_fraction, seed=seed)
        split[table["path"].isin(held_out)] = "test"
    return list(split)
