"""The formats of an export: torchvision's ImageFolder, Hugging Face's imagefolder, and webdataset shards."""

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
import yaml
from numpy.typing import NDArray

from diffaug._version import __version__
from diffaug.data.layouts.reading import FOLDERS
from diffaug.files import storage
from diffaug.runtime.console import printable
from diffaug.runtime.parallel import in_threads
from diffaug.runtime.seeding import numpy_generator
from diffaug.synthesis.export.export import ExportSettings
from diffaug.synthesis.export.items import ORIGIN_REAL, ExportItems

MANIFEST = "manifest.parquet"


def write_image_folder(items: ExportItems, folder: Path, settings: ExportSettings) -> str:
    """Writes `<split>/<class>/<name>.png` and `manifest.parquet` with the origin of each file.

    Every split has a folder for every class, even if empty, so that a class has the same index everywhere. A class
    whose name is no valid folder name gets another one; `folders.json`, also in each split, maps folders to classes.
    """
    folders = storage.safe_names(items.classes)
    for split in items.splits:
        for name in folders.values():
            (folder / split / name).mkdir(parents=True)
    everything = np.arange(len(items.table))
    rows = items.rows(everything)
    files = [f"{row['split']}/{folders[row['label']]}/{row['name']}.png" for row in rows]
    _write_images(items, everything, [folder / file for file in files])
    _write_table(folder / MANIFEST, _with_files(items.table, "file", files))
    for place in (folder, *(folder / split for split in items.splits)):
        storage.write_json(place / FOLDERS, {name: label for label, name in folders.items()})
    first = items.splits[0]
    lacking = len({(row["split"], row["label"]) for row in rows}) < len(items.splits) * len(items.classes)
    arguments = f"{str(settings.out / first)!r}{', allow_empty=True' if lacking else ''}"
    if items.intensity is None:
        return f"from torchvision.datasets import ImageFolder; {first} = ImageFolder({arguments})"
    # The loader of torchvision would clip values of 16 bits.
    imports = "from PIL import Image; from torchvision.datasets import ImageFolder"
    return f"{imports}; {first} = ImageFolder({arguments}, loader=Image.open)"


def write_huggingface(items: ExportItems, folder: Path, settings: ExportSettings) -> str:
    """Writes `<split>/<class index>/<name>.png`, `<split>/metadata.parquet`, and a dataset card.

    With metadata `datasets` ignores folder names, so the label is a column. The metadata is parquet, since types
    guessed from CSV or JSON lines turn a class named 0 into a number and differ between splits with empty columns. No
    path contains a class name, since one such as "test" would be taken for a split.
    """
    for split in items.splits:
        positions = items.positions(split)
        files = [f"{row['class_index']:04d}/{row['name']}.png" for row in items.rows(positions)]
        _write_images(items, positions, [folder / split / file for file in files])
        _write_table(folder / split / "metadata.parquet", _metadata(items, items.table.take(positions), files))
    storage.write_text(folder / "README.md", dataset_card(items))
    return f'from datasets import load_dataset; dataset = load_dataset("imagefolder", data_dir={str(settings.out)!r})'


def write_webdataset(items: ExportItems, folder: Path, settings: ExportSettings) -> str:
    """Writes `<split>-000000.tar` and so on: for each image its PNG, its class index and the rest as JSON.

    Images are shuffled once, over all shards of a split, so that classes are mixed even for a sequential reader.
    """
    for split in items.splits:
        order = numpy_generator(settings.seed, "export shards", split).permutation(items.positions(split))
        for shard, start in enumerate(range(0, len(order), settings.shard_size)):
            members = order[start : start + settings.shard_size]
            content = _shard(items.rows(members), in_threads(items.png, members.tolist()))
            storage.write_bytes(folder / f"{split}-{shard:06d}.tar", content)
    first = items.splits[0]
    last_shard = (len(items.positions(first)) - 1) // settings.shard_size
    shards = str(settings.out / f"{first}-{{000000..{last_shard:06d}}}.tar")
    decoded = f'WebDataset({shards!r}, shardshuffle=False).decode("pil").to_tuple("png", "cls")'
    return f"from webdataset import WebDataset; {first} = {decoded}"


def _metadata(items: ExportItems, table: pa.Table, files: list[str]) -> pa.Table:
    """The rows as `datasets` reads them: `file_name` becomes the image, and `label` a class index with names."""
    label = {"names": list(items.classes), "_type": "ClassLabel"}
    named = table.set_column(table.column_names.index("label"), "label", table["class_index"])
    named = _with_files(named.drop_columns(["split", "class_index"]), "file_name", files)
    return named.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": {"label": label}}})})


def _with_files(table: pa.Table, column: str, files: list[str]) -> pa.Table:
    return table.drop_columns(["name"]).add_column(0, column, pa.array(files, pa.string()))


def _write_images(items: ExportItems, positions: NDArray[np.int64], paths: list[Path]) -> None:
    """Writes images in threads, since most of the time is spent waiting for the disk."""

    def write(image: tuple[int, Path]) -> None:
        position, path = image
        storage.write_unfinished(path, items.png(position))

    # Closed in any case, so that no thread still writes while an interrupted export is removed.
    with closing(in_threads(write, zip(positions.tolist(), paths, strict=True))) as written:
        deque(written, maxlen=0)


def _write_table(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(path, buffer.getvalue())


def _shard(rows: Iterable[dict[str, Any]], images: Iterable[bytes]) -> bytes:
    """A tar file whose members have neither time nor owner, so that equal images give equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row, png in zip(rows, images, strict=True):
            for suffix, content in (("png", png), ("cls", str(row["class_index"]).encode()), ("json", _json(row))):
                member = tarfile.TarInfo(f"{row['name']}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _json(row: dict[str, Any]) -> bytes:
    """The row without values that JSON can't hold."""
    unfit = {name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    known = {name: value for name, value in row.items() if value is not None and name not in unfit}
    return json.dumps(known, ensure_ascii=False, allow_nan=False).encode()


def dataset_card(items: ExportItems) -> str:
    """States how many images per class are synthetic, how they were made, and how to treat them."""
    synthetic = sum(origin != ORIGIN_REAL for origin in items.table["origin"].to_pylist())
    facts = {
        "pretty_name": f"Images {'augmented' if synthetic < len(items.table) else 'generated'} by diffaug",
        "task_categories": ["image-classification"],
        "tags": ["diffaug", *(["synthetic"] if synthetic else [])],
    }
    head = yaml.safe_dump(facts, sort_keys=False)
    reasons = "".join(f"- {_cell(reason)}\n" for reason in items.unsafe_to_publish)
    warning = f"**Unsafe to publish:**\n\n{reasons}\n" if reasons else ""
    known = items.table["generator_sha256"].to_pylist() if "generator_sha256" in items.table.column_names else []
    hashes = sorted(set(known) - {None})
    generators = "".join(f"- generator, sha256 of the weights: `{sha256}`\n" for sha256 in hashes)
    return (
        f"---\n{head}---\n\n# Images for training a classifier\n\n"
        f"**{synthetic} of the {len(items.table)} images are synthetic**: diffaug {__version__} generated them with a "
        f"diffusion model trained on the real training images. The column `origin` marks each image as `real`, "
        f"`sampled` from noise, or a `variation` of the real image in `source`. Validation and test splits hold no "
        f"synthetic image.\n\n"
        f"Synthetic images can repeat training images, especially in classes with few of them. Treat them with the "
        f"same care as the training images.\n\n"
        f"{warning}{generators}\n{_table(items)}\n"
    )


def _table(items: ExportItems) -> str:
    columns = [
        (split, origin, by_class) for split, found in items.counts().items() for origin, by_class in found.items()
    ]
    heading = "".join(f" {split}, {origin} |" for split, origin, _ in columns)
    rows = [
        f"| {_cell(name)} |" + "".join(f" {by_class[name]} |" for _, _, by_class in columns) for name in items.classes
    ]
    return "\n".join([f"| class |{heading}", "|---" * (len(columns) + 1) + "|", *rows])


def _cell(text: str) -> str:
    return printable(text, keep="\n").replace("\n", " ").replace("|", "\\|").replace("<", "&lt;")
