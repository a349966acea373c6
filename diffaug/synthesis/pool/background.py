"""Chooses which classes are painted into real images of the background class.

These are the classes that the filters see there, in objects that look like real ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from diffaug.diffusion.generator.usual import USUAL, Strength, Usual
from diffaug.runtime.parallel import Progress
from diffaug.runtime.seeding import derive_seed
from diffaug.similarity.intervals import Share
from diffaug.synthesis.filters.objects import is_blind
from diffaug.synthesis.filters.power import UNKNOWN
from diffaug.synthesis.filters.scores import COPY, UNLIKE_OBJECTS, WRONG_CLASS
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.origins import CROSSED, NEW, TRANSPLANT, Origin, Part, plan_chunk
from diffaug.synthesis.pool.strengths import MOST_COPIES, TRIED_IMAGES

FORGETFUL: Strength = (0.8, 0.95)
"""Stronger than what variations of a class need: the class changes."""

LEAST_SEEN = 0.5
"""Trial images assigned to the class, as a share of the held-out real images that are: a convention."""


@dataclass(frozen=True)
class TriedOnBackground:
    """Images of a class that begin from real images of the background class.

    Attributes:
        seen: Those assigned to the class, by the classifier that was not trained on the real image, whose painted
            object is not unlike real ones.
        recognized: The held-out real images of the class that are.
        copies: Those that are copies of training images.
        strength: Tried.
        unlike: Transplants whose object is unlike real ones.
        objects_told: Real objects with shuffled pixels that the check of objects tells from real ones, see
            `ObjectCheck`; None where nothing asks for the check.
    """

    seen: Share
    recognized: Share
    copies: Share
    strength: Strength
    unlike: Share = UNKNOWN
    objects_told: Share | None = None

    @property
    def is_blind(self) -> bool:
        """Whether nothing tells painted objects from noise."""
        return self.objects_told is not None and is_blind(self.objects_told)

    @property
    def is_good(self) -> bool:
        """Whether the filters see the class and real objects in enough of them, of which few are copies."""
        sees = self.seen.count > 0 and self.seen.value >= LEAST_SEEN * self.recognized.value
        return sees and self.recognized.count > 0 and self.copies.value <= MOST_COPIES and not self.is_blind


@dataclass(frozen=True)
class OnBackground:
    """What a class gets of the background class, and what was tried.

    Attributes:
        transplants: From new objects on to real ones that are changed less and less; empty where none were to be made,
            or nothing could be measured.
        crossed: From the weakest strength on.
    """

    transplants: tuple[TriedOnBackground, ...] = ()
    crossed: tuple[TriedOnBackground, ...] = ()

    @property
    def transplant_strength(self) -> Strength | None:
        """The strongest that is good; None: the class gets no transplants."""
        return next((one.strength for one in self.transplants if one.is_good), None)

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
    wide = replace(maker, crossed=dict.fromkeys(maker.generator.classes, FORGETFUL))
    tried = {}
    for index, name in enumerate(maker.generator.classes):
        progress(index, len(maker.generator.classes))
        counts = wide.counts(index)
        judged = WRONG_CLASS in maker.settings.filters
        transplants = _try_until_good(wide, index, TRANSPLANT) if counts[TRANSPLANT] and judged else ()
        crossed = _try_until_good(wide, index, CROSSED) if counts[CROSSED] else ()
        if transplants or crossed:
            tried[name] = OnBackground(transplants, crossed)
    progress(1, 1)
    return tried


def transplant_strengths(maker: ChunkMaker) -> tuple[Strength, ...]:
    """What is tried, from new objects to real ones that are moved and changed as variations are.

    A network often paints no object where nothing around the mask asks for one. Between two usual strengths their mean
    is tried, too: of made stains most were copies at one and not seen at the next. What the background shows itself is
    painted over with new objects only.
    """
    assert maker.backgrounds is not None
    own = maker.positions[maker.backgrounds.class_index]
    covered = maker.backgrounds.own_masks([maker.sources.ids[one] for one in own.tolist()], maker.generator.image_size)
    if covered.any():
        return (NEW,)
    usual = maker.generator.usual.strengths
    between = [tuple(np.mean(pair, axis=0).round(3).tolist()) for pair in pairwise(usual)]
    return (NEW, *sorted((*usual, *between), key=sum, reverse=True))


def crossed_strengths(usual: Usual) -> tuple[Strength, ...]:
    """What is tried, from weak to strong: the weakest that shows the class keeps most of the real image.

    None is weaker than what usually keeps the class of a real image, since it would keep that of the background.
    """
    strong = [strength for strength in usual.strengths if sum(strength) >= sum(USUAL.strength)]
    return tuple(sorted((*strong, FORGETFUL), key=sum))


def with_background_choices(maker: ChunkMaker, tried: Mapping[str, OnBackground]) -> ChunkMaker:
    """The maker that makes only what was found good."""
    crossed = {name: one.crossed_strength for name, one in tried.items() if one.crossed_strength}
    transplanted = {name: one.transplant_strength for name, one in tried.items() if one.transplants}
    return replace(maker, crossed=crossed, transplanted=transplanted)


def _try_until_good(maker: ChunkMaker, class_index: int, origin: Origin) -> tuple[TriedOnBackground, ...]:
    strengths = transplant_strengths(maker) if origin == TRANSPLANT else crossed_strengths(maker.generator.usual)
    tried: list[TriedOnBackground] = []
    for strength in strengths:
        tried.append(_try(maker, class_index, origin, strength))
        if tried[-1].is_good or tried[-1].is_blind:
            break
    return tuple(tried)


def _try(maker: ChunkMaker, class_index: int, origin: Origin, strength: Strength) -> TriedOnBackground:
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
    part: Part = replace(plan.part(origin), strength=sum(strength) / 2)
    made = maker.draw(class_index, part, maker.sampling(settings.typical_guidance))
    sources = [maker.sources.ids[position] for position in maker.source_positions(class_index, part)]
    seen = maker.filters.assigned(made.images.pixels, sources) == class_index
    none = np.zeros(TRIED_IMAGES, np.bool_)
    found = maker.rejections(class_index, made) if {COPY, UNLIKE_OBJECTS} & set(settings.filters) else {}
    rejected = {name: found[name] if name in settings.filters else none for name in (COPY, UNLIKE_OBJECTS)}
    checks = origin == TRANSPLANT and UNLIKE_OBJECTS in settings.filters
    return TriedOnBackground(
        _share(seen & ~rejected[UNLIKE_OBJECTS]),
        maker.filters.held_out.recognized(class_index),
        _share(rejected[COPY]),
        strength,
        _share(rejected[UNLIKE_OBJECTS]),
        maker.object_checks[class_index].told if checks else None,
    )


def _share(marked: NDArray[np.bool_]) -> Share:
    return Share(int(marked.sum()), len(marked))
