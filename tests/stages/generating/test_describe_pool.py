import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

import diffaug
from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.generator import Generator
from diffaug.files import storage
from diffaug.runtime.console import SilentNarrator
from diffaug.stages.generating.describe_pool import _checked, describe_pool
from diffaug.synthesis.filters.calibrated import CalibratedJudge, prepare_judge
from diffaug.synthesis.pool.pool import MANIFEST, SUMMARY, Pool

SETTINGS = {
    "diffusion.images_seen": 1280,
    "diffusion.base_channels": 16,
    "diffusion.batch_size": 32,
    "diffusion.copy_check_fraction": 1.0,
    "diffusion.holdout": 0.2,
    "synthesis.num_inference_steps": 2,
    "tracking.mlflow": False,
}
CLASSES = ("bright", "dark")
REJECTED = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> diffaug.DiffusionAugmenter:
    """A study of 60 dark and 40 bright images with a generator that had a fifth of its training images held out."""
    root, rng = tmp_path_factory.mktemp("fitted"), np.random.default_rng(0)
    for name, count, level in (("dark", 60, 0), ("bright", 40, 120)):
        (root / "images" / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(level, level + 120, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / name / f"{number}.png")
    augmenter = diffaug.DiffusionAugmenter(study=root / "study", settings=SETTINGS, verbose=False)
    return augmenter.fit(root / "images")


@pytest.fixture(scope="module")
def judge(fitted: diffaug.DiffusionAugmenter, tmp_path_factory: pytest.TempPathFactory) -> CalibratedJudge:
    images, groups = fitted.inspect().images("train"), fitted.inspect().groups("train")
    folder, settings = tmp_path_factory.mktemp("judge") / "judge", SynthesisSettings(filter_max_steps=60)
    return prepare_judge(folder, images, groups, settings=settings, seed=0, device="cpu")


def random_images(*counts: int, seed: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """New images of the true distribution, bright ones first."""
    rng, labels = np.random.default_rng(seed), np.repeat([0, 1], counts)
    return (rng.integers(0, 120, (len(labels), 8, 8, 1)) + 120 * (1 - labels[:, None, None, None])).astype(
        np.uint8
    ), labels


def write(
    root: Path,
    catalog: Catalog,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    rejected: Sequence[tuple[str, bool]] = (),
) -> tuple[Pool, pd.DataFrame]:
    """A pool of the images and a table of rejected ones: (reason, whether its picture is kept)."""
    names = catalog.images("train").ids
    tables: dict[str, list[dict[str, Any]]] = {"images": [], "rejected": []}
    entries = [("images", "", True)] * len(pixels) + [("rejected", *entry) for entry in rejected]
    for number, (kind, reason, kept) in enumerate(entries):
        image, label = (pixels[number], int(labels[number])) if kind == "images" else (REJECTED, 1)
        file = f"{kind}/{CLASSES[label]}/{number:06d}.png" if kept else ""
        if kept:
            storage.write_bytes(root / file, storage.png_bytes(image))
        columns = {"file": file, "label": CLASSES[label], "class_index": label, "origin": "sampled"}
        columns |= {"index": number if kind == "images" else 0, "copy_ratio": 0.1 if reason == "copy" else 0.9}
        sha256 = storage.sha256_bytes(storage.png_bytes(image))
        tables[kind].append({**columns, "reason": reason, "nearest": names[number % len(names)], "sha256": sha256})
    columns = ["file", "label", "class_index", "origin", "index", "copy_ratio", "nearest", "sha256", "reason"]
    accepted, refused = (pd.DataFrame(rows, columns=columns) for rows in tables.values())
    storage.write_parquet(root / MANIFEST, accepted.drop(columns="reason"))
    full = {name: {"wanted": int((labels == label).sum())} for label, name in enumerate(CLASSES)}
    storage.write_json(root / SUMMARY, {name: {**one, "accepted": one["wanted"]} for name, one in full.items()})
    storage.commit_directory(root, {"classes": list(CLASSES), "image_size": [8, 8], "channels": 1})
    return Pool.open(root), refused


@pytest.fixture
def describe(fitted, judge, tmp_path, monkeypatch):
    """describe(pixels, labels, rejected=..., generator=...): the report's folder, what was logged and what was told."""

    def run(pixels, labels, rejected=(), generator: Generator | None = None):
        told: dict[str, list[Any]] = {"warn": [], "say": [], "table": []}
        for kind, heard in told.items():
            monkeypatch.setattr(SilentNarrator, kind, lambda self, *words, heard=heard: heard.append(words))
        catalog, job = fitted.inspect(), fitted.job
        job.start_run("generate", "new", name="generate", kind="generate", params={})
        pool, table = write(tmp_path / "pool", catalog, pixels, labels, rejected)
        audit = describe_pool(job, catalog, generator or fitted.generator_, judge, pool, rejected=table)
        job.journal.end_run("generate")
        return audit, fitted.study.path / "pool-report", told

    return run


def logged(fitted: diffaug.DiffusionAugmenter, kind: str) -> list[dict[str, Any]]:
    """What was logged since the last run began."""
    events = [json.loads(line) for line in fitted.study.journal.read_text().splitlines()]
    last = max(number for number, event in enumerate(events) if event["kind"] == "start")
    return [event["data"] for event in events[last:] if event["kind"] == kind]


def test_the_generators_folder_says_what_was_trained_on_and_what_held_out(fitted) -> None:
    rows, catalog = fitted.generator_.rows(), fitted.inspect()
    assert list(rows.columns) == ["id", "pixel_sha256", "label", "part"]
    assert tuple(rows["id"]) == catalog.images("train").ids
    table = catalog.table.set_index("path").loc[rows["id"]]
    assert list(rows["pixel_sha256"]) == list(table["pixel_sha256"])
    assert list(rows["label"]) == list(table["label"])
    counts = rows.groupby("label")["part"].value_counts()
    assert (counts["dark", "held out"], counts["bright", "held out"]) == (10, 6)
    config = storage.read_json(fitted.study.generator / "config.json")
    assert (rows["part"] == "trained").sum() == sum(config["train_counts"].values())


def test_new_images_are_described_in_files_metrics_table_and_sheets(fitted, judge, describe) -> None:
    pixels, labels = random_images(30, 20)
    rejected = [("off-class", True), ("copy", True), ("duplicate", False), ("copy", False), ("constant", True)]
    audit, folder, told = describe(pixels, labels, rejected)
    assert storage.committed_facts(folder, verify=True) is not None
    assert {file.name for file in folder.iterdir()} == {
        *("quality.json", "audit.json", "accepted.png", "rejected.png", "nearest.png", "DONE.json"),
    }
    quality, written = (storage.read_json(folder / name) for name in ("quality.json", "audit.json"))
    assert quality["encoder"] == judge.encoder_name
    assert (quality["classes"]["dark"]["real"], quality["classes"]["dark"]["synthetic"]) == (48, 20)
    assert quality["classes"]["bright"]["confirmed"] > 0.9
    assert quality["classes"]["bright"]["coverage"] > 0.5
    assert written == json.loads(json.dumps(audit.to_dict()))
    assert written["classes"]["dark"]["copies"] == {
        **{"count": 2, "total": 25, "share": 2 / 25},
        "interval": pytest.approx(list(audit.classes["dark"].copies.interval)),
    }
    assert not audit.unsafe_to_publish, audit.reasons
    assert audit.whole.distance_ratio.low < 1.1
    assert audit.whole.membership is not None
    metrics = {name: value for data in logged(fitted, "metrics") for name, value in data["metrics"].items()}
    assert metrics["quality/kid/dark"] == pytest.approx(quality["classes"]["dark"]["kid"])
    assert metrics["audit/membership"] == pytest.approx(audit.whole.membership.value)
    assert metrics["audit/unsafe_to_publish"] == 0
    assert {data["image"] for data in logged(fitted, "image")} == {"accepted", "rejected", "nearest"}
    [(_, columns, rows)] = told["table"]
    assert [row[:3] for row in rows] == [["bright", "30", "100%"], ["dark", "20", "100%"]]
    assert all(len(row) == len(columns) for row in rows)
    assert rows[1][columns.index("copies")] == "2"
    assert not told["warn"]


def test_sheets_show_the_pools_own_pixels_above_the_nearest_training_images(fitted, describe) -> None:
    pixels, labels = random_images(1, 1)
    _, folder, _ = describe(pixels, labels, [("copy", True)])

    def first_tile(name: str, row: int) -> NDArray[np.uint8]:
        sheet = np.asarray(Image.open(folder / name))
        top = row * (20 + 48 + 2) + 20
        return sheet[top : top + 48 : 6, 2:50:6]

    assert np.array_equal(first_tile("accepted.png", 0), pixels[0, ..., 0])
    assert np.array_equal(first_tile("accepted.png", 1), pixels[1, ..., 0])
    assert np.array_equal(first_tile("rejected.png", 0), REJECTED[..., 0])
    assert np.array_equal(first_tile("nearest.png", 0), pixels[0, ..., 0])
    assert np.array_equal(first_tile("nearest.png", 1), fitted.inspect().images("train").pixels[0, ..., 0])


def test_a_pool_of_slightly_changed_training_images_is_unsafe_to_publish(fitted, describe) -> None:
    catalog = fitted.inspect()
    rows, images = fitted.generator_.rows(), catalog.images("train")
    trained = images.select(np.flatnonzero(rows["part"] == "trained"))
    noise = np.random.default_rng(0).integers(-9, 9, trained.pixels.shape)
    repeated = (trained.pixels + noise).clip(0, 255).astype(np.uint8)
    audit, folder, told = describe(repeated, trained.labels, [("copy", False)] * 40)
    assert audit.whole.distance_ratio.high < 0.5
    assert storage.read_json(folder / "audit.json")["unsafe_to_publish"] is True
    warnings = [words[0] for words in told["warn"]]
    assert any("lie nearer to trained images" in text for text in warnings)
    assert any("40 of" in text and "are copies" in text for text in warnings)
    assert all(text.startswith("unsafe to publish: ") for text in warnings)
    held = images.select(np.flatnonzero(rows["part"] == "held out"))
    assert len(held) == 16


def test_changed_images_that_were_held_out_are_no_sign_of_learning_by_heart(fitted, describe) -> None:
    images, rows = fitted.inspect().images("train"), fitted.generator_.rows()
    held = images.select(np.flatnonzero(rows["part"] == "held out"))
    noise = np.random.default_rng(0).integers(0, 9, held.pixels.shape)
    audit, _, _ = describe((held.pixels + noise).clip(0, 255).astype(np.uint8), held.labels)
    assert audit.whole.distance_ratio.low > 1.5
    assert not audit.unsafe_to_publish


def test_a_generator_that_does_not_say_is_audited_without_held_out_images(fitted, describe) -> None:
    known = fitted.generator_
    silent = Generator(known.denoiser, known.normalization, known.classes, known.weights_sha256)
    assert silent.rows() is None
    audit, _, told = describe(*random_images(10, 10), generator=silent)
    assert (audit.whole.distance_ratio, audit.whole.membership) == (None, None)
    assert audit.whole.nearest_ratio is not None
    said = [words[0] for words in told["say"]]
    assert any(text.startswith("not compared with held-out images") for text in said)
    assert any(text.startswith("no membership score") for text in said)


def test_an_empty_pool_is_described_by_what_was_rejected(describe) -> None:
    audit, folder, told = describe(*random_images(0, 0), [("copy", True)] * 30)
    assert (audit.whole.images, audit.whole.nearest_ratio) == (0, None)
    [(_, _, rows)] = told["table"]
    assert [row[:2] for row in rows] == [["dark", "0"]]
    assert any(reason.startswith("class 'dark': 30 of 30 candidates") for reason in audit.reasons)
    assert sorted(file.name for file in folder.glob("*.png")) == ["rejected.png"]


@pytest.mark.parametrize(("given_up", "looked_at"), [([], 3), (["bright"], 6)])
def test_candidates_after_the_last_image_count_where_the_class_was_given_up(given_up, looked_at) -> None:
    """Of a full class, images accepted after the last one are not recorded, so neither are copies looked at there."""
    common = {"class_index": 0, "label": "bright", "origin": "sampled"}
    manifest = pd.DataFrame([{**common, "index": index, "copy_ratio": 0.9} for index in (0, 2)])
    rejected = pd.DataFrame([{**common, "index": index, "copy_ratio": 0.1} for index in (1, 3, 4, 5)])
    checked = _checked(manifest, rejected, 1 / 3, given_up)
    assert (int(checked.copied.sum()), len(checked.copied)) == (looked_at - 2, looked_at)


def test_describing_again_gives_the_same_bytes(describe) -> None:
    pixels, labels = random_images(12, 12)
    first = {file.name: file.read_bytes() for file in describe(pixels, labels)[1].iterdir()}
    assert {file.name: file.read_bytes() for file in describe(pixels, labels)[1].iterdir()} == first
    assert "rejected.png" not in first
