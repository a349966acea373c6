import json
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
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.planning import defaults
from diffaug.files import storage
from diffaug.files.records import read_record, write_record
from diffaug.runtime.console import LogNarrator
from diffaug.similarity.intervals import Share
from diffaug.stages.generating.describe_pool import check_candidates, describe_pool
from diffaug.stages.generating.preparing import held_out
from diffaug.synthesis.audit.memorization import POOL_AUDIT
from diffaug.synthesis.audit.quality import POOL_QUALITY
from diffaug.synthesis.filters.calibrated import CalibratedFilters
from diffaug.synthesis.filters.preparing import prepare_filters
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.pool import MANIFEST, REJECTED, SUMMARIES, SUMMARY, ClassSummary, Pool
from tests.conftest import SMALL

SETTINGS = SMALL | {"diffusion.images_seen": 1280, "diffusion.batch_size": 32, "advanced.holdout": 0.2}
CLASSES = ("bright", "dark")
pytestmark = pytest.mark.e2e
REJECTED_PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defaults, "COPY_CHECK_FRACTION", 1.0)  # so that there are checks to hold images out for
        return augmenter.fit(root / "images")


@pytest.fixture(scope="module")
def filters(fitted: diffaug.DiffusionAugmenter, tmp_path_factory: pytest.TempPathFactory) -> CalibratedFilters:
    images, groups = fitted.inspect().images("train"), fitted.inspect().groups("train")
    folder = tmp_path_factory.mktemp("filters") / "filters"
    return prepare_filters(folder, images, groups, settings=SynthesisSettings(), seed=0, device="cpu", max_steps=60)


def random_images(*counts: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """New images of the true distribution, bright ones first."""
    labels = np.repeat([0, 1], counts)
    levels = np.random.default_rng(1).integers(0, 120, (len(labels), 8, 8, 1))
    return (levels + 120 * (1 - labels[:, None, None, None])).astype(np.uint8), labels


def write(root: Path, catalog: Catalog, pixels, labels, rejected=()) -> Pool:
    """A pool of the images and of rejected ones: (reason, whether its image is kept)."""
    names = catalog.images("train").ids
    tables: dict[str, list[dict[str, Any]]] = {"images": [], "rejected": []}
    entries = [("images", "", True)] * len(pixels) + [("rejected", *entry) for entry in rejected]
    for number, (kind, reason, kept) in enumerate(entries):
        image, label = (pixels[number], int(labels[number])) if kind == "images" else (REJECTED_PIXELS, 1)
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
    storage.write_parquet(root / REJECTED, refused)
    counts = {name: int((labels == label).sum()) for label, name in enumerate(CLASSES)}
    write_record(root / SUMMARY, SUMMARIES, {name: ClassSummary(n, n, n, {}) for name, n in counts.items()})
    storage.commit_directory(root, {"classes": list(CLASSES), "image_size": [8, 8], "channels": 1})
    return Pool.open(root)


@pytest.fixture
def describe(fitted, filters, tmp_path, monkeypatch):
    """describe(pixels, labels, rejected=..., generator=...): the audit, the report's folder and the narration."""

    def run(pixels, labels, rejected=(), generator=None):
        narrated: dict[str, list[Any]] = {"warn": [], "say": [], "table": []}
        for kind, words in narrated.items():
            monkeypatch.setattr(LogNarrator, kind, lambda self, *text, words=words: words.append(text))
        catalog, job = fitted.inspect(), fitted.job
        job.start_run("generate", "new", name="generate", kind="generate", params={})
        pool = write(tmp_path / "pool", catalog, pixels, labels, rejected)
        maker = ChunkMaker(generator or fitted.generator_, filters, catalog.images("train"), SynthesisSettings(), 8, 0)
        audit = describe_pool(job, catalog, maker, pool)
        job.journal.end_run("generate")
        return audit, fitted.study.path / "pool-report", narrated

    return run


def logged(fitted: diffaug.DiffusionAugmenter, kind: str) -> list[dict[str, Any]]:
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
    assert held_out(catalog, fitted.generator_).tolist() == (rows["part"] == "held out").tolist()
    config = storage.read_json(fitted.study.generator / "config.json")
    assert (rows["part"] == "trained").sum() == sum(config["train_counts"].values())


def test_new_images_are_described_in_files_metrics_table_and_sheets(fitted, filters, describe) -> None:
    pixels, labels = random_images(30, 20)
    rejected = [("wrong class", True), ("copy", True), ("duplicate", False), ("copy", False), ("constant", True)]
    audit, folder, narrated = describe(pixels, labels, rejected)
    assert storage.committed_metadata(folder, verify=True) is not None
    names = {"quality.json", "audit.json", "accepted.png", "rejected.png", "nearest.png", "DONE.json"}
    assert {file.name for file in folder.iterdir()} == names
    quality = read_record(folder / "quality.json", POOL_QUALITY)
    assert read_record(folder / "audit.json", POOL_AUDIT) == audit
    assert quality.encoder == filters.encoder_name
    dark, bright = quality.classes["dark"], quality.classes["bright"]
    assert (dark.real, dark.synthetic) == (48, 20)
    assert bright.label_agreement > 0.9
    assert bright.coverage > 0.5
    assert audit.classes["dark"].copies == Share(2, 25)
    assert not audit.unsafe_to_publish, audit.reasons
    assert audit.overall.distance_ratio.low < 1.1
    assert audit.overall.membership is not None
    metrics = {name: value for data in logged(fitted, "metrics") for name, value in data["metrics"].items()}
    assert metrics["quality/kid/dark"] == pytest.approx(dark.kid)
    assert metrics["audit/membership"] == pytest.approx(audit.overall.membership.value)
    assert metrics["audit/unsafe_to_publish"] == 0
    assert {data["image"] for data in logged(fitted, "image")} == {"accepted", "rejected", "nearest"}
    [(_, columns, rows)] = narrated["table"]
    assert [row[:3] for row in rows] == [["bright", "30", "100%"], ["dark", "20", "100%"]]
    assert all(len(row) == len(columns) for row in rows)
    assert rows[1][columns.index("copies")] == "2"
    assert not narrated["warn"]


def test_sheets_show_the_pools_own_pixels_above_the_nearest_training_images(fitted, describe) -> None:
    pixels, labels = random_images(1, 1)
    _, folder, _ = describe(pixels, labels, [("copy", True)])

    def first_tile(name: str, row: int) -> NDArray[np.uint8]:
        sheet = np.asarray(Image.open(folder / name))
        top = row * (20 + 48 + 2) + 20
        return sheet[top : top + 48 : 6, 2:50:6]

    nearest = fitted.inspect().images("train").pixels[0]
    for name, expected in {"accepted": pixels, "rejected": [REJECTED_PIXELS], "nearest": [pixels[0], nearest]}.items():
        for row, image in enumerate(expected):
            assert np.array_equal(first_tile(f"{name}.png", row), image[..., 0])


def slightly_changed(fitted: diffaug.DiffusionAugmenter, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The training images that the generator was trained on, or that were held out, with some noise."""
    images = fitted.inspect().images("train")
    images = images.select(np.flatnonzero(fitted.generator_.rows()["part"] == part))
    noise = np.random.default_rng(0).integers(-9, 9, images.pixels.shape)
    return (images.pixels + noise).clip(0, 255).astype(np.uint8), images.labels


def test_a_pool_of_slightly_changed_training_images_is_unsafe_to_publish(fitted, describe) -> None:
    audit, folder, narrated = describe(*slightly_changed(fitted, "trained"), [("copy", False)] * 40)
    assert audit.overall.distance_ratio.high < 0.5
    assert storage.read_json(folder / "audit.json")["unsafe_to_publish"] is True
    warnings = [words[0] for words in narrated["warn"]]
    assert any("are closer to trained images" in text for text in warnings)
    assert any("40 of" in text and "are copies" in text for text in warnings)
    assert all(text.startswith("unsafe to publish: ") for text in warnings)
    audit, _, _ = describe(*slightly_changed(fitted, "held out"))  # these are no sign of memorization
    assert audit.overall.distance_ratio.low > 1.5
    assert not audit.unsafe_to_publish


def test_a_generator_without_a_record_is_audited_without_held_out_images(fitted, describe) -> None:
    known = fitted.generator_
    silent = PixelGenerator(
        classes=known.classes,
        weights_sha256=known.weights_sha256,
        denoiser=known.denoiser,
        normalization=known.normalization,
    )
    assert silent.rows() is None
    audit, _, narrated = describe(*random_images(10, 10), generator=silent)
    assert (audit.overall.distance_ratio, audit.overall.membership) == (None, None)
    assert audit.overall.nearest_ratio is not None
    said = [words[0] for words in narrated["say"]]
    assert any(text.startswith("not compared with held-out images") for text in said)
    assert any(text.startswith("no membership score") for text in said)


def test_an_empty_pool_is_described_by_what_was_rejected(describe) -> None:
    audit, folder, narrated = describe(*random_images(0, 0), [("copy", True)] * 30)
    assert (audit.overall.images, audit.overall.nearest_ratio) == (0, None)
    [(_, _, rows)] = narrated["table"]
    assert [row[:2] for row in rows] == [["dark", "0"]]
    assert any(reason.startswith("class 'dark': 30 of 30 candidates") for reason in audit.reasons)
    assert sorted(file.name for file in folder.glob("*.png")) == ["rejected.png"]


@pytest.mark.parametrize(("wanted", "counted"), [(2, 3), (3, 6)])
def test_candidates_after_the_last_image_count_if_the_class_was_given_up(tmp_path, wanted, counted) -> None:
    """Accepted images after the last one of a full class are not recorded, so copies there must not count either."""
    common = {"class_index": 0, "label": "bright", "origin": "sampled", "file": "", "sha256": "", "reason": ""}
    for name, indices, ratio in ((MANIFEST, (0, 2), 0.9), (REJECTED, (1, 3, 4, 5), 0.1)):
        table = pd.DataFrame([{**common, "index": index, "copy_ratio": ratio} for index in indices])
        storage.write_parquet(tmp_path / name, table)
    write_record(tmp_path / SUMMARY, SUMMARIES, {"bright": ClassSummary(wanted, 2, 6, {"copy": 4})})
    checked = check_candidates(Pool(tmp_path, CLASSES, (8, 8), 1), lambda label, origin: 1 / 3)
    assert (int(checked.copied.sum()), len(checked.copied)) == (counted - 2, counted)


def test_what_is_a_copy_is_decided_by_class_and_origin_as_the_filter_does(tmp_path) -> None:
    """Painted objects have a threshold of their own per class."""
    rows = [("bright", 0, "sampled"), ("bright", 0, "transplant"), ("dark", 1, "sampled"), ("dark", 1, "transplant")]
    table = [
        {
            "label": label,
            "class_index": number,
            "origin": origin,
            "index": 0,
            "copy_ratio": 0.5,
            "file": "",
            "sha256": "",
        }
        for label, number, origin in rows
    ]
    storage.write_parquet(tmp_path / MANIFEST, pd.DataFrame(table))
    thresholds = {(0, "sampled"): 0.4, (1, "sampled"): 0.6, (0, "transplant"): 0.6, (1, "transplant"): 0.4}
    checked = check_candidates(Pool(tmp_path, CLASSES, (8, 8), 1), lambda *about: thresholds[about])
    assert checked.copied.tolist() == [False, True, True, False]


def test_describing_again_gives_the_same_bytes(describe) -> None:
    pixels, labels = random_images(12, 12)
    first = {file.name: file.read_bytes() for file in describe(pixels, labels)[1].iterdir()}
    assert {file.name: file.read_bytes() for file in describe(pixels, labels)[1].iterdir()} == first
    assert "rejected.png" not in first
