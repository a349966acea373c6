"""What the report tells about a pool, read from what generating it left on the disk."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.synthesis.pool.pool import AUDIT, REJECTED, SUMMARY, Pool

PAIRS_PER_CLASS = 4
SAMPLES_PER_REASON = 24
QUALITY = "quality.json"
DISTANCE, RATIO = "nearest_distance", "copy_ratio"


@dataclass(frozen=True)
class Pair:
    """A synthetic image beside the training image that it is most like.

    Attributes:
        synthetic: The synthetic image's file in the pool.
        nearest: Id of the training image.
        origin: `sampled` from noise, or a `variation` of a real image.
        distance: Between the two once one is moved and scaled to fit the other, 0 (no difference) to 2.
        ratio: That distance over the one to the next training image, in [0, 1]; near 0 it is a copy.
    """

    synthetic: str
    nearest: str
    origin: str
    distance: float
    ratio: float


@dataclass(frozen=True)
class RejectedSample:
    """A candidate that the filters kept out of the pool.

    Attributes:
        file: Its file in the pool.
        label: The class it was made for.
        reason: Name of the first filter that rejected it.
        pixels: uint8 (H, W, C).
    """

    file: str
    label: str
    reason: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class PoolFacts:
    """What is known about a pool beside its images.

    Attributes:
        pairs: For each class with images, the few nearest to a training image, the nearest first.
        rejected: A few rejected candidates of each reason, of all classes in turn.
        candidates: For each class `wanted`, `accepted`, `candidates` and `rejected` (reason to number); empty: unknown.
        audit: Whether the generator repeats training images: `unsafe_to_publish`, `reasons`, and where it was kept,
            the figures of `PoolAudit.to_dict`; none: not audited.
        quality: `PoolQuality.to_dict`; none: not measured.
    """

    pairs: Mapping[str, Sequence[Pair]] = field(default_factory=dict)
    rejected: Sequence[RejectedSample] = ()
    candidates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    audit: Mapping[str, Any] | None = None
    quality: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-like, with images named by their files."""
        return {
            "pairs": {name: [asdict(pair) for pair in pairs] for name, pairs in self.pairs.items()},
            "rejected": [{"file": s.file, "label": s.label, "reason": s.reason} for s in self.rejected],
            "candidates": dict(self.candidates),
            "audit": self.audit,
            "quality": self.quality,
        }


def read_pool_facts(pool: Pool, described: Path) -> PoolFacts:
    """Reads everything; what a pool lacks, such as one made by other means, is left empty.

    Args:
        pool: The pool.
        described: The folder with its quality and audit figures, see `Study.pool_report`; need not exist.

    Raises:
        DamagedError: A file was changed since it was written.
    """
    figures = _described(pool, described)
    return PoolFacts(
        pairs=_closest_pairs(pool),
        rejected=_rejected_samples(pool),
        candidates=_json(pool.root / SUMMARY) or {},
        audit=figures[AUDIT] if figures else _json(pool.root / AUDIT),
        quality=figures[QUALITY] if figures else None,
    )


def _described(pool: Pool, folder: Path) -> dict[str, Any] | None:
    """The figures of this pool; a folder that tells of an earlier or a later pool does not count."""
    if storage.committed_facts(folder) is None:
        return None
    figures = {name: storage.read_json(folder / name) for name in (AUDIT, QUALITY)}
    of_this_pool = figures[AUDIT]["all"]["images"] == len(pool)
    return figures if of_this_pool and figures[AUDIT]["reasons"] == list(pool.unsafe_to_publish) else None


def _json(path: Path) -> Any:
    return storage.read_json(path) if path.is_file() else None


def _closest_pairs(pool: Pool) -> dict[str, tuple[Pair, ...]]:
    manifest = pool.manifest
    if not {"nearest", DISTANCE, RATIO} <= set(manifest.columns):
        return {}
    ordered = manifest.sort_values(DISTANCE, kind="stable")
    return {
        name: tuple(
            Pair(str(row["file"]), str(row["nearest"]), str(row["origin"]), float(row[DISTANCE]), float(row[RATIO]))
            for _, row in ordered[ordered["class_index"] == index].head(PAIRS_PER_CLASS).iterrows()
        )
        for index, name in enumerate(pool.classes)
        if (manifest["class_index"] == index).any()
    }


def _rejected_samples(pool: Pool) -> tuple[RejectedSample, ...]:
    path = pool.root / REJECTED
    if not path.is_file():
        return ()
    table = pd.read_parquet(io.BytesIO(path.read_bytes()))
    kept = table[table["file"] != ""]
    turns = kept.groupby(["reason", "class_index"]).cumcount()
    chosen = kept.assign(turn=turns).sort_values(["turn", "class_index"], kind="stable")
    chosen = chosen.groupby("reason", sort=True).head(SAMPLES_PER_REASON).sort_values("reason", kind="stable")
    columns = (chosen[name].astype(str) for name in ("file", "label", "reason", "sha256"))
    return tuple(_rejected_sample(pool, *row) for row in zip(*columns, strict=True))


def _rejected_sample(pool: Pool, file: str, label: str, reason: str, sha256: str) -> RejectedSample:
    path = storage.safe_join(pool.root, file)
    content = path.read_bytes() if path.is_file() else b""
    if storage.sha256_bytes(content) != sha256:
        raise DamagedError("a rejected image of the pool is missing or was changed", where=path, fix=storage.MEND)
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image, dtype=np.uint8).reshape(*pool.image_size, pool.channels)
    return RejectedSample(file, label, reason, pixels)
