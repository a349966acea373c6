"""Computes chunks: generates the images of each origin, and filters them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.configuration.sampling import Sampling
from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.usual import Strength
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.files import storage
from diffaug.synthesis.filters.calibrated import CalibratedFilters, FilterResult, PaintedObjects
from diffaug.synthesis.filters.objects import ObjectCheck, calibrated_checks
from diffaug.synthesis.pool.chunks import DESCRIPTOR, PNG, REASON
from diffaug.synthesis.pool.origins import (
    CROSSED,
    NEW,
    SAMPLED,
    TRANSPLANT,
    VARIATION,
    ChunkPlan,
    Material,
    Origin,
    Part,
    origin_counts,
    origin_fractions,
    plan_chunk,
)
from diffaug.synthesis.pool.transplants import Backgrounds, ClassObjects, Masks

RESAMPLINGS = 4
"""How often each step of painting is repeated, so that a new object fits in: as for `Generator.inpaint`."""


@dataclass(frozen=True)
class Made:
    """Images of one origin, (N, H, W, C), and the outlines of the objects in transplants, bool (N, H, W)."""

    images: Decoded
    outlines: Masks | None = None


@dataclass(frozen=True)
class ChunkMaker:
    """Computes chunks from `sources`, real images of the generator's size and classes.

    Attributes:
        strengths: Of the variations of each class by name, None for a class without variations; a class that is not
            named has the generator's usual one.
        backgrounds: Real images to paint into; None: there are no transplants and no crossed variations.
        crossed: Strength of the crossed variations of each class by name; a class that is not named gets none.
        transplanted: Strength of the transplants of each class by name, None for a class without; a class that is not
            named gets new objects, see `NEW`.
    """

    generator: Generator
    filters: CalibratedFilters
    sources: LabeledImages
    settings: SynthesisSettings
    chunk_size: int
    seed: int
    strengths: Mapping[str, Strength | None] = field(default_factory=dict)
    backgrounds: Backgrounds | None = None
    crossed: Mapping[str, Strength] = field(default_factory=dict)
    transplanted: Mapping[str, Strength | None] = field(default_factory=dict)

    def material(self, class_index: int) -> Material:
        """What there is of a class to make images of."""
        name, images = self.generator.classes[class_index], len(self.positions[class_index])
        varied = 0 if self._strength(class_index) is None else images
        only_varied = self.generator.usual.only_varies
        if self.backgrounds is None or class_index == self.backgrounds.class_index:
            return Material(images, varied, only_varied=only_varied)
        backgrounds = len(self.positions[self.backgrounds.class_index])
        masks = len(self.objects[class_index]) if self.transplanted.get(name, NEW) else 0
        crossed = backgrounds if name in self.crossed else 0
        return Material(images, varied, masks, backgrounds, crossed, only_varied)

    def counts(self, class_index: int) -> dict[Origin, int]:
        """Images of each origin in a chunk of a class."""
        return origin_counts(origin_fractions(self.settings, self.material(class_index)), self.chunk_size)

    def make(self, class_index: int, number: int) -> pd.DataFrame:
        """Generates and filters a chunk; one row per candidate, in order of index.

        The manifest's columns except `file`, and `reason` (empty if accepted), `png`, `descriptor` (bytes of float32).
        """
        name = self.generator.classes[class_index]
        usual = self.generator.usual.strength
        plan = plan_chunk(
            self.settings,
            self.material(class_index),
            chunk_size=self.chunk_size,
            seed=self.seed,
            class_index=class_index,
            number=number,
            strengths={
                VARIATION: self._strength(class_index) or usual,
                CROSSED: self.crossed.get(name, usual),
                TRANSPLANT: self.transplanted.get(name) or NEW,
            },
        )
        tables = [self._table(class_index, plan, part) for part in plan.parts]
        return pd.concat(tables).sort_values("index", ignore_index=True)

    def draw(self, class_index: int, part: Part, sampling: Sampling) -> Made:
        """The images of one part of a chunk, before any filter."""
        drawing = Drawing(class_index, part.indices, sampling, self.seed)
        if part.origin == SAMPLED:
            return Made(self.generator.draw(drawing))
        chosen = self.sources.select(self.source_positions(class_index, part))
        if part.origin != TRANSPLANT or self.backgrounds is None:
            return Made(self.generator.draw(drawing.varying(chosen.pixels, part.strength, chosen.boxes)))
        objects = self.objects[class_index]
        masks = objects.placed(part.masks) | self.backgrounds.own_masks(chosen.ids, self.generator.image_size)
        if part.strength == 1:
            made = self.generator.draw(drawing.painting(chosen.pixels, masks, RESAMPLINGS))
        else:
            begun = objects.moved_onto(chosen.pixels, part.masks)
            made = self.generator.draw(replace(drawing.painting(begun, masks, 0), strength=part.strength))
        pixels = np.where(masks[..., None], made.pixels, chosen.pixels)
        return Made(Decoded(pixels, made.finite), objects.outlines(part.masks))

    def rejections(self, class_index: int, made: Made) -> dict[str, NDArray[np.bool_]]:
        """What each filter rejects, bool (N,), whether it is enabled or not."""
        return self.filters.rejections(made.images.pixels, class_index, painted=self._painted(class_index, made))

    def copy_threshold(self, class_index: int, origin: str) -> float:
        """The ratio of distances below which the filter calls an image of this class and origin a copy."""
        if origin == TRANSPLANT:
            return self.objects[class_index].copy_threshold
        return self.filters.copy_threshold

    def source_positions(self, class_index: int, part: Part) -> NDArray[np.intp]:
        """Positions in `sources` of the real images that a part begins from."""
        across = part.origin in (TRANSPLANT, CROSSED) and self.backgrounds is not None
        of_class = self.backgrounds.class_index if across and self.backgrounds else class_index
        return self.positions[of_class][list(part.sources)]

    def sampling(self, guidance_scale: float) -> Sampling:
        """How images are drawn at a guidance scale."""
        return Sampling(
            solver=self.settings.solver,
            num_inference_steps=self.settings.num_inference_steps,
            guidance_method=self.settings.guidance_method,
            guidance_scale=guidance_scale,
        )

    @cached_property
    def positions(self) -> list[NDArray[np.intp]]:
        """Positions in `sources` of the images of each class."""
        return [np.flatnonzero(self.sources.labels == index) for index in range(len(self.generator.classes))]

    @cached_property
    def objects(self) -> list[ClassObjects]:
        """The objects of each class but the background, of its images that have a mask; empty without backgrounds."""
        if self.backgrounds is None:
            return []
        return [
            self.backgrounds.objects(
                self.sources,
                own if index != self.backgrounds.class_index else own[:0],
                seed=self.seed,
                device=self.filters.device,
            )
            for index, own in enumerate(self.positions)
        ]

    @cached_property
    def object_checks(self) -> list[ObjectCheck]:
        """What tells whether a painted object is like the real ones of each class."""
        return calibrated_checks([one.real for one in self.objects], self.seed)

    def _strength(self, class_index: int) -> Strength | None:
        return self.strengths.get(self.generator.classes[class_index], self.generator.usual.strength)

    def _table(self, class_index: int, plan: ChunkPlan, part: Part) -> pd.DataFrame:
        made = self.draw(class_index, part, self.sampling(plan.guidance_scale))
        result, nearest = self._filtered(class_index, made)
        contents = [storage.png_bytes(image) for image in made.images.pixels]
        columns = {
            **self._provenance(class_index, plan, part),
            **{name: result.scores[name].astype(np.float32) for name in self.filters.score_names},
            "nearest": nearest,
            "sha256": [storage.sha256_bytes(content) for content in contents],
            REASON: list(result.reasons),
            PNG: contents,
            DESCRIPTOR: [row.tobytes() for row in result.descriptors.astype(np.float32)],
        }
        return pd.DataFrame(columns)

    def _filtered(self, class_index: int, made: Made) -> tuple[FilterResult, list[str]]:
        """What the filters say, and the real image that each one is most like."""
        result = self.filters(made.images, class_index, painted=self._painted(class_index, made))
        compared = self.filters.image_ids if made.outlines is None else self.objects[class_index].ids
        return result, [compared[position] for position in result.nearest]

    def _painted(self, class_index: int, made: Made) -> PaintedObjects | None:
        """What is found of the painted objects; None where whole images are to be judged."""
        if made.outlines is None:
            return None
        unlike = self.object_checks[class_index].unlike(made.images.pixels, made.outlines)
        return PaintedObjects(*self.objects[class_index].copied(made.images.pixels, made.outlines), unlike)

    def _provenance(self, class_index: int, plan: ChunkPlan, part: Part) -> dict[str, Any]:
        count = len(part.indices)
        sources = [self.sources.ids[position] for position in self.source_positions(class_index, part)]
        objects = self.objects[class_index] if part.masks else None
        masks = [[objects.ids[number] for number in pair] for pair in part.masks] if objects else [["", ""]] * count
        return {
            "label": self.generator.classes[class_index],
            "class_index": class_index,
            "origin": part.origin,
            "source": sources or [""] * count,
            "mask_source": [shape for shape, _ in masks],
            "mask_place": [place for _, place in masks],
            "strength": part.strength,
            "seed": self.seed,
            "index": list(part.indices),
            "guidance_method": self.settings.guidance_method,
            "guidance_scale": float(plan.guidance_scale),
            "solver": self.settings.solver,
            "num_inference_steps": self.settings.num_inference_steps,
            "generator_sha256": self.generator.weights_sha256,
            "filters": self.filters.fingerprint,
        }
