"""Chunks: samples of one class that are computed and judged together, each kept as one file.

Chunk j of a class holds its samples j n to (j + 1) n - 1. What is in it depends on seed, class and j alone, so any
process may compute it, and all of it is in one file that is there as a whole or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.sampling.sampling import SamplingOptions
from diffaug.errors import DamagedError
from diffaug.files import locks, storage
from diffaug.synthesis.filters.protocol import SAMPLED, VARIATION, Candidates, Judge
from diffaug.synthesis.pool.origins import ChunkPlan, plan_chunk

REASON, PNG, DESCRIPTOR = "reason", "png", "descriptor"
SUFFIX, SHA256_BYTES = ".chunk", 32


@dataclass(frozen=True)
class ChunkMaker:
    """Computes chunks.

    Attributes:
        generator: Samples the images.
        judge: Filters them.
        sources: The real images that variations begin from, of the generator's size and classes.
        settings: Chunk size, origins, guidance and steps.
        seed: Seed of the pool.
    """

    generator: Generator
    judge: Judge
    sources: LabeledImages
    settings: SynthesisSettings
    seed: int

    def make(self, class_index: int, number: int) -> pd.DataFrame:
        """Samples and judges a chunk.

        Returns:
            One row a candidate, in order of index: the columns of the manifest but for `file`, and `reason` (empty
            where it passed), `png` (bytes) and `descriptor` (bytes of float32).
        """
        sources = self._positions[class_index]
        plan = plan_chunk(
            self.settings, seed=self.seed, class_index=class_index, number=number, num_sources=len(sources)
        )
        varied = sources[list(plan.sources)]
        pixels = self._pixels(class_index, plan, varied)
        # The generator returns an image with a non-finite value all zero; one that is black by itself is constant.
        finite = np.asarray(pixels.reshape(len(pixels), -1).max(axis=1) > 0)
        judgement = self.judge(Candidates(pixels, finite, class_index))
        contents = [storage.png_bytes(image) for image in pixels]
        columns = {
            **self._provenance(class_index, plan, varied),
            **{name: judgement.scores[name].astype(np.float32) for name in self.judge.score_names},
            "nearest": [self.judge.image_ids[position] for position in judgement.nearest],
            "sha256": [storage.sha256_bytes(content) for content in contents],
            REASON: list(judgement.reasons),
            PNG: contents,
            DESCRIPTOR: [row.tobytes() for row in judgement.descriptors.astype(np.float32)],
        }
        return pd.DataFrame(columns)

    @cached_property
    def _positions(self) -> list[NDArray[np.intp]]:
        return [np.flatnonzero(self.sources.labels == index) for index in range(len(self.generator.classes))]

    def _pixels(self, class_index: int, plan: ChunkPlan, varied: NDArray[np.intp]) -> NDArray[np.uint8]:
        options: SamplingOptions = {
            "solver": self.settings.solver,
            "num_inference_steps": self.settings.num_inference_steps,
            "guidance": self.settings.guidance_method,
            "guidance_scale": plan.guidance_scale,
            "guidance_interval": self.settings.guidance_interval,
        }
        parts = []
        if plan.sampled:
            parts.append(self.generator.sample(class_index, plan.sampled, seed=self.seed, **options))
        if plan.varied:
            images = np.asarray(self.sources.pixels[varied])
            parts.append(
                self.generator.variations(
                    images, class_index, plan.varied, strength=plan.strength, seed=self.seed, **options
                )
            )
        return np.concatenate(parts)

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
            "guidance": self.settings.guidance_method,
            "guidance_scale": float(plan.guidance_scale),
            "solver": self.settings.solver,
            "num_inference_steps": self.settings.num_inference_steps,
            "generator_sha256": self.generator.weights_sha256,
            "judge": self.judge.fingerprint,
        }


@dataclass(frozen=True)
class ChunkStore:
    """The finished chunks of one seed, data, generator and settings, on disk.

    Attributes:
        folder: Where they are; several processes may use it at once.
    """

    folder: Path

    def finished(self, class_index: int) -> set[int]:
        """Numbers of a class's finished chunks."""
        return {int(path.stem) for path in self._folder(class_index).glob(f"*{SUFFIX}") if path.stem.isdecimal()}

    def write(self, class_index: int, number: int, chunk: pd.DataFrame) -> None:
        """Keeps a chunk, led by its sha256, in Arrow's format; it is there as a whole or not at all."""
        table, sink = pa.Table.from_pandas(chunk, preserve_index=False), pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
        content = sink.getvalue().to_pybytes()
        storage.write_bytes(self._path(class_index, number), hashlib.sha256(content).digest() + content)

    def read(self, class_index: int, number: int, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A finished chunk as `ChunkMaker.make` made it.

        Raises:
            DamagedError: The file was changed since, or is of another format.
        """
        path = self._path(class_index, number)
        stored = path.read_bytes()
        sha256, content = stored[:SHA256_BYTES], stored[SHA256_BYTES:]
        fix = "remove it: it is made again"
        if hashlib.sha256(content).digest() != sha256:
            raise DamagedError("a chunk of the pool was changed after it was written", where=path, fix=fix)
        try:
            table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
        except pa.ArrowInvalid:
            what = "a chunk of the pool is of a format that this version of diffaug does not read"
            fix = f"remove {self.folder}: all chunks in it are made again"
            raise DamagedError(what, where=path, fix=fix) from None
        chunk: pd.DataFrame = (table if columns is None else table.select(columns)).to_pandas()
        return chunk

    @contextmanager
    def claim(self, class_index: int, number: int) -> Iterator[bool]:
        """Yields whether this process is to compute a chunk: it is not finished, and nobody else is at it.

        A process that dies loses its claim. Fails on a file system without locks, where shards need no claims.
        """
        with locks.claim(self._folder(class_index) / f"{number:06d}.lock") as mine:
            yield mine and not self._path(class_index, number).is_file()

    def _folder(self, class_index: int) -> Path:
        return self.folder / f"{class_index:04d}"

    def _path(self, class_index: int, number: int) -> Path:
        return self._folder(class_index) / f"{number:06d}{SUFFIX}"
