import errno
import io
import json
import os
import re
import shutil
import signal
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder

from diffaug.configuration.settings import DataSettings
from diffaug.data.building import synthetic
from diffaug.data.building.build import build_catalog
from diffaug.data.catalog import Catalog
from diffaug.data.layouts.entries import sorted_classes
from diffaug.data.layouts.scan import scan
from diffaug.decoding.decode import decode
from diffaug.decoding.intensity import IntensityRange
from diffaug.errors import DamagedError, DataError, UsageError
from diffaug.files import storage
from diffaug.stages.export import export_study
from diffaug.synthesis.decisions import ReviewFile
from diffaug.synthesis.export.export import Export, ExportSettings, export_images
from diffaug.synthesis.export.formats import dataset_card, write_huggingface, write_image_folder, write_webdataset
from diffaug.synthesis.export.items import ExportItems, collect_items
from diffaug.synthesis.pool.origins import ORIGINS
from diffaug.synthesis.pool.pool import AUDIT, Pool
from tests.conftest import with_blind, write_pool

FORMATS = ("imagefolder", "huggingface", "webdataset")
COUNTS = {"train": {"0": 6, "NA": 3, "a/b": 4}, "val": {"0": 2, "NA": 1}, "test": {"0": 3, "NA": 2, "a/b": 2}}
GENERATOR = "ab" * 32


def write_data(root: Path) -> Path:
    """6 x 8 px RGB images of three awkwardly named classes, in splits that a CSV names."""
    rng = np.random.default_rng(0)
    lines = ["file_name,label,split"]
    for split, counts in COUNTS.items():
        for label, count in counts.items():
            for _ in range(count):
                name = f"{len(lines):03d}.png"
                storage.write_bytes(root / name, storage.png_bytes(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)))
                lines.append(f"{name},{label},{split}")
    storage.write_text(root / "labels.csv", "\n".join(lines))
    return root


def pool_of(catalog: Catalog, root: Path) -> Pool:
    """A finished pool whose manifest has columns of every kind, some of them with gaps."""
    pixels, indices = np.random.default_rng(1).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8), [0, 1, 2, 0, 1]
    labels = [catalog.classes.index(label) for label in ("NA", "NA", "NA", "a/b", "a/b")]
    columns = {"seed": 7, "index": indices, "generator_sha256": GENERATOR}
    columns |= {"origin": ["variation" if index else "sampled" for index in indices]}
    columns |= {"source": ["001.png" if index else "" for index in indices]}
    columns |= {"distance": np.float32([0.5, np.nan, np.inf])[indices]}
    inputs = {"settings": {}, "inputs": {"catalog": catalog.fingerprint}}
    return write_pool(root, catalog.classes, list(zip(labels, pixels, strict=True)), inputs, **columns)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root, directory = write_data(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("study") / "catalog"
    return build_catalog(root, DataSettings(), directory=directory, seed=0)


@pytest.fixture(scope="module")
def pool(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return pool_of(catalog, tmp_path_factory.mktemp("study") / "pool")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def load_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`datasets.load_dataset`, which can't reach anything outside."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return datasets.load_dataset


def fingerprints(pixels: NDArray[np.uint8] | list[Any], labels: Any) -> Counter[tuple[bytes, str]]:
    return Counter((np.asarray(image).tobytes(), str(label)) for image, label in zip(pixels, labels, strict=True))


def expected(catalog: Catalog, pool: Pool, split: str) -> Counter[tuple[bytes, str]]:
    """Pixels and class names that a split must hold."""
    images = catalog.images(split)  # type: ignore[arg-type]
    found = fingerprints(images.pixels, [catalog.classes[label] for label in images.labels])
    if split == "train":
        found += fingerprints(pool.images().pixels, pool.manifest["label"])
    return found


def loaded(export: Export) -> Any:
    namespace: dict[str, Any] = {}
    exec(export.load, namespace)
    return namespace


def test_images_that_a_reviewer_rejects_are_not_exported_as_the_record_tells(catalog, tmp_path) -> None:
    made = pool_of(catalog, tmp_path / "study" / "pool")
    ReviewFile(made.root).add("anna", (made.files[0], made.manifest["sha256"][0]), "reject")
    exports = [
        export_images(catalog, pool, ExportSettings(tmp_path / str(len(pool)))) for pool in (made, Pool.open(made.root))
    ]
    assert len(exports[0]) - len(exports[1]) == 1
    records = [storage.recorded_metadata(export.path) for export in exports]
    assert records[0]["pool"] != records[1]["pool"]


@pytest.mark.parametrize("include_blind", [False, True])
def test_images_that_nothing_confirms_are_exported_only_if_asked_for(catalog, tmp_path, include_blind) -> None:
    made = with_blind(pool_of(catalog, tmp_path / "study" / "pool"), "NA", "0")
    told: list[str] = []
    narrator = SimpleNamespace(warn=told.append, say=str, table=lambda *_: None, progress=lambda *_: None)
    job = SimpleNamespace(study=SimpleNamespace(path=tmp_path / "study", pool=made.root), narrator=narrator)
    export = export_study(job, catalog, ExportSettings(tmp_path / "out", include_blind=include_blind))
    manifest = pd.read_parquet(tmp_path / "out" / "manifest.parquet")
    synthetic = manifest[manifest["origin"] != "real"]
    assert synthetic["label"].value_counts().to_dict() == ({"NA": 3, "a/b": 2} if include_blind else {"a/b": 2})
    assert len(export) == 23 + len(synthetic)
    assert [text for text in told if "--include-blind" in text] == told[: 0 if include_blind else 1]
    assert all("3 synthetic images are left out" in text and text.count("NA") == 1 for text in told)


def test_an_image_folder_holds_every_image_under_its_class_and_says_where_it_came_from(catalog, pool, out) -> None:
    export = export_images(catalog, pool, ExportSettings(out))
    labels = storage.read_json(out / "folders.json")
    for split in COUNTS:
        dataset = ImageFolder(str(out / split), allow_empty=True)
        assert [labels[name] for name in dataset.classes] == list(catalog.classes)
        pixels = [image for image, _ in dataset]
        assert fingerprints(pixels, [catalog.classes[k] for k in dataset.targets]) == expected(catalog, pool, split)
    for place in (out, out / "train"):
        assert scan(place, DataSettings()).classes == sorted_classes(labels.values())
    assert loaded(export)["train"].targets == ImageFolder(str(out / "train"), allow_empty=True).targets
    assert len(export) == 23 + 5
    synthetic = {"sampled": {"0": 0, "NA": 1, "a/b": 1}, "variation": {"0": 0, "NA": 2, "a/b": 1}}
    assert export.counts["train"] == {"real": COUNTS["train"], **synthetic}
    assert export.counts["val"]["real"] == {**COUNTS["val"], "a/b": 0}
    manifest = pd.read_parquet(out / "manifest.parquet")
    assert sorted(manifest["file"]) == sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert len(manifest) == 28
    for row in manifest.itertuples():
        pixels = np.asarray(Image.open(out / row.file))
        assert Path(row.file).parts[0] == row.split
        assert Path(row.file).name.startswith("real-" if row.origin == "real" else "synthetic-")
        if row.origin == "real":
            np.testing.assert_array_equal(pixels, np.asarray(Image.open(catalog.root / row.source)))
            assert pd.isna(row.seed)
        else:
            assert storage.sha256_bytes((out / row.file).read_bytes()) == row.sha256
            assert (row.seed, row.generator_sha256) == (7, GENERATOR)
    assert set(manifest.loc[manifest["origin"] == "variation", "source"]) == {"001.png"}


@pytest.mark.e2e
def test_hugging_face_loads_images_labels_and_origins(catalog, pool, out, load_dataset) -> None:
    export = export_images(catalog, pool, ExportSettings(out, "huggingface"))
    dataset = loaded(export)["dataset"]
    assert set(dataset) == {"train", "validation", "test"}
    for part, split in ((dataset["train"], "train"), (dataset["validation"], "val"), (dataset["test"], "test")):
        assert part.features["label"].names == list(catalog.classes)
        labels = part.features["label"].int2str(part["label"])
        assert fingerprints(list(part["image"]), labels) == expected(catalog, pool, split)
    assert Counter(dataset["train"]["origin"]) == {"real": 13, "sampled": 2, "variation": 3}
    assert set(dataset["test"]["origin"]) == {"real"}
    assert set(dataset["train"]["generator_sha256"]) == {None, GENERATOR}
    assert set(dataset["test"]["seed"]) == {None}
    assert load_dataset(str(out))["train"]["label"] == dataset["train"]["label"]


@pytest.mark.e2e
def test_webdataset_loads_images_classes_and_origins(catalog, pool, out) -> None:
    webdataset = pytest.importorskip("webdataset")
    export = export_images(catalog, pool, ExportSettings(out, "webdataset", shard_size=5))
    shards = {"train": 4, "val": 1, "test": 2}
    assert len(list(out.glob("*.tar"))) == sum(shards.values())
    for split, count in shards.items():
        urls = [str(out / f"{split}-{shard:06d}.tar") for shard in range(count)]
        samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
        pixels, labels = [sample["png"] for sample in samples], [catalog.classes[sample["cls"]] for sample in samples]
        assert fingerprints(pixels, labels) == expected(catalog, pool, split)
        assert [sample["json"]["label"] for sample in samples] == labels
        assert len({sample["__key__"] for sample in samples}) == len(samples)
        origins = Counter(sample["json"]["origin"] for sample in samples)
        assert origins == ({"real": 13, "sampled": 2, "variation": 3} if split == "train" else {"real": len(samples)})
    assert len(list(loaded(export)["train"])) == 18


def members(shard: Path) -> dict[tarfile.TarInfo, bytes]:
    with tarfile.open(shard) as tar:
        return {info: tar.extractfile(info).read() for info in tar.getmembers()}  # type: ignore[union-attr]


def test_shards_are_plain_with_strict_json_mix_the_classes_and_follow_the_seed(catalog, pool, out, tmp_path) -> None:
    export_images(catalog, pool, ExportSettings(out, "webdataset", shard_size=9))
    shards = [members(out / f"train-{number:06d}.tar") for number in range(2)]
    contents = [content for one in shards for info, content in one.items() if info.name.endswith(".json")]
    distances = [json.loads(content, parse_constant=pytest.fail).get("distance") for content in contents]
    assert Counter(distances) == {None: 16, 0.5: 2}
    shard = list(shards[0])
    facts = {(info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) for info in shard}
    assert facts == {(0, 0, 0, "", "", 0o644)}
    assert [info.name.split(".", 1)[1] for info in shard] == ["png", "cls", "json"] * 9
    keys = [info.name.split(".")[0] for info in shard[::3]]
    assert {key.split("-")[0] for key in keys} == {"real", "synthetic"}
    assert keys != sorted(keys)
    export_images(catalog, pool, ExportSettings(tmp_path / "other", "webdataset", shard_size=9, seed=1))
    assert [info.name for info in members(tmp_path / "other" / "train-000000.tar")] != [info.name for info in shard]


@pytest.mark.parametrize("file_format", FORMATS)
def test_exports_repeat_and_train_splits_hold_no_test_image(catalog, pool, tmp_path, file_format, digests) -> None:
    for name in ("first", "second"):
        export_images(catalog, pool, ExportSettings(tmp_path / name, file_format))
    first = digests(tmp_path / "first")
    assert first == digests(tmp_path / "second")
    assert storage.DONE in first
    assert storage.committed_metadata(tmp_path / "first", verify=True) is not None
    content = [(tmp_path / "first" / file).read_bytes() for file in first if "train" in file]
    for split in ("val", "test"):
        for pixels in catalog.images(split).pixels:  # type: ignore[arg-type]
            assert not any(storage.png_bytes(pixels) in one for one in content)
    assert any(storage.png_bytes(catalog.images("train").pixels[0]) in one for one in content)


@pytest.mark.parametrize(
    ("only", "splits", "written"),
    [
        ("all", ("test",), {"test": 7}),
        ("all", ("val", "train"), {"train": 18, "val": 3}),
        ("synthetic", (), {"train": 5}),
    ],
)
def test_only_what_was_requested_is_written(catalog, pool, out, only, splits, written) -> None:
    export = export_images(catalog, pool, ExportSettings(out, only=only, splits=splits))
    assert {path.name: len(list(path.rglob("*.png"))) for path in out.iterdir() if path.is_dir()} == written
    assert len(export) == sum(written.values())
    first = next(iter(written))
    dataset = loaded(export)[first]
    assert dataset.classes == sorted(storage.safe_names(catalog.classes).values())
    assert len(dataset) == written[first]


def test_names_do_not_depend_on_the_choice_of_splits(catalog, pool) -> None:
    whole = collect_items(catalog, pool, only="all").table
    part = collect_items(catalog, pool, only="all", splits=["test"]).table
    rows = zip(whole["split"].to_pylist(), whole["name"].to_pylist(), strict=True)
    assert [name for split, name in rows if split == "test"] == part["name"].to_pylist()
    assert len(set(whole["name"].to_pylist())) == len(whole)


@pytest.mark.parametrize(
    ("changes", "message", "fix"),
    [
        ({"format": "zip"}, "unknown export format 'zip'", "formats: huggingface, imagefolder, webdataset"),
        ({"only": "synthetic", "splits": ("test",)}, "no synthetic images of the split 'test'", "with images: train"),
        ({"only": "real"}, "unknown value only='real'", "one of: all, synthetic"),
        ({"splits": ("dev",)}, "there is no split 'dev'", "splits: train, val, test"),
        ({"shard_size": 0}, "shard_size must be at least 1, not 0", ""),
    ],
)
def test_a_request_that_cannot_be_met_leaves_nothing(catalog, pool, tmp_path, changes, message, fix) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        export_images(catalog, pool, ExportSettings(tmp_path / "new" / "out", **changes))
    assert fix in str(caught.value.fix)
    assert not list(tmp_path.iterdir())


def test_a_pool_of_another_split_is_refused(catalog, pool, out) -> None:
    other = replace(catalog, fingerprint="0" * 16)
    with pytest.raises(UsageError, match="generated from other images"):
        export_images(other, pool, ExportSettings(out))


def test_a_changed_image_of_the_pool_is_found_and_nothing_is_left(catalog, tmp_path) -> None:
    pool = pool_of(catalog, tmp_path / "pool")
    victim = pool.root / pool.files[-1]
    content = bytearray(victim.read_bytes())
    content[-20] ^= 1
    victim.write_bytes(content)
    with pytest.raises(DamagedError, match="was changed after"):
        export_images(catalog, pool, ExportSettings(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


def test_an_export_does_not_lie_in_the_study_or_the_data(catalog, pool, tmp_path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (tmp_path / "link").symlink_to(study)
    for out in (study, study / "deep" / "out", tmp_path / "link" / "out", catalog.root / "out"):
        with pytest.raises(UsageError, match="would lie inside"):
            export_images(catalog, pool, ExportSettings(out), keep_out_of=(study, catalog.root))
    assert not list(study.iterdir())


def test_what_is_in_the_way_is_left_as_it_was(catalog, pool, tmp_path, monkeypatch, digests) -> None:
    file, folder, here = (tmp_path / name for name in ("file", "folder", "here"))
    file.write_text("a")
    storage.write_text(folder / "notes.txt", "mine")
    storage.write_json(folder / storage.DONE, {"metadata": {"a stage": 1}, "files": {}})
    here.mkdir()
    monkeypatch.chdir(here)
    before = digests(tmp_path)
    obstacles = {file: "a file", folder: "not an export", Path(): "working directory", Path("/"): "mount point"}
    for out, message in obstacles.items():
        for overwrite in (False, True):
            with pytest.raises(UsageError, match=message):
                export_images(catalog, pool, ExportSettings(out, overwrite=overwrite))
    assert digests(tmp_path) == before


def test_an_empty_folder_is_filled_also_through_a_link(catalog, pool, tmp_path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    export_images(catalog, pool, ExportSettings(link))
    assert link.is_symlink()
    assert len(list(real.rglob("*.png"))) == 28


def test_overwrite_replaces_an_export_and_nothing_else(catalog, pool, out, digests) -> None:
    export_images(catalog, pool, ExportSettings(out))
    before = digests(out)
    with pytest.raises(UsageError, match="this folder holds an export already"):
        export_images(catalog, pool, ExportSettings(out, "webdataset"))
    (out / "train" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"would be lost: train/notes\.txt"):
        export_images(catalog, pool, ExportSettings(out, "webdataset", overwrite=True))
    (out / "train" / "notes.txt").unlink()
    assert digests(out) == before
    next(out.rglob("real-*.png")).unlink()  # a damaged export can be replaced
    export_images(catalog, pool, ExportSettings(out, overwrite=True))
    assert digests(out) == before
    export_images(catalog, pool, ExportSettings(out, "webdataset", overwrite=True))
    assert not list(out.rglob("*.png"))
    assert storage.committed_metadata(out, verify=True)


def stopped_after(images: int, error: BaseException | None) -> Any:
    """A progress function that raises, or kills the process, once some images are read."""

    def progress(done: int, total: int) -> None:
        if done == images:
            if error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise error

    return progress


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_a_stopped_export_leaves_what_was_there(catalog, pool, tmp_path, file_format, error, digests) -> None:
    out = tmp_path / "out"
    for images in (1, 28):
        with pytest.raises(type(error)):
            export_images(catalog, pool, ExportSettings(out, file_format), progress=stopped_after(images, error))
        assert not list(tmp_path.iterdir())
    export_images(catalog, pool, ExportSettings(out, file_format))
    before = digests(tmp_path)
    with pytest.raises(type(error)):
        again = ExportSettings(out, file_format, only="synthetic", overwrite=True)
        export_images(catalog, pool, again, progress=stopped_after(3, error))
    assert digests(tmp_path) == before


@pytest.mark.e2e
def test_a_killed_export_is_never_taken_for_a_finished_one(catalog, pool, tmp_path) -> None:
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        try:
            export_images(catalog, pool, ExportSettings(out), progress=stopped_after(20, None))
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not out.exists()
    export_images(catalog, pool, ExportSettings(out))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_package_can_add_a_format(catalog, pool, tmp_path, monkeypatch) -> None:
    site = tmp_path / "site"
    storage.write_text(
        site / "tally_format.py",
        "def write(items, folder, settings):\n"
        "    size = sum(len(items.png(position)) for position in items.positions('train'))\n"
        "    (folder / 'tally.txt').write_text(str(size))\n"
        "    return f'size = int(open({str(settings.out / \"tally.txt\")!r}).read())'\n",
    )
    information = site / "tally_format-1.0.dist-info"
    storage.write_text(information / "METADATA", "Metadata-Version: 2.1\nName: tally-format\nVersion: 1.0\n")
    storage.write_text(information / "entry_points.txt", "[diffaug.exporters]\ntally = tally_format:write\n")
    monkeypatch.syspath_prepend(str(site))
    export = export_images(catalog, pool, ExportSettings(tmp_path / "out", "tally"))
    sizes = [len(storage.png_bytes(pixels)) for pixels in (*catalog.images("train").pixels, *pool.images().pixels)]
    assert loaded(export)["size"] == sum(sizes)
    assert storage.committed_metadata(tmp_path / "out", verify=True)


def items_of(classes: list[str]) -> ExportItems:
    """One 2 x 2 px image a class, whose grey level is the class index; the last class has none."""
    rows = [
        {"name": f"real-{k:06d}", "split": "train", "label": label, "class_index": k, "origin": "real", "source": ""}
        for k, label in enumerate(classes[:-1])
    ]
    return ExportItems(tuple(classes), pa.Table.from_pylist(rows), lambda k: np.full((2, 2, 1), k, np.uint8))


any_name = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
any_names = st.lists(any_name | st.sampled_from(["test", "1", "é"]), min_size=2, max_size=5, unique=True)


@pytest.mark.e2e
@settings(max_examples=25, deadline=None)
@given(any_names)
def test_any_class_name_survives_in_folders_shards_and_the_card(tmp_path_factory, classes) -> None:
    out, shards = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("shards")
    write_image_folder(items_of(classes), out, ExportSettings(out))
    dataset = ImageFolder(str(out / "train"), allow_empty=True)
    labels = storage.read_json(out / "folders.json")
    found = {labels[dataset.classes[target]]: np.asarray(image)[0, 0, 0] for image, target in dataset}
    assert found == {name: index for index, name in enumerate(classes[:-1])}
    assert {labels[name] for name in dataset.classes} == set(classes)
    write_webdataset(items_of(classes), shards, ExportSettings(shards))
    content = {info.name: content for info, content in members(shards / "train-000000.tar").items()}
    for index, name in enumerate(classes[:-1]):
        assert content[f"real-{index:06d}.cls"] == str(index).encode()
        assert json.loads(content[f"real-{index:06d}.json"])["label"] == name
        assert np.asarray(Image.open(io.BytesIO(content[f"real-{index:06d}.png"])))[0, 0] == index
    table = dataset_card(items_of(classes)).rpartition("\n\n")[2].strip("\n").split("\n")
    assert len(table) == 2 + len(classes)


@pytest.mark.e2e
@pytest.mark.parametrize("classes", [["test", "val", "train"], ["0", "1", "2"], ["2020-01-01", "NA", "null"]])
def test_hugging_face_takes_no_class_name_for_anything_else(out, load_dataset, classes) -> None:
    write_huggingface(items_of(classes), out, ExportSettings(out))
    dataset = load_dataset("imagefolder", data_dir=str(out))
    assert list(dataset) == ["train"]
    assert dataset["train"].features["label"].names == classes
    assert dataset["train"]["label"] == [0, 1]


def test_the_dataset_card_says_what_is_synthetic_and_why_it_is_unsafe_to_publish(catalog, pool, out, tmp_path) -> None:
    reason = "class a|b: 9 of 10 images repeat <training> images"
    storage.write_json(pool.root / AUDIT, {"unsafe_to_publish": True, "reasons": [reason]})
    export_images(catalog, pool, ExportSettings(out, "huggingface"))
    _, head, body = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(head)["task_categories"] == ["image-classification"]
    assert "synthetic" in yaml.safe_load(head)["tags"]
    assert "5 of the 28 images are synthetic" in body
    assert GENERATOR in body
    assert "| class | train, real | train, sampled | train, variation | val, real | test, real |" in body
    assert "| a/b | 4 | 1 | 1 | 0 | 2 |" in body
    assert storage.read_json(out / "dataset.json")["unsafe_to_publish"] == [reason]
    assert "**Unsafe to publish:**" in body
    assert "class a\\|b: 9 of 10 images repeat &lt;training> images" in body
    real_only = tmp_path / "test only"
    export_images(catalog, pool, ExportSettings(real_only, "huggingface", splits=("test",)))
    assert storage.read_json(real_only / "dataset.json")["unsafe_to_publish"] == []
    assert "Unsafe" not in (real_only / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("low", "high", "kinds"),
    [
        (47, 1027, ("integer",)),
        (-1024, 2000, ("integer",)),
        (0, 1, ()),
        (1_234_567_890, 1_234_568_890, ("integer",)),
        (-1e-7, 3e-7, ()),
    ],
)
def test_values_of_the_source_come_back_in_16_bits(catalog, pool, out, low, high, kinds) -> None:
    intensity = IntensityRange(low, high, "", kinds=kinds)
    export_images(catalog, pool, ExportSettings(out / "8"))
    export = export_images(replace(catalog, intensity=intensity), pool, ExportSettings(out / "16", depth="source"))
    said = storage.read_json(out / "16" / "dataset.json")["values"]
    offset, scale = map(float, re.findall(r"-?\d[-+.e\d]*(?= [+*])", said))
    files = sorted(file.relative_to(out / "8") for file in (out / "8").rglob("*.png"))
    assert len(files) == len(export)
    for file in files:
        shown = decode(out / "8" / file).pixels
        values = cv2.imread(str(out / "16" / file), cv2.IMREAD_UNCHANGED)[..., ::-1]  # another library as oracle
        assert values.dtype == np.uint16
        back = (offset + scale * values - low) / (high - low) * 255
        assert np.abs(back - shown).max() <= 0.501
    assert loaded(export)["train"][0][0].size == (8, 6)


def test_sets_of_8_bits_have_no_other_depth(catalog, pool, out) -> None:
    export_images(catalog, pool, ExportSettings(out / "a"))
    export_images(catalog, pool, ExportSettings(out / "b", depth="source"))
    files = [file for file in (out / "a").rglob("*") if file.suffix in (".png", ".parquet")]
    assert all(file.read_bytes() == (out / "b" / file.relative_to(out / "a")).read_bytes() for file in files)
    with pytest.raises(UsageError, match="depth='16'"):
        ExportSettings(out, depth="16")


@pytest.mark.parametrize(
    ("what", "place", "count"),
    [
        ("imagefolder", "out", 5),
        ("imagefolder", "out/train", 5),
        ("huggingface", "out", 5),
        ("pool", "pool", 5),
        ("unlabeled", "data", 5),
        ("copied split", "copy", 5),
        ("nested", "all", 10),
    ],
)
def test_synthetic_images_never_count_as_real(catalog, tmp_path, what, place, count) -> None:
    """Pools and exports, a part of one, and a folder that holds them; without synthetic images an export is read."""
    pool = pool_of(catalog, tmp_path / "pool")
    kind = "huggingface" if what == "huggingface" else "imagefolder"
    export_images(catalog, pool, ExportSettings(tmp_path / "out", format=kind))
    write_data(tmp_path / "data")
    if what == "copied split":
        shutil.copytree(tmp_path / "out" / "train", tmp_path / "copy")
    if what == "nested":
        for name in ("pool", "out"):
            shutil.copytree(tmp_path / name, tmp_path / "all" / name)
    data = DataSettings(unlabeled=str(tmp_path / "pool") if what == "unlabeled" else None)
    if what == "nested":
        data = DataSettings(layout="classes")
    with pytest.raises(DataError, match=f"{count} of .* images are synthetic") as caught:
        build_catalog(tmp_path / place, data, directory=tmp_path / "catalog", seed=0)
    if what == "imagefolder" and place == "out":
        for file in (tmp_path / place).rglob("synthetic-*.png"):
            file.unlink()  # as the error says
        assert len(build_catalog(tmp_path / place, data, directory=tmp_path / "catalog", seed=0).labels("train")) == 13
    assert "give the folder of the real images" in caught.value.fix


def test_every_origin_of_a_pool_is_known_as_synthetic_and_no_word_of_others(tmp_path) -> None:
    assert set(synthetic.ORIGINS) == set(ORIGINS)
    storage.write_parquet(tmp_path / "metadata.parquet", pd.DataFrame({"file_name": ["a.png"], "origin": ["Rome"]}))
    assert synthetic.synthetic_images(tmp_path, ["a.png"]) == ([], "")
