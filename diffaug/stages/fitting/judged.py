"""The judged images: training images that the pilot does not see, so that choices can be made on them."""

import numpy as np
from numpy.typing import NDArray

from diffaug.data.catalog import Catalog
from diffaug.data.splits import choose_holdout
from diffaug.diffusion.generator.warm_start import EarlierGenerator
from diffaug.diffusion.planning.length import PilotPlan
from diffaug.runtime.seeding import numpy_generator
from diffaug.stages.fitting.sources import shown_again
from diffaug.stages.job import Job

JUDGED_FRACTION, SMALLEST_PARTED, LEAST_JUDGED = 1 / 3, 6, 20
"""Of each class of 6 images or more, a third is judged; with fewer than 20 in all there is nothing to measure."""


def judged_images(catalog: Catalog, seed: int) -> NDArray[np.bool_]:
    """The training images that the pilot does not see, bool (N,): a third of each class, whole groups."""
    rows, groups = catalog.rows("train"), catalog.groups("train")
    return choose_holdout(rows, groups, fraction=JUDGED_FRACTION, smallest=SMALLEST_PARTED, seed=seed)


def possible_pilot(job: Job, catalog: Catalog) -> PilotPlan | str:
    """What a pilot would be trained on; or why there is none, in a sentence."""
    config = job.config
    if not config.advanced.pilot:
        return "no pilot, as set: the length is not chosen on images that it has not seen"
    if config.diffusion.images_seen and config.evaluation.synthetic_fraction is not None:
        return "no pilot: the length and the fraction of synthetic images are set, so there is nothing to choose"
    chosen = judged_images(catalog, config.seed)
    judged = int(chosen.sum())
    if config.diffusion.init:
        earlier, rows = EarlierGenerator.open(config.diffusion.init), catalog.rows("train")[chosen]
        is_same = rows["pixel_sha256"].isin(set(earlier.rows["pixel_sha256"])).any()
        if is_same or rows["path"].isin(shown_again(earlier, catalog, job, "train")).any():
            return "no pilot: the generator to continue from has seen the images that a pilot would be judged on"
    if judged < LEAST_JUDGED:
        return (
            f"no pilot: only {judged} images could be left out of a first training to choose the length on; "
            f"{LEAST_JUDGED} are needed, from classes of {SMALLEST_PARTED} images or more"
        )
    return PilotPlan(0, len(catalog.labels("train")) - judged, judged)


def in_turn_by_class(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """All positions (N,) in an order whose beginnings are balanced: one of each class, then another of each."""
    shuffled = numpy_generator(seed, "measured images").permutation(len(labels))
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own = shuffled[labels[shuffled] == label]
        rank[own] = np.arange(len(own))
    return np.lexsort((labels, rank)).astype(np.int64)
