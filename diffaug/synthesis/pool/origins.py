"""Origins of synthetic images: how many images of a class each gives, and which images of a chunk, made of what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from diffaug.configuration.settings import SynthesisSettings
from diffaug.diffusion.generator.usual import USUAL, Strength
from diffaug.runtime.seeding import numpy_generator

Origin = Literal["sampled", "variation", "transplant", "crossed"]
"""sampled: from noise. variation: of a real image of the class. transplant: the object of the class, painted into a
real image of the background class. crossed: a variation of such an image under the label of the class."""

SAMPLED, VARIATION, TRANSPLANT, CROSSED = ORIGINS = get_args(Origin)

NEW: Strength = (1.0, 1.0)
"""Strength of transplants whose objects come from noise; the others begin from a real object that was moved."""

VARIATION_FRACTION = 0.25
TRANSPLANT_FRACTION = 0.5  # set by hand; the choice of the mix may leave transplants out
RARE_IMAGES, COMMON_IMAGES = 50, 200  # training images of a class


@dataclass(frozen=True)
class Material:
    """What there is of a class to make images of.

    Attributes:
        images: Its real images.
        varied: Those that variations may begin from; 0 if it gets no variations.
        masks: Its masks, to transplant; 0 if it gets no transplants.
        backgrounds: Real images of the background class, for transplants.
        crossed: Real images of the background class, for crossed variations; 0 if it gets none.
        only_varied: Whether nothing is sampled from noise unless a fraction of variations below 1 asks for it.
    """

    images: int = 0
    varied: int = 0
    masks: int = 0
    backgrounds: int = 0
    crossed: int = 0
    only_varied: bool = False


def rarity(images: int) -> float:
    """1 for a class of up to 50 real images, 0 for one of 200 and more, linear in between."""
    return min(1.0, max(0.0, (COMMON_IMAGES - images) / (COMMON_IMAGES - RARE_IMAGES)))


def origin_fractions(settings: SynthesisSettings, material: Material) -> dict[Origin, float]:
    """Fraction of the synthetic images of a class that each origin gives.

    Samples are only as diverse as the class was learned, and a rare class is learned poorly; variations of real images
    stay near them (Trabucco et al. 2023, DA-Fusion, arXiv 2302.07944). A transplant needs the class to be learned only
    where its object is. So both are for rare classes by default. What is set comes first; defaults share what is left.

    All are 0 if nothing may be sampled and there is nothing else.
    """
    given = {
        VARIATION: (settings.variation_fraction, VARIATION_FRACTION, material.varied),
        TRANSPLANT: (settings.transplant_fraction, TRANSPLANT_FRACTION, material.masks and material.backgrounds),
        CROSSED: (settings.crossed_fraction, 0.0, material.crossed),
    }
    possible = {origin: (chosen, usual) for origin, (chosen, usual, count) in given.items() if count}
    fixed = {origin: chosen for origin, (chosen, _) in possible.items() if chosen is not None}
    wanted = {origin: usual * rarity(material.images) for origin, (chosen, usual) in possible.items() if chosen is None}
    if material.only_varied and VARIATION in wanted:
        wanted = {VARIATION: 1.0}
    left = max(0.0, 1 - sum(fixed.values()))
    scale = min(1.0, left / sum(wanted.values())) if any(wanted.values()) else 0.0
    found = fixed | {origin: part * scale for origin, part in wanted.items()}
    others = {origin: found.get(origin, 0.0) for origin in (VARIATION, TRANSPLANT, CROSSED)}
    total, asked = sum(others.values()), settings.variation_fraction
    if material.only_varied and (asked is None or asked == 1):
        return {SAMPLED: 0.0, **{origin: part / total if total else 0.0 for origin, part in others.items()}}
    return {SAMPLED: max(0.0, 1 - total), **others}


def origin_counts(fractions: Mapping[Origin, float], total: int) -> dict[Origin, int]:
    """The fractions as whole images of a total, by largest remainder; of equal remainders the later origin gets one.

    Fractions that are all 0 give no images.
    """
    if not any(fractions.values()):
        return dict.fromkeys(ORIGINS, 0)
    exact = {origin: fractions[origin] * total for origin in ORIGINS}
    counts = {origin: int(part + 1e-9) for origin, part in exact.items()}
    by_remainder = sorted(ORIGINS, key=lambda one: (counts[one] - exact[one], -ORIGINS.index(one)))
    for origin in by_remainder[: total - sum(counts.values())]:
        counts[origin] += 1
    return counts


@dataclass(frozen=True)
class Part:
    """The images of one origin in a chunk.

    Attributes:
        indices: Of the images in their class.
        sources: For each the position of the real image that it begins from: in its own class for variations, in the
            background class for transplants and crossed variations; empty for samples.
        masks: For each transplant the mask whose shape it has and the mask whose place, by position among those of the
            class.
        strength: Of variations and transplants, else 0; 1 makes the objects of transplants from noise.
    """

    origin: Origin
    indices: tuple[int, ...]
    sources: tuple[int, ...] = ()
    masks: tuple[tuple[int, int], ...] = ()
    strength: float = 0.0


@dataclass(frozen=True)
class ChunkPlan:
    """The content of one chunk: the images of each origin that has any."""

    parts: tuple[Part, ...]
    guidance_scale: float

    def part(self, origin: Origin) -> Part:
        """The images of an origin, which may be none."""
        return next((part for part in self.parts if part.origin == origin), Part(origin, ()))


def plan_chunk(
    settings: SynthesisSettings,
    material: Material,
    *,
    chunk_size: int,
    seed: int,
    class_index: int,
    number: int,
    strengths: Mapping[Origin, Strength] | None = None,
) -> ChunkPlan:
    """Plans chunk `number` of a class; the plan depends on the arguments alone.

    What begins from real images cycles through all of them, in an order that the seed decides. Strength and guidance
    scale are uniform in their ranges, one draw per chunk, since a chunk is one batch.
    """
    counts = origin_counts(origin_fractions(settings, material), chunk_size)
    random = numpy_generator(seed, "chunk", class_index, number)
    strengths = strengths or {}
    drawn = {origin: _uniform(strengths.get(origin, USUAL.strength), random) for origin in (VARIATION, CROSSED)}
    guidance_scale = _uniform(settings.guidance_range, random)
    drawn[TRANSPLANT] = _uniform(strengths.get(TRANSPLANT, NEW), random)
    available = {VARIATION: material.varied, TRANSPLANT: material.backgrounds, CROSSED: material.crossed}
    parts = []
    for origin, indices in _spread(counts, number * chunk_size).items():
        if not indices:
            continue
        order = numpy_generator(seed, f"{origin} sources", class_index).permutation(available.get(origin, 0)).tolist()
        first = number * len(indices)
        sources = tuple(order[(first + turn) % len(order)] for turn in range(len(indices))) if order else ()
        masks = _drawn_masks(material.masks, indices, seed, class_index) if origin == TRANSPLANT else ()
        parts.append(Part(origin, indices, sources, masks, drawn.get(origin, 0.0)))
    return ChunkPlan(tuple(parts), guidance_scale)


def expected_origins(
    settings: SynthesisSettings, chunk_size: int, targets: Mapping[str, int], material: Mapping[str, Material]
) -> dict[str, dict[Origin, int]]:
    """Expected number of images of each origin per class, if filters accept all equally often."""
    expected = {}
    for label, target in targets.items():
        counts = origin_counts(origin_fractions(settings, material[label]), chunk_size)
        expected[label] = origin_counts({origin: count / chunk_size for origin, count in counts.items()}, target)
    return expected


def _spread(counts: Mapping[Origin, int], start: int) -> dict[Origin, tuple[int, ...]]:
    """Indices from `start` on, those of each origin evenly spread.

    A class takes the first images of a chunk that are good, until it is full, so all origins must be among the first.
    """
    turns = sorted(
        ((turn + 0.5) / counts[origin], place) for place, origin in enumerate(ORIGINS) for turn in range(counts[origin])
    )
    return {
        origin: tuple(start + number for number, (_, one) in enumerate(turns) if one == place)
        for place, origin in enumerate(ORIGINS)
    }


def _drawn_masks(count: int, indices: Sequence[int], seed: int, class_index: int) -> tuple[tuple[int, int], ...]:
    """Two of `count` masks for each image, by its index alone."""
    streams = (numpy_generator(seed, "transplanted masks", class_index, index) for index in indices)
    return tuple((int(shape), int(place)) for shape, place in (one.integers(count, size=2) for one in streams))


def _uniform(interval: Strength, random: np.random.Generator) -> float:
    low, high = interval
    return low + (high - low) * float(random.random())
