from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from diffaug.errors import DamagedError
from diffaug.evaluation.report.pool import PAIRS_PER_CLASS, SAMPLES_PER_REASON, PoolFacts, read_pool_facts
from diffaug.files import storage
from diffaug.similarity.ratios import Share
from diffaug.synthesis.audit.memorization import Audit, PoolAudit
from diffaug.synthesis.audit.quality import ClassQuality, PoolQuality
from diffaug.synthesis.pool.pool import AUDIT, MANIFEST, REJECTED, SUMMARY, Pool

CLASSES = ("a", "b", "empty")
DISTANCES = {"a": [0.5, 0.1, 0.4, 0.2, 0.3, 0.6], "b": [0.9]}
CANDIDATES = {"a": {"wanted": 6, "accepted": 6, "candidates": 90, "rejected": {"off-class": 30, "copy": 30}}}


def picture(value):
    return np.full((4, 4, 1), value, np.uint8)


def rows_of_manifest(folder):
    for label, distances in DISTANCES.items():
        for number, distance in enumerate(distances):
            content = storage.png_bytes(picture(number))
            file = f"images/{label}/{number}.png"
            storage.write_bytes(folder / file, content)
            yield {
                "file": file,
                "label": label,
                "class_index": CLASSES.index(label),
                "origin": "variation" if number == 1 else "sampled",
                "nearest_distance": np.float32(distance),
                "copy_ratio": np.float32(distance / 2),
                "nearest": f"train/{number}.png",
                "sha256": storage.sha256_bytes(content),
            }


def rows_of_rejected(folder):
    reasons = [("a", "off-class", 30), ("b", "off-class", 2), ("a", "copy", 3), ("b", "copy", 1)]
    for label, reason, count in reasons:
        for number in range(count):
            content = storage.png_bytes(picture(number))
            file = f"rejected/{label}/{reason}-{number}.png" if number < 25 else ""
            if file:
                storage.write_bytes(folder / file, content)
            sha256 = storage.sha256_bytes(content)
            index = CLASSES.index(label)
            yield {"file": file, "label": label, "class_index": index, "reason": reason, "sha256": sha256}


def audit_of(images, findings=()):
    copies = Share(30, 36) if findings else Share(0, 36)
    return PoolAudit(Audit(images, copies), {"a": Audit(6, Share(0, 0))}, {}, ("not compared: b",))


def quality():
    return PoolQuality("pixels", {name: ClassQuality(5, 6, kid=0.1) for name in CLASSES})


@pytest.fixture
def make_pool(tmp_path):
    """Writes a pool, the older parts of it or all."""

    def make(*, bare=False, reasons=()):
        root, facts = tmp_path / "pool", {"classes": list(CLASSES), "image_size": [4, 4], "channels": 1}
        with storage.new_directory(root, facts) as folder:
            manifest = pd.DataFrame(rows_of_manifest(folder))
            if bare:
                manifest = manifest.drop(columns=["nearest_distance", "copy_ratio"])
            else:
                storage.write_parquet(folder / REJECTED, pd.DataFrame(rows_of_rejected(folder)))
                storage.write_json(folder / SUMMARY, CANDIDATES)
                storage.write_json(folder / AUDIT, {"unsafe_to_publish": bool(reasons), "reasons": list(reasons)})
            storage.write_parquet(folder / MANIFEST, manifest)
        return Pool.open(root)

    return make


@pytest.fixture
def describe(tmp_path):
    """Writes the folder of figures that belongs to a pool."""

    def write(audit):
        folder = tmp_path / "pool-report"
        with storage.new_directory(folder, {}) as staging:
            storage.write_json(staging / "audit.json", audit.to_dict())
            storage.write_json(staging / "quality.json", quality().to_dict())
        return folder

    return write


def test_the_closest_pairs_of_each_class(make_pool, tmp_path):
    pairs = read_pool_facts(make_pool(), tmp_path / "none").pairs
    assert pairs.keys() == DISTANCES.keys()
    closest = [np.float32(distance) for distance in sorted(DISTANCES["a"])[:PAIRS_PER_CLASS]]
    assert [pair.distance for pair in pairs["a"]] == closest
    first = pairs["a"][0]
    assert (first.synthetic, first.nearest, first.origin) == ("images/a/1.png", "train/1.png", "variation")
    assert first.ratio == pytest.approx(0.05)


def test_rejected_samples_of_each_reason_take_turns_over_classes(make_pool, tmp_path):
    samples = read_pool_facts(make_pool(), tmp_path / "none").rejected
    of_reason = {reason: [s for s in samples if s.reason == reason] for reason in ("copy", "off-class")}
    assert [s.label for s in of_reason["copy"]] == ["a", "b", "a", "a"]
    assert [s.label for s in of_reason["off-class"]] == ["a", "b", "a", "b", *"a" * (SAMPLES_PER_REASON - 4)]
    assert len(samples) == len({s.file for s in samples}) == 4 + SAMPLES_PER_REASON
    for sample in samples:
        number = int(sample.file.rpartition("-")[2].removesuffix(".png"))
        assert np.array_equal(sample.pixels, picture(number))


def test_candidates_audit_and_quality_are_as_written(make_pool, describe):
    audit = audit_of(7)
    facts = read_pool_facts(make_pool(), describe(audit))
    assert facts.candidates == CANDIDATES
    assert facts.audit == json.loads(json.dumps(audit.to_dict()))
    assert facts.quality == json.loads(json.dumps(quality().to_dict()))
    assert json.loads(json.dumps(facts.to_dict()))["audit"]["all"]["images"] == 7


@pytest.mark.parametrize("audit", [audit_of(6), audit_of(7, findings=["copies"])])
def test_figures_of_another_pool_do_not_count(make_pool, describe, audit):
    facts = read_pool_facts(make_pool(), describe(audit))
    assert facts.audit == {"unsafe_to_publish": False, "reasons": []} and facts.quality is None


def test_without_figures_the_pool_still_says_that_it_is_unsafe(make_pool, tmp_path):
    facts = read_pool_facts(make_pool(reasons=["all images: copies"]), tmp_path / "none")
    assert facts.audit == {"unsafe_to_publish": True, "reasons": ["all images: copies"]}


def test_a_pool_made_by_other_means_leaves_everything_empty(make_pool, tmp_path):
    assert read_pool_facts(make_pool(bare=True), tmp_path / "none") == PoolFacts()


def test_a_changed_rejected_image_is_refused(make_pool, tmp_path):
    pool = make_pool()
    path = pool.root / "rejected" / "b" / "copy-0.png"
    path.write_bytes(storage.png_bytes(picture(200)))
    with pytest.raises(DamagedError, match="rejected image") as caught:
        read_pool_facts(pool, tmp_path / "none")
    assert caught.value.where == str(path)
