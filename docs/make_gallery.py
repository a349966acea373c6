"""Draws the pictures of docs/gallery.md: real, synthetic and rejected images of a finished study, one row per class.

python docs/make_gallery.py TRAIN_FOLDER STUDY PICTURE [SCALE]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

COLUMNS = {"real": 6, "synthetic": 8, "rejected": 4}
GAP, MIDDLE = 4, 24


def main(train: Path, study: Path, picture: Path, scale: int = 1) -> None:
    """Writes the picture; images are drawn at random, the same ones each time."""
    pool, random = study / "pool", np.random.default_rng(0)
    manifest, rejected = (pd.read_parquet(pool / name) for name in ("manifest.parquet", "rejected.parquet"))
    rows = []
    for name in sorted(path.name for path in train.iterdir()):
        files = {
            "real": sorted((train / name).iterdir()),
            "synthetic": [pool / file for file in manifest.loc[manifest["label"] == name, "file"]],
            "rejected": [pool / file for file in rejected.loc[rejected["label"] == name, "file"] if file],
        }
        rows.append([drawn(files[kind], COLUMNS[kind], random) for kind in COLUMNS])
    images = [[[Image.open(file).convert("L") for file in part] for part in row] for row in rows]
    sheet(images, scale).save(picture, optimize=True)


def drawn(files: Sequence[Path], number: int, random: np.random.Generator) -> list[Path]:
    """At most that many files, in the order of the draw."""
    return [files[index] for index in random.permutation(len(files))[:number]]


def sheet(rows: list[list[list[Image.Image]]], scale: int) -> Image.Image:
    """Rows of three parts, real, synthetic and rejected images, on white."""
    width, height = (side * scale for side in rows[0][0][0].size)
    starts = np.cumsum([0, *(number * (width + GAP) + MIDDLE for number in COLUMNS.values())])
    picture = Image.new("L", (int(starts[-1]) - MIDDLE, len(rows) * (height + GAP)), 255)
    for position, row in enumerate(rows):
        for part, start in zip(row, starts, strict=False):
            for column, image in enumerate(part):
                place = (int(start) + column * (width + GAP), position * (height + GAP))
                picture.paste(image.resize((width, height), Image.Resampling.NEAREST), place)
    return picture


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:5]))
