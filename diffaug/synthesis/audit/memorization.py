"""Tests per class, by three measures, whether a generator repeats its training images; none is a guarantee."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from diffaug.files import storage
from diffaug.similarity.distances import (
    MIN_HELD_OUT,
    Described,
    Distances,
    Labels,
    compare_distances,
    distance_ratio,
    nearest_ratios,
)
from diffaug.similarity.intervals import Estimate, Share
from diffaug.similarity.thresholds import COPY_LIMIT
from diffaug.synthesis.audit.membership import MembershipErrors
from diffaug.synthesis.pool.origins import TRANSPLANT


@dataclass(frozen=True)
class AuditLimits:
    """Values that a 95 % interval must lie beyond to mark a pool as unsafe, so that chance alone rarely does."""

    copies: float = COPY_LIMIT  # a fraction
    distance_ratio: float = 0.8  # at most 1 % of generators of the true distribution came out below it
    membership: float = 0.6  # area under the ROC curve


LIMITS = AuditLimits()
CHECKS = ("copies among candidates", "distance to training images", "membership")


@dataclass(frozen=True)
class CheckedCandidates:
    """Whether each of N candidates was found to be a copy of a training image, its class, and its origin."""

    copied: NDArray[np.bool_]
    labels: Labels
    origins: NDArray[np.str_]


@dataclass(frozen=True)
class Audit:
    """The measures for one class, one origin or the whole pool.

    `copies` counts all candidates. The copy filter keeps copies out of the pool, but a generator that makes them also
    makes images that are nearly as close. `nearest_ratio` is the median of `nearest_ratios` over the images.
    """

    images: int
    copies: Share
    nearest_ratio: float | None = None
    distance_ratio: Estimate | None = None
    membership: Estimate | None = None

    @property
    def figures(self) -> dict[str, float]:
        """The measured figures by name, with the ends of the intervals that decide."""
        figures = {} if self.nearest_ratio is None else {"nearest_ratio": self.nearest_ratio}
        if self.copies.total:
            figures |= {"copy_share": self.copies.value, "copy_share_low": self.copies.interval[0]}
        if self.distance_ratio:
            figures |= {"distance_ratio": self.distance_ratio.value, "distance_ratio_high": self.distance_ratio.high}
        if self.membership:
            figures |= {"membership": self.membership.value, "membership_low": self.membership.low}
        return figures

    @property
    def findings(self) -> tuple[str, ...]:
        """Reasons against publishing, in sentences; empty if no measure lies beyond its limit."""
        low, high = self.copies.interval
        texts = []
        if low > LIMITS.copies:
            texts.append(
                f"{self.copies.count} of {self.copies.total} candidates are copies of training images "
                f"({self.copies.value:.0%}, 95 % interval {low:.0%} to {high:.0%}; limit {LIMITS.copies:.0%})"
            )
        if self.distance_ratio and self.distance_ratio.high < LIMITS.distance_ratio:
            texts.append(
                "synthetic images are closer to trained images than images never trained on "
                f"({_formatted(self.distance_ratio)} of the distance; limit {LIMITS.distance_ratio})"
            )
        if self.membership and self.membership.low > LIMITS.membership:
            texts.append(
                "the denoising error separates trained from held-out images "
                f"(area under the ROC curve {_formatted(self.membership)}; limit {LIMITS.membership})"
            )
        return tuple(texts)


def _formatted(estimate: Estimate) -> str:
    return f"{estimate.value:.2f}, 95 % interval {estimate.low:.2f} to {estimate.high:.2f}"


@dataclass(frozen=True)
class PoolAudit:
    """The audit of a pool: of all images, and of each class and each origin by name.

    Origins are audited if there are several: variations of real images are closer to them. `notes` are sentences about
    what could not be measured.
    """

    overall: Audit
    classes: dict[str, Audit]
    origins: dict[str, Audit]
    notes: tuple[str, ...] = ()
    limits: AuditLimits = LIMITS

    def _parts(self, origin: str, label: str) -> dict[str, Audit]:
        parts = {origin.format(name): audit for name, audit in self.origins.items()}
        return parts | {label.format(name): audit for name, audit in self.classes.items()}

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons against publishing the pool, in sentences."""
        parts = {"all images": self.overall, **self._parts("origin '{}'", "class '{}'")}
        found = tuple(f"{part}: {text}" for part, audit in parts.items() for text in audit.findings)
        painted = self.origins[TRANSPLANT].images if TRANSPLANT in self.origins else 0
        text = f"{painted} images are transplants: all around the painted object each is a training image"
        return (*found, text) if painted else found

    @property
    def unsafe_to_publish(self) -> bool:
        """Whether the pool, as a whole or in part, was found to repeat training images."""
        return bool(self.reasons)

    @property
    def checks(self) -> dict[str, bool]:
        """Whether each measure could be taken for the pool as a whole, by name."""
        found = self.overall
        made = (found.copies.total > 0, found.distance_ratio is not None, found.membership is not None)
        return dict(zip(CHECKS, made, strict=True))

    @property
    def metrics(self) -> dict[str, float]:
        """The measured figures, named measure or measure/part."""
        figures = {"unsafe_to_publish": float(self.unsafe_to_publish)}
        for suffix, audit in {"": self.overall, **self._parts("/origin {}", "/{}")}.items():
            figures |= {f"{name}{suffix}": value for name, value in audit.figures.items()}
        return figures

    def save(self, path: Path) -> None:
        """Writes the audit and its conclusion as JSON."""
        conclusion = {"unsafe_to_publish": self.unsafe_to_publish, "reasons": list(self.reasons)}
        storage.write_json(path, {**conclusion, **POOL_AUDIT.dump_python(self, mode="json")})


POOL_AUDIT = TypeAdapter(PoolAudit)


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
    """Audits the images of a pool and their origins.

    `held` are the images held out from the training of the generator, and may be empty. `errors` is None if denoising
    errors were not measured. The seed is that of the bootstrap.
    """
    near, origin_of = nearest_ratios(samples, trained), np.array(origins, dtype=str)
    distances = [
        compare_distances(samples.of_class(index), trained.of_class(index), held.of_class(index))
        for index in range(len(classes))
    ]

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

    names = sorted({*origin_of.tolist(), *candidates.origins.tolist()})
    return PoolAudit(
        overall=audit(samples.labels >= 0, candidates.labels >= 0, errors.score() if errors else None),
        classes={
            name: audit(samples.labels == index, candidates.labels == index, errors.score(index) if errors else None)
            for index, name in enumerate(classes)
        },
        origins={
            name: audit(origin_of == name, candidates.origins == name)
            for name in names
            if len(names) > 1 or name == TRANSPLANT
        },
        notes=_notes(dict(zip(classes, distances, strict=True)), errors),
    )


def _notes(distances: Mapping[str, Distances | None], errors: MembershipErrors | None) -> tuple[str, ...]:
    notes = []
    missing = [name for name, of_class in distances.items() if of_class is None]
    if missing:
        notes.append(
            f"not compared with held-out images, because there are fewer than {MIN_HELD_OUT} groups of them: "
            f"{', '.join(missing)}"
        )
    if errors is None or errors.score() is None:
        notes.append("no membership score, because the generator held out no training image")
    return tuple(notes)
