"""The formats of an export: torchvision's ImageFolder, Hugging Face's imagefolder, and webdataset shards."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections import deque
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diffaug.data.entries import Split
from diffaug.data.loading import in_threads
from diffaug.files import storage
from diffaug.runtime.seeding import numpy_generator
from diffaug.synthesis.export.card import dataset_card
from diffaug.synthesis.export.export import ExportSettings
from diffaug.synthesis.export.items import ExportItems

MANIFEST = "manifest.parquet"
FOLDERS = "folders.json"


def write_image_folder(items: ExportItems, folder: Path, settings: ExportSettings) -> str:
    """Writes `<split>/<class>/<name>.png`, and `manifest.parquet`, which says where each file came from.

    Every split has a folder for every class, if an empty one, so that a class has one index everywhere. A class
    whose name is no folder name gets one that is; `folders.json` maps folders to class names.

    Args:
        items: The images.
        folder: Where to write.
        settings: Where it will lie.

    Returns:
        The line that loads the first split.
    """
    folders = storage.safe_names(items.classes)
    for split in items.splits:
        for name in folders.values():
            (folder / split / name).mkdir(parents=True)
    everything = np.arange(len(items.table))
    files = [f"{row['split']}/{folders[row['label']]}/{row['name']}.png" for row in items.rows(everything)]
    _write_images(items, everything, [folder / file for file in files])
    _write_table(folder / MANIFEST, _with_files(items.table, "file", files))
    storage.write_json(folder / FOLDERS, {name: label for label, name in folders.items()})
    first = items.splits[0]
    lacking = any(0 in _class_totals(items, split).values() for split in items.splits)
    arguments = f"{str(settings.out / first)!r}{', allow_empty=True' if lacking else ''}"
    return f"from torchvision.datasets import ImageFolder; {first} = ImageFolder({arguments})"


def write_huggingface(items: ExportItems, folder: Path, settings: ExportSettings) -> str:
    """Writes `<split>/<class index>/<name>.png`, `<split>/metadata.parquet`, and a dataset card.

    Once there is metadata, `datasets` takes no label from a folder, so the label is one of its columns. It is
    parquet, since a type guessed from CSV or JSON lines turns a class named 0 into a number and differs between
    splits where a column is empty. No path holds a class name: one such as "test" would be taken for a split.

    Args:
        items: The images.
        folder: Where to write.
        settings: Where it will lie.

    Returns:
        The line that loads all splits.
    """
    for split in items.splits:
        positions = items.positions(split)
        files = [f"{row['class_index']:04d}/{row['name']}.png" for row in items.rows(positions)]
        _write_images(items, positions, [folder / split / file for file in files])
        _write_table(folder / split / "metadata.parquet", _metadata(items, items.table.take(positions), files))
    storage.write_text(folder / "README.md", dataset_card(items))
    return f'from datasets import load_dataset; dataset = load_dataset("imagefolder", data_dir={str(settings.out)!r})'


def write_webdataset(items: ExportItems, folder: Path, settings: ExportSettings) -> str:
    """Writes `<split>-000000.tar` and so on: for each image its PNG, its class index and a JSON of the rest.

    Images are shuffled once, over all shards of a split, so that classes mix even where a reader takes them in order.

    Args:
        items: The images.
        folder: Where to write.
        settings: Where it will lie, images a shard, and the seed of the order.

    Returns:
        The line that loads the first split.
    """
    last_shards: dict[Split, int] = {}
    for split in items.splits:
        order = numpy_generator(settings.seed, "export shards", split).permutation(items.positions(split))
        for shard, start in enumerate(range(0, len(order), settings.shard_size)):
            members = order[start : start + settings.shard_size]
            content = _shard(items.rows(members), in_threads(items.png, members.tolist()))
            storage.write_bytes(folder / f"{split}-{shard:06d}.tar", content)
            last_shards[split] = shard
    first = items.splits[0]
    shards = str(settings.out / f"{first}-{{000000..{last_shards[first]:06d}}}.tar")
    decoded = f'WebDataset({shards!r}, shardshuffle=False).decode("pil").to_tuple("png", "cls")'
    return f"from webdataset import WebDataset; {first} = {decoded}"


def _class_totals(items: ExportItems, split: Split) -> dict[str, int]:
    by_origin = items.counts()[split].values()
    return {name: sum(by_class[name] for by_class in by_origin) for name in items.classes}


def _metadata(items: ExportItems, table: pa.Table, files: list[str]) -> pa.Table:
    """The rows as `datasets` reads them: `file_name` becomes the image, and `label` a class index that has names."""
    label = {"names": list(items.classes), "_type": "ClassLabel"}
    named = table.set_column(table.column_names.index("label"), "label", table["class_index"])
    named = _with_files(named.drop_columns(["split", "class_index"]), "file_name", files)
    return named.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": {"label": label}}})})


def _with_files(table: pa.Table, column: str, files: list[str]) -> pa.Table:
    return table.drop_columns(["name"]).add_column(0, column, pa.array(files, pa.string()))


def _write_images(items: ExportItems, positions: NDArray[np.int64], paths: list[Path]) -> None:
    """Writes images in threads, since most of the time goes in waiting for the disk."""

    def write(image: tuple[int, Path]) -> None:
        position, path = image
        storage.write_unfinished(path, items.png(position))

    # Closed in any case, so that no thread still writes when an interrupted export is cleared away.
    with closing(in_threads(write, zip(positions.tolist(), paths, strict=True))) as written:
        deque(written, maxlen=0)


def _write_table(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(path, buffer.getvalue())


def _shard(rows: Iterable[dict[str, Any]], images: Iterable[bytes]) -> bytes:
    """A tar file whose members have neither time nor owner, so that equal images make equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row, png in zip(rows, images, strict=True):
            for suffix, content in (("png", png), ("cls", str(row["class_index"]).encode()), ("json", _json(row))):
                member = tarfile.TarInfo(f"{row['name']}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _json(row: dict[str, Any]) -> bytes:
    """What is known of an image; what JSON can't hold is left out."""
    known = {
        name: value
        for name, value in row.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }
    return json.dumps(known, ensure_ascii=False, allow_nan=False).encode()
