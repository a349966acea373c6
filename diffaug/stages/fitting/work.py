"""What a route is given to train on, and the clock that it is trained by."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diffaug.data.catalog import Catalog
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.training.batches import Holdout, UnlabeledPart
from diffaug.stages.fitting.sources import unlabeled_part
from diffaug.stages.job import Job


class Clock:
    """The time that a fit takes, in all its runs."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._began

    def resume_at(self, seconds: float) -> None:
        """Counts what earlier runs took."""
        self._began = min(self._began, time.monotonic() - seconds)


@dataclass(frozen=True)
class Work:
    """One training of a generator: that of the pilot, or the one on all images. Every process has the same."""

    job: Job  # of the study, whose run "fit" the training is logged in
    catalog: Catalog  # the images; of the pilot without the judged ones
    # the images in two parts. Those held out are measured on: by the pilot the judged images, in an order whose
    # beginnings are balanced, else those that detect memorization
    holdout: Holdout
    plan: Plan  # of this training. `seconds` is the deadline on the clock, None if there is none
    folder: Path  # where the generator is written, and all that is needed to resume. The caller commits it
    clock: Clock  # of the whole fit, pilot included
    title: str = ""  # names the training in progress and metrics; empty for the one on all images, else `PILOT`
    finish: bool = False  # whether a training that was begun ends where it is
    images_after: int = 0  # images that another training is expected to see after this one

    @property
    def is_pilot(self) -> bool:
        """Whether this is the pilot, which writes the length that it chose to `LENGTH`, if it chooses one."""
        return bool(self.title)

    def deadline(self, share: float) -> float | None:
        """When a first network of several must be trained that gets this share of the work's time; on the clock.

        It does not depend on when the work was resumed. None if there is no deadline.
        """
        if self.plan.seconds is None:
            return None
        began = self.plan.length.seconds if self.plan.length else 0.0
        return began + share * max(0.0, self.plan.seconds - began)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in index order."""
        return self.holdout.trained.classes

    @cached_property
    def unlabeled(self) -> UnlabeledPart | None:
        """The unlabeled images as the plan wants them. All processes must ask for them."""
        return unlabeled_part(self.job, self.plan, self.holdout, self.folder)
