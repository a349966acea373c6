"""Chooses which classes are painted into real images of the background class: those that the filters see there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from diffaug.diffusion.generator.usual import USUAL, Strength, Usual
from diffaug.runtime.parallel import Progress
from diffaug.runtime.seeding import derive_seed
from diffaug.similarity.intervals import Share
from diffaug.synthesis.filters.scores import COPY, WRONG_CLASS
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.origins import CROSSED, TRANSPLANT, Origin, Part, plan_chunk
from diffaug.synthesis.pool.strengths import MOST_COPIES, TRIED_IMAGES

FORGETFUL: Strength = (0.8, 0.95)
"""Stronger than what variations of a class need: the class changes."""

LEAST_SEEN = 0.5
"""Trial images assigned to the class, as a share of the held-out real images that are: a convention."""


@dataclass(frozen=True)
class TriedOnBackground:
    """Images of a class that begin from real images of the background class.

    Attributes:
        seen: Those assigned to the class, by the classifier that was not trained on the real image.
        recognized: The held-out real images of the class that are.
        copies: Those that are copies of training images.
        strength: Of crossed variations; None for transplants.
    """

    seen: Share
    recognized: Share
    copies: Share
    strength: Strength | None = None

    @property
    def is_good(self) -> bool:
        """Whether the filters see the class in enough of them, of which few are copies."""
        sees = self.seen.count > 0 and self.seen.value >= LEAST_SEEN * self.recognized.value
        return sees and self.recognized.count > 0 and self.copies.value <= MOST_COPIES


@dataclass(frozen=True)
class OnBackground:
    """What a class gets of the background class, and what was tried.

    Attributes:
        transplants: None: none were to be made, or nothing could be measured.
        crossed: From the weakest strength on.
    """

    transplants: TriedOnBackground | None = None
    crossed: tuple[TriedOnBackground, ...] = ()

    @property
    def crossed_strength(self) -> Strength | None:
        """The weakest strength that is good; None: the class gets no crossed variations."""
        return next((one.strength for one in self.crossed if one.is_good), None)


ON_BACKGROUND = TypeAdapter(dict[str, OnBackground])


def try_on_background(maker: ChunkMaker, progress: Progress = lambda done, total: None) -> dict[str, OnBackground]:
    """Tries transplants and crossed variations of each class that is to get some, by name.

    Without the filter `wrong class` transplants are not tried, since nothing is asked to see the class in them.
    """
    if maker.backgrounds is None:
        return {}
    strengths = crossed_strengths(maker.generator.usual)
    wide = replace(maker, crossed=dict.fromkeys(maker.generator.classes, FORGETFUL))
    tried = {}
    for index, name in enumerate(maker.generator.classes):
        progress(index, len(maker.generator.classes))
        counts = wide.counts(index)
        judged = WRONG_CLASS in maker.settings.filters
        transplants = _try(wide, index, TRANSPLANT, None) if counts[TRANSPLANT] and judged else None
        crossed: list[TriedOnBackground] = []
        for strength in strengths if counts[CROSSED] else ():
            crossed.append(_try(wide, index, CROSSED, strength))
            if crossed[-1].is_good:
                break
        if transplants or crossed:
            tried[name] = OnBackground(transplants, tuple(crossed))
    progress(1, 1)
    return tried


def crossed_strengths(usual: Usual) -> tuple[Strength, ...]:
    """What is tried, from weak to strong: the weakest that shows the class keeps most of the real image.

    None is weaker than what usually keeps the class of a real image, since it would keep that of the background.
    """
    strong = [strength for strength in usual.strengths if sum(strength) >= sum(USUAL.strength)]
    return tuple(sorted((*strong, FORGETFUL), key=sum))


def with_background_choices(maker: ChunkMaker, tried: Mapping[str, OnBackground]) -> ChunkMaker:
    """The maker that makes only what was found good."""
    crossed = {name: one.crossed_strength for name, one in tried.items() if one.crossed_strength}
    lost = tuple(name for name, one in tried.items() if one.transplants and not one.transplants.is_good)
    return replace(maker, crossed=crossed, not_transplanted=lost)


def _try(maker: ChunkMaker, class_index: int, origin: Origin, strength: Strength | None) -> TriedOnBackground:
    settings, material = maker.settings, maker.material(class_index)
    alone = {"variation_fraction": 0.0, "transplant_fraction": 0.0, "crossed_fraction": 0.0, f"{origin}_fraction": 1.0}
    plan = plan_chunk(
        settings.model_copy(update=alone),
        material,
        chunk_size=TRIED_IMAGES,
        seed=derive_seed(maker.seed, "tried on the background", origin),
        class_index=class_index,
        number=0,
    )
    part: Part = replace(plan.part(origin), strength=sum(strength) / 2 if strength else 0.0)
    made = maker.draw(class_index, part, maker.sampling(settings.typical_guidance))
    sources = [maker.sources.ids[position] for position in maker.source_positions(class_index, part)]
    seen = maker.filters.assigned(made.images.pixels, sources) == class_index
    copies = Share(0, TRIED_IMAGES)
    if COPY in settings.filters:
        copies = Share(int(maker.rejections(class_index, made)[COPY].sum()), TRIED_IMAGES)
    return TriedOnBackground(
        Share(int(seen.sum()), TRIED_IMAGES), maker.filters.held_out.recognized(class_index), copies, strength
    )
