"""The page of `diffaug inspect`: images as they are, beside what classifier and generator will see."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.data.catalog import Catalog
from diffaug.data.layouts.entries import ALL_SPLITS
from diffaug.data.reading.pictures import reduced
from diffaug.data.resize import boxes_of
from diffaug.decoding.decode import decode
from diffaug.diffusion.process.boxes import put_in_boxes
from diffaug.evaluation.report.charts import size_chart
from diffaug.evaluation.report.page import environment
from diffaug.files import storage
from diffaug.runtime.seeding import numpy_generator

Pixels = NDArray[np.uint8]

IMAGES_PER_CLASS = 6
MOST_CLASSES, OPEN_CLASSES = 60, 12
MOST_GROUPS, IMAGES_PER_GROUP = 24, 6
MOST_MASKS, MOST_UNUSABLE = 6, 50


@dataclass(frozen=True)
class Tile:
    """An image as it is, as every classifier sees it, and as the generator sees it if that differs."""

    path: str
    split: str
    width: int
    height: int
    original: Pixels
    seen: Pixels
    padded: Pixels | None = None


@dataclass(frozen=True)
class Masked:
    """An image and its mask, side by side."""

    path: str
    image: Pixels
    mask: Pixels | None  # None if it can't be read


def write_contact_sheet(path: Path, catalog: Catalog, *, facts: Sequence[str], seed: int) -> None:
    """Writes the page, one file that opens offline; `facts` are sentences on what was found and chosen."""
    unusable = catalog.table.loc[catalog.table["status"] != "ok", ["path", "status", "note"]].astype(str)
    html = (
        environment()
        .get_template("contact_sheet.html.j2")
        .render(
            catalog=catalog,
            facts=facts,
            seed=seed,
            counts=catalog.counts(),
            tiles={name: _tiles(catalog, name, seed) for name in catalog.classes[:MOST_CLASSES]},
            open_classes=OPEN_CLASSES,
            chart=size_chart(catalog.size) if catalog.size and len(catalog.size.scores) > 1 else None,
            groups=_groups(catalog)[:MOST_GROUPS],
            num_groups=len(_groups(catalog)),
            masks=_masks(catalog),
            unusable=unusable.head(MOST_UNUSABLE).to_numpy().tolist(),
            num_unusable=len(unusable),
            command=f"diffaug run {shlex.quote(str(catalog.root))}",
            exact_uri=exact_uri,
        )
    )
    storage.write_bytes(path, html.encode(errors="replace"))  # a file name that is not UTF-8 holds lone surrogates


def exact_uri(pixels: Pixels) -> str:
    """The image, pixel for pixel, as the source of an `img` tag."""
    return "data:image/png;base64," + base64.b64encode(storage.png_bytes(np.ascontiguousarray(pixels))).decode()


def without_outside(frame: Pixels, box: NDArray[np.int64]) -> Pixels:
    """A frame (H, W, C) in RGBA that is clear outside of its centered box, height and width in px."""
    height, width, channels = frame.shape
    top, left = (height - int(box[0])) // 2, (width - int(box[1])) // 2
    alpha = np.zeros((height, width, 1), np.uint8)
    alpha[top : top + int(box[0]), left : left + int(box[1])] = 255
    return np.concatenate([np.repeat(frame, 3, axis=2) if channels == 1 else frame, alpha], axis=2)


def _tiles(catalog: Catalog, name: str, seed: int) -> list[Tile]:
    """Images of a class in random order, those of the train split first."""
    usable = catalog.usable.reset_index(drop=True)
    own = usable[(usable["label"] == name) & usable["split"].isin(ALL_SPLITS)]
    order = numpy_generator(seed, "contact sheet", name).permutation(own.index.to_numpy(copy=True))
    trained = (usable["split"][order] == "train").to_numpy()
    chosen = np.concatenate([order[trained], order[~trained]])[:IMAGES_PER_CLASS]
    return [_tile(catalog, usable.loc[position], int(position)) for position in chosen]


def _tile(catalog: Catalog, row: pd.Series[str], position: int) -> Tile:
    seen = np.asarray(catalog.pixels[position])
    width, height = int(row["width"]), int(row["height"])
    padded = None
    if catalog.resize.resize == "pad":
        boxes = boxes_of(np.array([[height, width]]), catalog.image_size)
        padded = without_outside(put_in_boxes(seen[None], boxes)[0], boxes[0])
    original = np.asarray(catalog.pictures[position])
    return Tile(str(row["path"]), str(row["split"]), width, height, original, seen, padded)


def _groups(catalog: Catalog) -> list[list[tuple[str, Pixels]]]:
    """Images that show nearly the same picture, the largest groups first."""
    usable = catalog.usable.reset_index(drop=True)
    shown = usable[usable["picture"] != ""]
    members = sorted(shown.groupby("picture").indices.values(), key=len, reverse=True)
    return [
        [
            (f"{shown['path'].iloc[place]} ({shown['split'].iloc[place] or 'left out'})", catalog.pictures[position])
            for place, position in zip(places, shown.index[places].tolist(), strict=True)
        ][:IMAGES_PER_GROUP]
        for places in members
    ]


def _masks(catalog: Catalog) -> list[Masked]:
    usable = catalog.usable.reset_index(drop=True)
    rows = usable[usable["mask"] != ""].head(MOST_MASKS)
    names = zip(rows.index.tolist(), rows["path"].astype(str), rows["mask"].astype(str), strict=True)
    return [Masked(path, catalog.pictures[i], _mask(catalog.root / mask)) for i, path, mask in names]


def _mask(file: Path) -> Pixels | None:
    pixels = decode(file).pixels
    return None if pixels is None else reduced(pixels)
