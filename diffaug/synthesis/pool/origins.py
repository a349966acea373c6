"""Which members of a chunk are sampled from noise and which vary a real image, and how strongly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from diffaug.configuration.settings import SynthesisSettings
from diffaug.runtime.seeding import numpy_generator

RARE_SHARE = 0.25
RARE, COMMON = 50, 200  # training images of a class


@dataclass(frozen=True)
class ChunkPlan:
    """What one chunk consists of.

    Attributes:
        sampled: Indices of the images that are sampled from noise.
        varied: Indices of the variations, after the sampled ones.
        sources: For each variation, the position of its real image among those of its class.
        strength: Of the variations, in (0, 1].
        guidance_scale: Of the whole chunk.
    """

    sampled: range
    varied: range
    sources: tuple[int, ...]
    strength: float
    guidance_scale: float


def variation_share(num_sources: int, share: float | None = None) -> float:
    """Share of a class's images that are variations.

    Samples from noise are as diverse as the class was learnt, which a rare class hardly is; variations of real images
    keep to them (Trabucco et al. 2023, DA-Fusion, arXiv 2302.07944). Unless set, a quarter of the images of classes of
    up to 50 are variations, and linearly fewer up to 200, from where on there are none.

    Args:
        num_sources: Real images of the class that may be varied; without any there are no variations.
        share: The share that is set, in [0, 1].
    """
    if not num_sources:
        return 0.0
    if share is not None:
        return share
    return RARE_SHARE * min(1.0, max(0.0, (COMMON - num_sources) / (COMMON - RARE)))


def variations_per_chunk(settings: SynthesisSettings, num_sources: int) -> int:
    """Variations in each chunk of a class that has `num_sources` images to vary."""
    return round(variation_share(num_sources, settings.variation_fraction) * settings.chunk_size)


def plan_chunk(settings: SynthesisSettings, *, seed: int, class_index: int, number: int, num_sources: int) -> ChunkPlan:
    """Plans chunk `number` of a class; it depends on the arguments alone.

    The variations of all chunks cycle through the class's real images, in an order that the seed decides; strength
    and guidance are uniform in their ranges, one draw each a chunk, since a chunk is one batch.

    Args:
        settings: Chunk size, share and strength of variations, guidance.
        seed: Seed of the pool.
        class_index: The class.
        number: Number of the chunk, from 0.
        num_sources: Real images of the class that may be varied.
    """
    size, varied = settings.chunk_size, variations_per_chunk(settings, num_sources)
    start, end = number * size, (number + 1) * size
    order = numpy_generator(seed, "variation sources", class_index).permutation(num_sources)
    sources = tuple(int(order[turn % num_sources]) for turn in range(number * varied, (number + 1) * varied))
    random = numpy_generator(seed, "chunk", class_index, number)
    strength = _uniform(settings.variation_strength, random)
    scale = settings.guidance_scale
    guidance_scale = _uniform(scale, random) if isinstance(scale, tuple) else scale
    return ChunkPlan(range(start, end - varied), range(end - varied, end), sources, strength, guidance_scale)


def _uniform(interval: tuple[float, float], random: np.random.Generator) -> float:
    low, high = interval
    return low + (high - low) * float(random.random())


def expected_origins(
    settings: SynthesisSettings, targets: Mapping[str, int], num_sources: Mapping[str, int]
) -> dict[str, tuple[int, int]]:
    """About how many of each class's images will be sampled and how many variations, if filters take both alike."""
    expected = {}
    for label, target in targets.items():
        varied = round(target * variations_per_chunk(settings, num_sources[label]) / settings.chunk_size)
        expected[label] = (target - varied, varied)
    return expected
