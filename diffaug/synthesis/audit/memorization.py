"""Whether a generator repeats its training images, class by class, from three sides.

Copies among what it made; how near the pool comes to trained images compared with images held out from training;
and whether its denoising error tells trained from held-out images. No figure here is a guarantee: a pool that is not
flagged was not seen to repeat images by these measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.similarity.distances import (
    MIN_HELD_OUT,
    Described,
    Distances,
    Labels,
    compare_distances,
    distance_ratio,
    nearest_ratios,
)
from diffaug.similarity.intervals import Estimate
from diffaug.similarity.ratios import Share
from diffaug.synthesis.audit.membership import MembershipErrors

COPY_LIMIT = 0.05
DISTANCE_LIMIT = 0.8
MEMBERSHIP_LIMIT = 0.6


@dataclass(frozen=True)
class CheckedCandidates:
    """Candidates that a detector of copies had a say on.

    Attributes:
        copied: Whether each was found to be a copy of a training image, bool (N,).
        labels: Classes they were made for, int64 (N,).
        origins: Where they came from, N names.
    """

    copied: NDArray[np.bool_]
    labels: Labels
    origins: NDArray[np.str_]


@dataclass(frozen=True)
class Audit:
    """What was seen of a class, of an origin, or of the whole pool.

    Attributes:
        images: Images of the pool.
        copies: Copies of training images among all candidates. The filter for copies keeps them out of the pool, but
            what makes them makes others that are only nearly as near.
        nearest_ratio: Median over the images of `nearest_ratios`.
        distance_ratio: See `distance_ratio`.
        membership: See `MembershipErrors.score`.
    """

    images: int
    copies: Share
    nearest_ratio: float | None = None
    distance_ratio: Estimate | None = None
    membership: Estimate | None = None

    @property
    def figures(self) -> dict[str, float]:
        """The figures there are, by name, with the ends of the intervals that decide."""
        figures: dict[str, float | None] = {"nearest_ratio": self.nearest_ratio}
        if self.copies.total:
            figures |= {"copy_share": self.copies.value, "copy_share_low": self.copies.interval[0]}
        if self.distance_ratio:
            figures |= {"distance_ratio": self.distance_ratio.value, "distance_ratio_high": self.distance_ratio.high}
        if self.membership:
            figures |= {"membership": self.membership.value, "membership_low": self.membership.low}
        return {name: value for name, value in figures.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """JSON-like."""
        copies = {**asdict(self.copies), "share": self.copies.value, "interval": self.copies.interval}
        estimates = {
            name: estimate._asdict() if estimate else None
            for name, estimate in (("distance_ratio", self.distance_ratio), ("membership", self.membership))
        }
        return {"images": self.images, "copies": copies, "nearest_ratio": self.nearest_ratio, **estimates}

    @property
    def findings(self) -> tuple[str, ...]:
        """Why what was audited is not to be published, in sentences; nothing where no measure surely passes its limit.

        Copies above 5 %, where a training ends too: a detector that finds 95 % of them then leaves one in 400 images.
        A distance ratio below 0.8: of generators of the true distribution in 2 to 64 dimensions, with 5 to 30 of 100
        to 500 images held out, 0 to 1 % came out so. A membership score above 0.6: a guess right in three cases
        out of five. Each limit lies outside the 95 % interval, so that chance alone seldom raises a flag.
        """
        low, high = self.copies.interval
        texts = []
        if low > COPY_LIMIT:
            texts.append(
                f"{self.copies.count} of {self.copies.total} candidates are copies of training images "
                f"({self.copies.value:.0%}, 95 % interval {low:.0%} to {high:.0%}; limit {COPY_LIMIT:.0%})"
            )
        if self.distance_ratio and self.distance_ratio.high < DISTANCE_LIMIT:
            texts.append(
                "synthetic images lie nearer to trained images than images never trained on do "
                f"({_said(self.distance_ratio)} of the distance; limit {DISTANCE_LIMIT})"
            )
        if self.membership and self.membership.low > MEMBERSHIP_LIMIT:
            texts.append(
                "the denoising error tells trained from held-out images "
                f"(area under the ROC curve {_said(self.membership)}; limit {MEMBERSHIP_LIMIT})"
            )
        return tuple(texts)


def _said(estimate: Estimate) -> str:
    return f"{estimate.value:.2f}, 95 % interval {estimate.low:.2f} to {estimate.high:.2f}"


@dataclass(frozen=True)
class PoolAudit:
    """The audit of a pool.

    Attributes:
        whole: Of all images.
        classes: Of each class, by name.
        origins: Of each origin, by name, where there are several: variations of real images lie nearer to them.
        notes: What could not be measured, in sentences.
    """

    whole: Audit
    classes: dict[str, Audit]
    origins: dict[str, Audit]
    notes: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the pool is unsafe to publish, in sentences."""
        parts = {"all images": self.whole}
        parts |= {f"origin '{name}'": audit for name, audit in self.origins.items()}
        parts |= {f"class '{name}'": audit for name, audit in self.classes.items()}
        return tuple(f"{part}: {text}" for part, audit in parts.items() for text in audit.findings)

    @property
    def unsafe_to_publish(self) -> bool:
        """Whether the pool, as a whole or in part, was seen to repeat training images."""
        return bool(self.reasons)

    @property
    def metrics(self) -> dict[str, float]:
        """The figures there are, as measure or measure/part."""
        figures = {"unsafe_to_publish": float(self.unsafe_to_publish)}
        parts = {"": self.whole}
        parts |= {f"/origin {name}": audit for name, audit in self.origins.items()}
        parts |= {f"/{name}": audit for name, audit in self.classes.items()}
        for suffix, audit in parts.items():
            figures |= {f"{name}{suffix}": value for name, value in audit.figures.items()}
        return figures

    def to_dict(self) -> dict[str, Any]:
        """JSON-like."""
        return {
            "unsafe_to_publish": self.unsafe_to_publish,
            "reasons": list(self.reasons),
            "limits": {"copies": COPY_LIMIT, "distance_ratio": DISTANCE_LIMIT, "membership": MEMBERSHIP_LIMIT},
            "notes": list(self.notes),
            "all": self.whole.to_dict(),
            "origins": {name: audit.to_dict() for name, audit in self.origins.items()},
            "classes": {name: audit.to_dict() for name, audit in self.classes.items()},
        }


def audit_pool(
    samples: Described,
    origins: Sequence[str],
    candidates: CheckedCandidates,
    *,
    trained: Described,
    held: Described,
    errors: MembershipErrors | None,
    classes: Sequence[str],
    seed: int,
) -> PoolAudit:
    """Audits a pool.

    Args:
        samples: Its images.
        origins: Where each came from, M names.
        candidates: What the detector of copies said of all that was generated.
        trained: The images that the generator was trained on.
        held: Those of the same kind that it was not; may be none.
        errors: Their denoising errors; none: not measured.
        classes: Names of the classes.
        seed: Of the bootstrap.
    """
    near, come_from = nearest_ratios(samples, trained), np.array(origins, dtype=str)
    distances = [_distances_of(index, samples, trained, held) for index in range(len(classes))]

    def audit(chosen: NDArray[np.bool_], checked: NDArray[np.bool_], membership: Estimate | None = None) -> Audit:
        compared = [
            Distances(of_class.samples[chosen[samples.labels == index]], of_class.held)
            for index, of_class in enumerate(distances)
            if of_class
        ]
        return Audit(
            images=int(chosen.sum()),
            copies=Share(int(candidates.copied[checked].sum()), int(checked.sum())),
            nearest_ratio=float(np.median(near[chosen])) if chosen.any() else None,
            distance_ratio=distance_ratio(compared, seed=seed),
            membership=membership,
        )

    names = sorted({*come_from.tolist(), *candidates.origins.tolist()})
    return PoolAudit(
        whole=audit(samples.labels >= 0, candidates.labels >= 0, errors.score() if errors else None),
        classes={
            name: audit(samples.labels == index, candidates.labels == index, errors.score(index) if errors else None)
            for index, name in enumerate(classes)
        },
        origins={name: audit(come_from == name, candidates.origins == name) for name in names if len(names) > 1},
        notes=_notes(classes, distances, errors),
    )


def _distances_of(index: int, samples: Described, trained: Described, held: Described) -> Distances | None:
    return compare_distances(samples.of_class(index), trained.of_class(index), held.of_class(index))


def _notes(
    classes: Sequence[str], distances: Sequence[Distances | None], errors: MembershipErrors | None
) -> tuple[str, ...]:
    notes = []
    blank = [name for name, of_class in zip(classes, distances, strict=True) if of_class is None]
    if blank:
        notes.append(
            f"not compared with held-out images, fewer than {MIN_HELD_OUT} of which (groups count once) there are: "
            f"{', '.join(blank)}"
        )
    if errors is None or errors.score() is None:
        notes.append("no membership score: the generator says of no image that it was held out from training")
    return tuple(notes)
