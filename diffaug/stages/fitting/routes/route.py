"""What every way to a generator can say and do."""

from __future__ import annotations

from typing import Protocol

from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.planning.planning import Plan
from diffaug.stages.fitting.work import Work
from diffaug.stages.job import Job


class Route(Protocol):
    """A way to a generator. It has no state; entry points of the group `diffaug.routes` name the class."""

    @property
    def name(self) -> str:
        """As in the setting `diffusion.route`."""

    def possible(self, job: Job, images: LabeledImages) -> str:
        """Empty if this route can be taken with these images here; else why not and how to fix it, in a sentence.

        It is asked for each route, so it takes milliseconds: it looks at settings and files and loads nothing.
        """

    def plan(self, job: Job, images: LabeledImages) -> Plan:
        """Decides everything except unlabeled images, speed and length.

        `Plan.unet` is None if the route trains no network of diffaug.
        """

    def images_per_second(self, job: Job, images: LabeledImages, plan: Plan) -> float:
        """Measures in some seconds how many images this process trains on per second; see `LASTING_SPEED`.

        Raises:
            RuntimeError: The plan says compiled, and the network can't be compiled.
        """

    def seconds_besides(self, job: Job, images: LabeledImages, plan: Plan) -> float:
        """What else it does in a training by a plan of set length, and in that of the pilot, takes at most; measured.

        All processes call it.
        """

    def untrained(self, job: Job, images: LabeledImages, plan: Plan) -> Generator:
        """A generator that samples as fast as a trained one."""

    def bytes_needed(self, plan: Plan) -> int:
        """About the most memory that the training needs beside the images, on its device."""

    def expectation(self, plan: Plan) -> str:
        """What the images will look like after `plan.images_seen`, as the end of "expect ..."."""

    def train(self, work: Work) -> None:
        """Trains a generator and writes its files into `work.folder`, which the caller commits.

        All processes call it; the main one writes. Called again after an interruption, it resumes; what it needs for
        that lies in folders that the caller removes after the commit, see `finish_training`. It ends by
        `work.plan.seconds` on the clock. For the pilot it may write the length that it chose, see `length.py`.

        Raises:
            Interrupted: A stop was requested; what is needed to resume was saved.
        """
