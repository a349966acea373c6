"""The review of a pool by people, on a page that an entry point brings along."""

from __future__ import annotations

import getpass
import re
import shlex
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Protocol

from diffaug.data.catalog import Catalog
from diffaug.errors import MissingExtraError
from diffaug.files.temporaries import remove_leftovers
from diffaug.stages.job import Job
from diffaug.stages.remedies import telling_remedies
from diffaug.study import Study
from diffaug.synthesis.pool.pool import Pool
from diffaug.synthesis.review.review import Review
from diffaug.synthesis.review.summary import ReviewSummary

ENTRY_POINT_GROUP = "diffaug.review_pages"


class Page(Protocol):
    """Shows a review to people until someone ends it, such as by Ctrl-C."""

    def __call__(self, review: Review, *, port: int | None, browser: bool, say: Callable[[str], None]) -> None:
        """Serves the page on this machine alone, at a port that is free if none is given; `say` reports a line."""


def review_study(study: Study, *, port: int | None, browser: bool, say: Callable[[str], None]) -> ReviewSummary:
    """Lets people review the pool of a study until they end it; returns what is decided then.

    Raises:
        UsageError: There is no finished pool, or the port is in use.
        DataError: The file of the review was edited into something else.
        MissingExtraError: What serves the page is not installed.
    """
    page = _page()
    with telling_remedies(study):
        remove_leftovers(study.path.glob(".*.tmp"))
        review = Review.of(study.name, _user(), Catalog.load(study.catalog), Pool.open(study.pool))
    page(review, port=port, browser=browser, say=say)
    return review.summary()


def tell_review(job: Job, pool: Pool) -> None:
    """Reports what reviewers have decided, if they have."""
    for sentence in ReviewSummary.of(pool).sentences():
        job.narrator.say(f"review: {sentence} ({shlex.quote(str(job.study.review))})")


def _page() -> Page:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        page: Page = point.load()
        return page
    raise MissingExtraError("no page for reviews is installed", fix="pip install --force-reinstall 'diffaug[review]'")


def _user() -> str:
    """The name of the user of this machine, as far as it is one that a reviewer can have."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = ""
    return re.sub(r"[^\w .@-]|^\W+", "", name)[:60] or "reviewer"
