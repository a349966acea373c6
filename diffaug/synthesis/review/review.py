"""A review in progress: what a page shows to reviewers and does for them."""

from __future__ import annotations

from dataclasses import dataclass

from diffaug.data.catalog import Catalog
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.synthesis.decisions import ImageKey, Judgment, ReviewFile, judgments
from diffaug.synthesis.pool.pool import Pool
from diffaug.synthesis.review.gallery import Gallery, ReviewedClass, Show, SyntheticImage
from diffaug.synthesis.review.summary import ReviewSummary


@dataclass(frozen=True)
class Review:
    """The images of one study and the decisions about them, which are on the disk at once.

    Attributes:
        reviewer: Who probably reviews, by name.
        record: What tells the pool from one that is made anew meanwhile.
    """

    study: str
    reviewer: str
    gallery: Gallery
    file: ReviewFile
    record: tuple[int, int]

    @classmethod
    def of(cls, study: str, reviewer: str, catalog: Catalog, pool: Pool) -> Review:
        """The review of a pool; raises what the first decision would."""
        file = ReviewFile(pool.root)
        file.require_writable()
        return cls(study, reviewer, Gallery(catalog, pool), file, _record_of(pool))

    def classes(self) -> list[ReviewedClass]:
        """The classes in order, with their numbers of images."""
        return self.gallery.counts(self._judged())

    def rows(self, class_index: int, reviewer: str, show: Show, order: str) -> list[int]:
        """Numbers of synthetic images; see `Gallery.rows`."""
        return self.gallery.rows(class_index, self._judged(), reviewer=reviewer, show=show, order=order)

    def images(self, numbers: list[int]) -> list[SyntheticImage]:
        """What is known of some synthetic images."""
        for number in numbers:
            self._key(number)
        return self.gallery.describe(numbers, self._judged())

    def decide(self, number: int, reviewer: str, decision: Judgment) -> SyntheticImage:
        """Keeps a decision; returns the image as it is now."""
        self.file.add(reviewer, self._key(number), decision)
        return self.images([number])[0]

    def undo(self, number: int, reviewer: str) -> SyntheticImage:
        """Takes back the last decision of a reviewer about an image; returns the image as it is now."""
        self.file.withdraw(reviewer, self._key(number))
        return self.images([number])[0]

    def summary(self) -> ReviewSummary:
        """What is decided so far."""
        return ReviewSummary.of(self.gallery.pool)

    def _judged(self) -> dict[ImageKey, dict[str, Judgment]]:
        return judgments(self.file.read())

    def _key(self, number: int) -> ImageKey:
        if not 0 <= number < len(self.gallery.keys):
            raise UsageError(f"there is no image {number}", fix="load the page again")
        if _record_of(self.gallery.pool) != self.record:
            raise UsageError("the pool was made anew meanwhile", fix="end the review with Ctrl-C, and begin it again")
        return self.gallery.keys[number]


def _record_of(pool: Pool) -> tuple[int, int]:
    about = (pool.root / storage.DONE).stat()
    return about.st_ino, about.st_mtime_ns
