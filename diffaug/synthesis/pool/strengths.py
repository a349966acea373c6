"""Chooses per class how strongly real images are varied: such that variations show the class, and not the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import TypeAdapter

from diffaug.diffusion.generator.usual import Strength
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.runtime.parallel import Progress
from diffaug.runtime.seeding import numpy_generator
from diffaug.similarity.intervals import Share
from diffaug.synthesis.filters.scores import COPY, WRONG_CLASS
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.origins import VARIATION

TRIED_IMAGES = 16

LEAST_KEPT = 0.8
"""Share of the trial variations of recognized images that must show the class: a convention."""

MOST_COPIES = 0.25
"""Share of the trial variations that may be copies, which the filter rejects later: a convention."""


@dataclass(frozen=True)
class TriedStrength:
    """Variations of a class at one strength.

    Attributes:
        strength: The range that it is the middle of.
        kept: Of the variations whose source the filters' classifiers recognize, those that they still recognize. Each
            is judged by the classifier that was not trained on the source.
        copies: The variations that are copies of training images.
    """

    strength: Strength
    kept: Share
    copies: Share

    @property
    def loses_class(self) -> bool:
        """Whether too many do not show the class; what can't be measured is no reason against a strength."""
        return bool(self.kept.total) and self.kept.value < LEAST_KEPT

    @property
    def is_good(self) -> bool:
        """Whether variations of this strength are worth making."""
        return not self.loses_class and self.copies.value <= MOST_COPIES


@dataclass(frozen=True)
class ChosenStrength:
    """The strength of the variations of one class, None if it gets none, and what was tried."""

    strength: Strength | None
    tried: tuple[TriedStrength, ...]


CHOSEN_STRENGTHS = TypeAdapter(dict[str, ChosenStrength])


def choose_strengths(
    maker: ChunkMaker, *, copied: Sequence[str] = (), progress: Progress = lambda done, total: None
) -> dict[str, ChosenStrength]:
    """Chooses the strength of variations per class, by name, on a few variations of training images.

    Another strength is tried only where the usual one fails: the next weaker one where the class is lost, the next
    stronger one where images are repeated, and so on. Classes of `copied`, whose samples repeat training images, begin
    with the strongest one. What the filters `wrong class` and `copy` would say counts only if they are enabled; without
    both nothing is chosen.
    """
    if not {WRONG_CLASS, COPY} & set(maker.settings.filters):
        return {}
    chosen, usual, classes = {}, maker.generator.usual, maker.generator.classes
    varied = [label for index, label in enumerate(classes) if maker.counts(index)[VARIATION]]
    for done, label in enumerate(varied):
        progress(done, len(varied))
        chosen[label] = _choose(maker, label, usual.strengths[-1] if label in copied else usual.strength)
    progress(len(varied), len(varied))
    return chosen


def strengths_by_class(chosen: Mapping[str, ChosenStrength]) -> dict[str, Strength | None]:
    """The strengths alone, as `ChunkMaker` takes them."""
    return {label: one.strength for label, one in chosen.items()}


def _choose(maker: ChunkMaker, label: str, first: Strength) -> ChosenStrength:
    strengths, tried = maker.generator.usual.strengths, dict[Strength, TriedStrength]()
    place = strengths.index(first)
    while 0 <= place < len(strengths) and strengths[place] not in tried:
        found = tried[strengths[place]] = _try(maker, label, strengths[place])
        if found.is_good:
            return ChosenStrength(found.strength, tuple(tried.values()))
        place += -1 if found.loses_class else 1
    return ChosenStrength(None, tuple(tried.values()))


def _try(maker: ChunkMaker, label: str, strength: Strength) -> TriedStrength:
    index, filters, settings = maker.generator.classes.index(label), maker.filters, maker.settings
    random = numpy_generator(maker.seed, "variation strength", index)
    own = maker.positions[index]
    chosen = maker.sources.select(own[random.permutation(np.resize(np.arange(len(own)), TRIED_IMAGES))])
    sampling, seed = maker.sampling(settings.typical_guidance), int(random.integers(2**31))
    drawing = Drawing(index, range(TRIED_IMAGES), sampling, seed)
    made = maker.generator.draw(drawing.varying(chosen.pixels, sum(strength) / 2, chosen.boxes))
    kept, copies = Share(0, 0), Share(0, TRIED_IMAGES)
    if WRONG_CLASS in settings.filters:
        recognized, still = filters.keeps_class(made.pixels, chosen.ids, index)
        kept = Share(int(still.sum()), int(recognized.sum()))
    if COPY in settings.filters:
        copies = Share(int(filters.rejections(made.pixels, index)[COPY].sum()), TRIED_IMAGES)
    return TriedStrength(strength, kept, copies)
