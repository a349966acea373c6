"""What the reviewers of a pool have decided so far, in figures and in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from diffaug.data.layouts.entries import listed
from diffaug.files import storage
from diffaug.synthesis.decisions import ReviewFile, judgments
from diffaug.synthesis.pool.pool import MANIFEST, Pool


@dataclass(frozen=True)
class ReviewSummary:
    """The state of a review.

    Attributes:
        images: In the pool.
        reviewed: Of these, those that someone accepts or rejects.
        rejected: Of these, those that are left out, since someone rejects them.
        disputed: Those that one reviewer accepts and another one rejects.
        gone: Images with a decision that are not in the pool, such as those of an older one.
        reviewers: Who decided, by name.
    """

    images: int
    reviewed: int
    rejected: int
    disputed: int
    gone: int
    reviewers: tuple[str, ...]

    @classmethod
    def of(cls, pool: Pool) -> Self:
        """The decisions as they are on the disk now."""
        decisions, keys = ReviewFile(pool.root).read(), pool.whole.image_keys
        found, known = judgments(decisions), set(keys)
        here = [set(by_reviewer.values()) for key, by_reviewer in found.items() if key in known]
        return cls(
            images=len(keys),
            reviewed=len(here),
            rejected=sum("reject" in judged for judged in here),
            disputed=sum(len(judged) > 1 for judged in here),
            gone=len(found) - len(here),
            reviewers=tuple(sorted({decision.reviewer for decision in decisions})),
        )

    def sentences(self) -> list[str]:
        """What a person should know; nothing if nobody has decided anything."""
        if not self.reviewers:
            return []
        reviewed = f"{self.reviewed} of {self.images} synthetic images reviewed ({listed(self.reviewers)})"
        said = [f"{reviewed}, {self.rejected} rejected and left out"]
        said += [f"images that reviewers disagree about, left out: {self.disputed}"] if self.disputed else []
        said += [f"reviewed images that are not in this pool: {self.gone}"] if self.gone else []
        return said


def pool_fingerprint(pool: Pool) -> str:
    """Changes with the images of a pool, and with those of them that a reviewer rejects."""
    manifest = storage.sha256_file(pool.root / MANIFEST)
    rejected = pool.rejected_by_review.intersection(pool.whole.image_keys) if pool.rejected_by_review else ()
    return storage.fingerprint([manifest, sorted(rejected)]) if rejected else manifest
