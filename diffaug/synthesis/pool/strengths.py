"""Chooses per class how strongly real images are varied: such that variations show the class, and not the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import TypeAdapter

from diffaug.configuration.settings import SynthesisSettings
from diffaug.runtime.parallel import Progress
from diffaug.runtime.seeding import numpy_generator
from diffaug.similarity.intervals import Share
from diffaug.synthesis.filters.scores import COPY, WRONG_CLASS
from diffaug.synthesis.pool.chunks import VARIATION_STRENGTH, ChunkMaker, Strength, variations_per_chunk

WEAK: Strength = (0.2, 0.4)
STRONG: Strength = (0.6, 0.85)
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
    def is_good(self) -> bool:
        """Whether variations of this strength are worth making; what can't be measured is no reason against it."""
        keeps = not self.kept.total or self.kept.value >= LEAST_KEPT
        return keeps and self.copies.value <= MOST_COPIES


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

    Another strength is tried only where the usual one fails: a weaker one where the class is lost, a stronger one where
    images are repeated. Classes of `copied`, whose samples repeat training images, begin with the stronger one. What
    the filters `wrong class` and `copy` would say counts only if they are enabled; without both nothing is chosen.
    """
    if not {WRONG_CLASS, COPY} & set(maker.settings.filters):
        return {}
    varied = [label for label in maker.generator.classes if _is_varied(maker, label)]
    chosen = {}
    for done, label in enumerate(varied):
        progress(done, len(varied))
        order = [STRONG, VARIATION_STRENGTH] if label in copied else [VARIATION_STRENGTH]
        chosen[label] = _choose(maker, label, order)
    progress(len(varied), len(varied))
    return chosen


def strengths_by_class(chosen: Mapping[str, ChosenStrength]) -> dict[str, Strength | None]:
    """The strengths alone, as `ChunkMaker` takes them."""
    return {label: one.strength for label, one in chosen.items()}


def _is_varied(maker: ChunkMaker, label: str) -> bool:
    sources = len(maker.positions[maker.generator.classes.index(label)])
    return variations_per_chunk(maker.settings, maker.chunk_size, sources) > 0


def _choose(maker: ChunkMaker, label: str, order: list[Strength]) -> ChosenStrength:
    tried = []
    for strength in order:
        found = _try(maker, label, strength)
        tried.append(found)
        if found.is_good:
            return ChosenStrength(strength, tuple(tried))
    lost = tried[-1].kept.total and tried[-1].kept.value < LEAST_KEPT
    last = WEAK if lost else STRONG
    if last not in order:
        tried.append(_try(maker, label, last))
    return ChosenStrength(last if tried[-1].is_good else None, tuple(tried))


def _try(maker: ChunkMaker, label: str, strength: Strength) -> TriedStrength:
    index, filters, settings = maker.generator.classes.index(label), maker.filters, maker.settings
    random = numpy_generator(maker.seed, "variation strength", index)
    own = maker.positions[index]
    chosen = maker.sources.select(own[random.permutation(np.resize(np.arange(len(own)), TRIED_IMAGES))])
    made = maker.generator.draw_variations(
        np.asarray(chosen.pixels),
        label,
        range(TRIED_IMAGES),
        strength=sum(strength) / 2,
        sampling=maker.sampling(_typical_scale(settings)),
        seed=int(random.integers(2**31)),
        boxes=chosen.boxes,
    )
    kept, copies = Share(0, 0), Share(0, TRIED_IMAGES)
    if WRONG_CLASS in settings.filters:
        recognized, still = filters.keeps_class(made.pixels, chosen.ids, index)
        kept = Share(int(still.sum()), int(recognized.sum()))
    if COPY in settings.filters:
        copies = Share(int(filters.rejections(made.pixels, index)[COPY].sum()), TRIED_IMAGES)
    return TriedStrength(strength, kept, copies)


def _typical_scale(settings: SynthesisSettings) -> float:
    scale = settings.guidance_scale
    return sum(scale) / 2 if isinstance(scale, tuple) else scale
