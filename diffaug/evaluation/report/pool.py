"""What the report shows of a pool, read from the pool's folder and its figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from diffaug.files import storage
from diffaug.files.records import read_record
from diffaug.synthesis.audit.memorization import POOL_AUDIT, PoolAudit
from diffaug.synthesis.audit.quality import POOL_QUALITY, QUALITY, PoolQuality
from diffaug.synthesis.filters.power import PoolPower
from diffaug.synthesis.pool.origins import CROSSED, TRANSPLANT, VARIATION
from diffaug.synthesis.pool.pool import AUDIT, ClassSummary, Pool, PublicationCheck

PAIRS_PER_CLASS = 4
SAMPLES_PER_REASON = 24
ORIGINS_IN_WORDS = {
    VARIATION: "variation of a real image",
    TRANSPLANT: "painted into a real image of another class",
    CROSSED: "variation of a real image of another class",
}
PAIR_COLUMNS = {"file": "synthetic", "nearest_distance": "distance", "copy_ratio": "ratio"}


@dataclass(frozen=True)
class Pair:
    """A synthetic image, by its file, and the training image that is most similar to it, by its id.

    Attributes:
        origin: See `synthesis.pool.origins`.
        distance: Between the two after registration, 0 (no difference) to 2.
        ratio: That distance over the one to the next training image, in [0, 1]; near 0 for a copy.
    """

    synthetic: str
    nearest: str
    origin: str
    distance: float
    ratio: float


_PAIRS = TypeAdapter(list[Pair])


@dataclass(frozen=True)
class RejectedSample:
    """A candidate made for the class `label`, with the name of the first filter that rejected it."""

    file: str
    label: str
    reason: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class PoolOverview:
    """What is known about a pool beside its images; what is not known is empty or None.

    Attributes:
        pairs: Per class with images, the few nearest to a training image, the nearest first.
        rejected: A few rejected candidates per reason, the classes in turn.
        publication: Reasons against publishing the pool, and what was checked. None: not audited.
    """

    pairs: Mapping[str, Sequence[Pair]] = field(default_factory=dict)
    rejected: Sequence[RejectedSample] = ()
    summaries: Mapping[str, ClassSummary] = field(default_factory=dict)
    publication: PublicationCheck | None = None
    audit: PoolAudit | None = None
    quality: PoolQuality | None = None
    power: PoolPower | None = None

    @classmethod
    def read(cls, pool: Pool, folder: Path) -> Self:
        """Reads everything; the folder `Study.pool_report`, of its quality and audit, need not exist."""
        check = pool.publication_check
        described = storage.committed_metadata(folder) is not None
        audit = read_record(folder / AUDIT, POOL_AUDIT) if described else None
        if audit and (audit.overall.images != len(pool.whole) or audit.reasons != pool.unsafe_to_publish):
            audit = None  # of an earlier or a later pool
        quality = read_record(folder / QUALITY, POOL_QUALITY) if audit else None
        return cls(_closest_pairs(pool), _rejected_samples(pool), pool.summaries, check, audit, quality, pool.power)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with images named by their files."""
        content = asdict(self)
        for sample in content["rejected"]:
            del sample["pixels"]
        return content


def _closest_pairs(pool: Pool) -> dict[str, list[Pair]]:
    if not {"nearest", *PAIR_COLUMNS} <= set(pool.manifest.columns):
        return {}
    ordered = pool.manifest.rename(columns=PAIR_COLUMNS).sort_values("distance", kind="stable")
    closest = ordered.groupby("label").head(PAIRS_PER_CLASS).groupby("label")
    return {str(label): _PAIRS.validate_python(rows.to_dict("records")) for label, rows in closest}


def _rejected_samples(pool: Pool) -> tuple[RejectedSample, ...]:
    if pool.rejected is None:
        return ()
    kept = pool.rejected[pool.rejected["file"] != ""]
    kept = kept.assign(turn=kept.groupby(["reason", "class_index"]).cumcount())
    kept = kept.sort_values(["reason", "turn", "class_index"], kind="stable")
    chosen = kept.groupby("reason").head(SAMPLES_PER_REASON)[["file", "label", "reason", "sha256"]].astype(str)
    shape = (*pool.image_size, pool.channels)
    return tuple(
        RejectedSample(file, label, reason, storage.read_png(storage.safe_join(pool.root, file), sha256, shape))
        for file, label, reason, sha256 in chosen.to_numpy()
    )
