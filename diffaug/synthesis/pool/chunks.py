"""Chunks: candidates of one class that are generated and filtered together, each kept as one file.

Chunk j of a class holds candidates j n to (j + 1) n - 1. Its content depends on seed, class and j alone, so any process
may compute it, and its file exists either completely or not at all.
"""

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from diffaug.configuration.sampling import Sampling
from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.process.normalization import Decoded
from diffaug.errors import DamagedError
from diffaug.files import locks, storage
from diffaug.runtime.seeding import numpy_generator
from diffaug.synthesis.filters.calibrated import CalibratedFilters

REASON, PNG, DESCRIPTOR = "reason", "png", "descriptor"
SUFFIX, SHA256_BYTES = ".chunk", 32
SAMPLED, VARIATION = "sampled", "variation"
RARE_CLASS_FRACTION = 0.25
RARE_IMAGES, COMMON_IMAGES = 50, 200  # training images of a class
Strength = tuple[float, float]
VARIATION_STRENGTH: Strength = (0.4, 0.7)
"""Range of the strength of variations, from noise levels of 1 to 12; 0 returns the real image, 1 forgets it."""


@dataclass(frozen=True)
class ChunkPlan:
    """The content of one chunk: image indices, and for each variation the position of its source in its class."""

    sampled: range
    varied: range
    sources: tuple[int, ...]
    strength: float
    guidance_scale: float


def variation_fraction(num_sources: int, fraction: float | None = None) -> float:
    """Fraction of the synthetic images of a class that are variations, `fraction` unless that is None.

    Samples are only as diverse as the class was learned, and a rare class is learned poorly; variations of real images
    stay near them (Trabucco et al. 2023, DA-Fusion, arXiv 2302.07944). By default a quarter of the images of classes
    of up to 50 are variations, and linearly fewer up to 200, from where on there are none.
    """
    if not num_sources:
        return 0.0
    if fraction is not None:
        return fraction
    rarity = (COMMON_IMAGES - num_sources) / (COMMON_IMAGES - RARE_IMAGES)
    return RARE_CLASS_FRACTION * min(1.0, max(0.0, rarity))


def variations_per_chunk(settings: SynthesisSettings, chunk_size: int, num_sources: int) -> int:
    """Variations in each chunk of a class with `num_sources` images to vary."""
    return round(variation_fraction(num_sources, settings.variation_fraction) * chunk_size)


def plan_chunk(
    settings: SynthesisSettings,
    *,
    chunk_size: int,
    seed: int,
    class_index: int,
    number: int,
    num_sources: int,
    strengths: Strength = VARIATION_STRENGTH,
) -> ChunkPlan:
    """Plans chunk `number` of a class with `num_sources` images to vary; the plan depends on the arguments alone.

    The variations of all chunks cycle through the real images of the class, in an order that the seed decides. Strength
    and guidance scale are uniform in their ranges, one draw per chunk, since a chunk is one batch.
    """
    varied = variations_per_chunk(settings, chunk_size, num_sources)
    start, end = number * chunk_size, (number + 1) * chunk_size
    order = numpy_generator(seed, "variation sources", class_index).permutation(num_sources)
    sources = tuple(int(order[turn % num_sources]) for turn in range(number * varied, (number + 1) * varied))
    random = numpy_generator(seed, "chunk", class_index, number)
    strength = _uniform(strengths, random)
    scale = settings.guidance_scale
    guidance_scale = _uniform(scale, random) if isinstance(scale, tuple) else scale
    return ChunkPlan(range(start, end - varied), range(end - varied, end), sources, strength, guidance_scale)


def _uniform(interval: tuple[float, float], random: np.random.Generator) -> float:
    low, high = interval
    return low + (high - low) * float(random.random())


def expected_origins(
    settings: SynthesisSettings, chunk_size: int, targets: Mapping[str, int], num_sources: Mapping[str, int]
) -> dict[str, tuple[int, int]]:
    """Expected number of sampled images and of variations per class, if filters accept both equally often."""
    expected = {}
    for label, target in targets.items():
        varied = round(target * variations_per_chunk(settings, chunk_size, num_sources[label]) / chunk_size)
        expected[label] = (target - varied, varied)
    return expected


@dataclass(frozen=True)
class ChunkMaker:
    """Computes chunks; variations begin from `sources`, real images of the generator's size and classes.

    `strengths` are of the variations of each class by name, None for a class without variations; a class that is not
    named has `VARIATION_STRENGTH`.
    """

    generator: Generator
    filters: CalibratedFilters
    sources: LabeledImages
    settings: SynthesisSettings
    chunk_size: int
    seed: int
    strengths: Mapping[str, Strength | None] = field(default_factory=dict)

    def num_sources(self, class_index: int) -> int:
        """Real images of a class that variations begin from; 0 if it gets no variations."""
        return 0 if self._strength(class_index) is None else len(self.positions[class_index])

    def make(self, class_index: int, number: int) -> pd.DataFrame:
        """Generates and filters a chunk; one row per candidate, in order of index.

        The manifest's columns except `file`, and `reason` (empty if accepted), `png`, `descriptor` (bytes of float32).
        """
        sources = self.positions[class_index]
        plan = plan_chunk(
            self.settings,
            chunk_size=self.chunk_size,
            seed=self.seed,
            class_index=class_index,
            number=number,
            num_sources=self.num_sources(class_index),
            strengths=self._strength(class_index) or VARIATION_STRENGTH,
        )
        varied = sources[list(plan.sources)]
        images = self._generate(class_index, plan, varied)
        result = self.filters(images, class_index)
        contents = [storage.png_bytes(image) for image in images.pixels]
        columns = {
            **self._provenance(class_index, plan, varied),
            **{name: result.scores[name].astype(np.float32) for name in self.filters.score_names},
            "nearest": [self.filters.image_ids[position] for position in result.nearest],
            "sha256": [storage.sha256_bytes(content) for content in contents],
            REASON: list(result.reasons),
            PNG: contents,
            DESCRIPTOR: [row.tobytes() for row in result.descriptors.astype(np.float32)],
        }
        return pd.DataFrame(columns)

    def _strength(self, class_index: int) -> Strength | None:
        return self.strengths.get(self.generator.classes[class_index], VARIATION_STRENGTH)

    @cached_property
    def positions(self) -> list[NDArray[np.intp]]:
        """Positions in `sources` of the images of each class."""
        return [np.flatnonzero(self.sources.labels == index) for index in range(len(self.generator.classes))]

    def sampling(self, guidance_scale: float) -> Sampling:
        """How images are drawn at a guidance scale."""
        return Sampling(
            solver=self.settings.solver,
            num_inference_steps=self.settings.num_inference_steps,
            guidance_method=self.settings.guidance_method,
            guidance_scale=guidance_scale,
        )

    def _generate(self, class_index: int, plan: ChunkPlan, varied: NDArray[np.intp]) -> Decoded:
        sampling = self.sampling(plan.guidance_scale)
        parts, name = [], self.generator.classes[class_index]
        if plan.sampled:
            parts.append(self.generator.draw_samples(name, plan.sampled, sampling, self.seed))
        if plan.varied:
            chosen = self.sources.select(varied)
            parts.append(
                self.generator.draw_variations(
                    np.asarray(chosen.pixels),
                    name,
                    plan.varied,
                    strength=plan.strength,
                    sampling=sampling,
                    seed=self.seed,
                    boxes=chosen.boxes,
                )
            )
        return Decoded(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _provenance(self, class_index: int, plan: ChunkPlan, varied: NDArray[np.intp]) -> dict[str, Any]:
        sampled = len(plan.sampled)
        return {
            "label": self.generator.classes[class_index],
            "class_index": class_index,
            "origin": [SAMPLED] * sampled + [VARIATION] * len(varied),
            "source": [""] * sampled + [self.sources.ids[position] for position in varied],
            "strength": [0.0] * sampled + [plan.strength] * len(varied),
            "seed": self.seed,
            "index": [*plan.sampled, *plan.varied],
            "guidance_method": self.settings.guidance_method,
            "guidance_scale": float(plan.guidance_scale),
            "solver": self.settings.solver,
            "num_inference_steps": self.settings.num_inference_steps,
            "generator_sha256": self.generator.weights_sha256,
            "filters": self.filters.fingerprint,
        }


@dataclass(frozen=True)
class ChunkStore:
    """The finished chunks of one seed, data, generator and settings; several processes may use the folder at once."""

    folder: Path

    def finished(self, class_index: int) -> set[int]:
        """Numbers of the finished chunks of a class."""
        return {int(path.stem) for path in self._folder(class_index).glob(f"*{SUFFIX}") if path.stem.isdecimal()}

    def write(self, class_index: int, number: int, chunk: pd.DataFrame) -> None:
        """Keeps a chunk, preceded by its sha256, in Arrow's format."""
        table, sink = pa.Table.from_pandas(chunk, preserve_index=False), pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
        content = sink.getvalue().to_pybytes()
        storage.write_bytes(self._path(class_index, number), hashlib.sha256(content).digest() + content)

    def read(self, class_index: int, number: int, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A finished chunk as `ChunkMaker.make` returned it, or some of its columns."""
        path = self._path(class_index, number)
        stored = path.read_bytes()
        sha256, content = stored[:SHA256_BYTES], stored[SHA256_BYTES:]
        fix = f"rm {shlex.quote(str(path))}  (it is computed again)"
        if hashlib.sha256(content).digest() != sha256:
            raise DamagedError("a chunk of the pool was changed after it was written", where=path, fix=fix)
        try:
            table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
        except pa.ArrowInvalid:
            what = "a chunk of the pool has an unknown format"
            fix = f"rm -r {shlex.quote(str(self.folder))}  (its chunks are computed again)"
            raise DamagedError(what, where=path, fix=fix) from None
        chunk: pd.DataFrame = (table if columns is None else table.select(columns)).to_pandas()
        return chunk

    @contextmanager
    def claim(self, class_index: int, number: int) -> Iterator[bool]:
        """Yields whether this process is to compute a chunk; a process that dies loses its claim."""
        with locks.claim(self._folder(class_index) / f"{number:06d}.lock") as mine:
            yield mine and not self._path(class_index, number).is_file()

    def _folder(self, class_index: int) -> Path:
        return self.folder / f"{class_index:04d}"

    def _path(self, class_index: int, number: int) -> Path:
        return self._folder(class_index) / f"{number:06d}{SUFFIX}"
