import json

import numpy as np
import pandas as pd
import pytest

from diffaug.errors import DamagedError
from diffaug.evaluation.report.pool import PAIRS_PER_CLASS, SAMPLES_PER_REASON, Pair, PoolOverview
from diffaug.files import storage
from diffaug.files.records import write_record
from diffaug.similarity.intervals import Share
from diffaug.synthesis.audit.memorization import Audit, PoolAudit
from diffaug.synthesis.audit.quality import POOL_QUALITY, ClassQuality, PoolQuality
from diffaug.synthesis.pool.pool import AUDIT, MANIFEST, REJECTED, SUMMARY, ClassSummary, Pool, PublicationCheck

CLASSES = ("a", "b", "empty")
DISTANCES = {"a": [0.5, 0.1, 0.4, 0.2, 0.3, 0.6], "b": [0.9]}
CANDIDATES = {"a": {"wanted": 6, "accepted": 6, "candidates": 90, "rejected": {"wrong class": 30, "copy": 30}}}


def picture(value):
    return np.full((4, 4, 1), value, np.uint8)


def row(folder, file, label, number, **columns):
    """A line of a table about an image, which is written if it has a file."""
    content = storage.png_bytes(picture(number))
    if file:
        storage.write_bytes(folder / file, content)
    sha256 = storage.sha256_bytes(content)
    return {"file": file, "label": label, "class_index": CLASSES.index(label), "sha256": sha256, **columns}


def rows_of_manifest(folder):
    for label, distances in DISTANCES.items():
        for number, distance in enumerate(distances):
            nearest = {"nearest": f"train/{number}.png", "nearest_distance": np.float32(distance)}
            origin = {"origin": "variation" if number == 1 else "sampled", "copy_ratio": np.float32(distance / 2)}
            yield row(folder, f"images/{label}/{number}.png", label, number, **nearest, **origin)


def rows_of_rejected(folder):
    reasons = [("a", "wrong class", 30), ("b", "wrong class", 2), ("a", "copy", 3), ("b", "copy", 1)]
    for label, reason, count in reasons:
        for number in range(count):
            file = f"rejected/{label}/{reason}-{number}.png" if number < 25 else ""
            yield row(folder, file, label, number, reason=reason)


def audit_of(images, copies=0):
    return PoolAudit(Audit(images, Share(copies, 36)), {"a": Audit(6, Share(0, 0))}, {}, ("not compared: b",))


QUALITY = PoolQuality("pixels", {name: ClassQuality(5, 6, kid=0.1) for name in CLASSES})


@pytest.fixture
def read(tmp_path):
    """Writes a pool, or only the parts of one made by other means, and reads its overview."""

    def read(*, bare=False, reasons=(), audit=None, changed=None):
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
        if audit:
            with storage.new_directory(tmp_path / "pool-report", {}) as staging:
                audit.save(staging / "audit.json")
                write_record(staging / "quality.json", POOL_QUALITY, QUALITY)
        pool = Pool.open(root)
        if changed:
            (root / changed).write_bytes(storage.png_bytes(picture(200)))
        return PoolOverview.read(pool, tmp_path / "pool-report")

    return read


def test_the_closest_pairs_of_each_class(read):
    pairs = read().pairs
    assert pairs.keys() == DISTANCES.keys()
    closest = [np.float32(distance) for distance in sorted(DISTANCES["a"])[:PAIRS_PER_CLASS]]
    assert [pair.distance for pair in pairs["a"]] == closest
    assert pairs["a"][0] == Pair("images/a/1.png", "train/1.png", "variation", closest[0], np.float32(0.05))


def test_rejected_samples_of_each_reason_take_turns_over_classes(read):
    samples = read().rejected
    labels = {reason: [s.label for s in samples if s.reason == reason] for reason in ("copy", "wrong class")}
    assert labels == {"copy": [*"abaa"], "wrong class": [*"abab", *"a" * (SAMPLES_PER_REASON - 4)]}
    assert len(samples) == len({s.file for s in samples}) == 4 + SAMPLES_PER_REASON
    for sample in samples:
        number = int(sample.file.rpartition("-")[2].removesuffix(".png"))
        assert np.array_equal(sample.pixels, picture(number))


def test_summaries_audit_and_quality_are_as_written(read):
    overview = read(audit=audit_of(7))
    assert overview.summaries == {"a": ClassSummary(**CANDIDATES["a"])}
    found = (overview.publication, overview.audit, overview.quality, overview.power)
    assert found == (PublicationCheck(False, ()), audit_of(7), QUALITY, None)
    content = json.loads(json.dumps(overview.to_dict()))
    assert content["audit"]["overall"]["images"] == 7
    assert set(content["rejected"][0]) == {"file", "label", "reason"}


@pytest.mark.parametrize(
    ("audit", "reasons"), [(None, ("all images: copies",)), (audit_of(6), ()), (audit_of(7, copies=30), ())]
)
def test_without_figures_of_this_very_pool_only_its_reasons_count(read, audit, reasons):
    overview = read(audit=audit, reasons=reasons)
    assert (overview.publication.reasons, overview.audit, overview.quality) == (reasons, None, None)


def test_a_pool_made_by_other_means_leaves_everything_empty(read):
    assert read(bare=True) == PoolOverview()


def test_a_changed_rejected_image_is_refused(read):
    with pytest.raises(DamagedError, match="was changed after") as caught:
        read(changed="rejected/b/copy-0.png")
    assert caught.value.where.endswith("copy-0.png")
