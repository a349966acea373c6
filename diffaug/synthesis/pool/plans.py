"""What a chunk holds: which images of which origin, from which real images, how strongly changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffaug.configuration.settings import SynthesisSettings
from diffaug.diffusion.generator.usual import USUAL, Strength
from diffaug.runtime.seeding import numpy_generator
from diffaug.synthesis.pool.origins import (
    CROSSED,
    ORIGINS,
    TRANSPLANT,
    VARIATION,
    Material,
    Origin,
    origin_counts,
    origin_fractions,
)

VARIATION_STRENGTH: Strength = USUAL.strength
"""Range of the strength of variations, from noise levels of 1 to 12; 0 returns the real image, 1 forgets it."""


@dataclass(frozen=True)
class Part:
    """The images of one origin in a chunk.

    Attributes:
        indices: Of the images in their class.
        sources: For each the position of the real image that it begins from: in its own class for variations, in the
            background class for transplants and crossed variations; empty for samples.
        masks: For each transplant the mask whose shape it has and the mask whose place, by position among those of the
            class.
        strength: Of variations, else 0.
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
    drawn = {origin: _uniform(strengths.get(origin, VARIATION_STRENGTH), random) for origin in (VARIATION, CROSSED)}
    guidance_scale = _uniform(settings.guidance_range, random)
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
