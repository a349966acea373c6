"""Filling a pool: chunks of fixed membership, filtered, each written once, so a stopped run goes on where it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffaug import storage
from diffaug.diffusion.artifact import Generator
from diffaug.settings import SynthesisSettings
from diffaug.synthesis.filters import ClassScorer, Judgement, judge
from diffaug.synthesis.pool import MANIFEST, MANIFEST_COLUMNS

PARTS = ".parts"
IMAGES = "images"
SUMMARY = "summary.json"
ORIGIN_SAMPLED = "sampled"


@dataclass(frozen=True)
class ChunkRecord:
    """What became of one chunk.

    Attributes:
        label: Class name.
        accepted: Images kept.
        rejected: Reason to number of images.
        total_accepted: Images kept of all classes so far.
        total_wanted: Images wanted of all classes.
    """

    label: str
    accepted: int
    rejected: Mapping[str, int]
    total_accepted: int
    total_wanted: int


def fill_pool(
    folder: Path,
    generator: Generator,
    scorer: ClassScorer,
    *,
    targets: Mapping[str, int],
    settings: SynthesisSettings,
    seed: int,
) -> Iterator[ChunkRecord]:
    """Samples, filters and writes images until every class has what it should, yielding after every chunk.

    Chunk j of a class holds its samples j n to (j + 1) n - 1 whatever was accepted before, and is computed as
    one batch, so the pool does not depend on where an earlier run was stopped. A class is given up after
    `max_attempts` samples for each image wanted.

    Args:
        folder: The pool's folder; what an earlier run with the same settings left there is kept.
        generator: Samples the images.
        scorer: Classifies images, for the off-class filter.
        targets: Images to add to each class, by name.
        settings: Chunk size, guidance, steps and thresholds.
        seed: Seed of the pool.
    """
    names = storage.safe_names(list(generator.classes))
    wanted, total = sum(targets.values()), 0
    for label, target in targets.items():
        filled = 0
        for chunk in range(-(-target * settings.max_attempts // settings.chunk_size)):
            if filled >= target:
                break
            part = folder / PARTS / f"{generator.class_index(label):04d}-{chunk:06d}.json"
            if not part.is_file():
                draw = _Draw(generator, scorer, settings, seed, label, chunk)
                storage.write_json(part, draw.write(folder, names[label], target - filled))
            record = storage.read_json(part)
            filled += len(record["rows"])
            total += len(record["rows"])
            yield ChunkRecord(label, len(record["rows"]), record["rejected"], total, wanted)


def finish_pool(folder: Path, generator: Generator, targets: Mapping[str, int]) -> dict[str, Any]:
    """Joins the chunks' records into the manifest; committing the pool is the caller's part.

    Returns:
        The facts that `Pool.open` needs from the committed folder.
    """
    parts = [storage.read_json(path) for path in sorted((folder / PARTS).glob("*.json"))]
    rows = [row for part in parts for row in part["rows"]]
    storage.write_parquet(folder / MANIFEST, pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS)))
    storage.write_json(folder / SUMMARY, _summary(parts, targets))
    storage.discard_directory(folder / PARTS)
    height, width = generator.image_size
    return {"classes": list(generator.classes), "image_size": [height, width], "channels": generator.channels}


def _summary(parts: list[dict[str, Any]], targets: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """For each class: images wanted, accepted, and rejected by reason."""
    summary: dict[str, dict[str, Any]] = {}
    for label, target in targets.items():
        of_class = [part for part in parts if part["label"] == label]
        rejected: Counter[str] = Counter()
        for part in of_class:
            rejected.update(part["rejected"])
        accepted = sum(len(part["rows"]) for part in of_class)
        summary[label] = {"wanted": target, "accepted": accepted, "rejected": dict(rejected)}
    return summary


@dataclass(frozen=True)
class _Draw:
    """One chunk of one class."""

    generator: Generator
    scorer: ClassScorer
    settings: SynthesisSettings
    seed: int
    label: str
    chunk: int

    def write(self, folder: Path, class_folder: str, limit: int) -> dict[str, Any]:
        """Samples, judges and writes at most `limit` images; returns the chunk's record."""
        import torch

        size = self.settings.chunk_size
        indices = range(self.chunk * size, (self.chunk + 1) * size)
        class_index = self.generator.class_index(self.label)
        images = self.generator.sample_normalised(
            class_index,
            indices,
            seed=self.seed,
            solver=self.settings.solver,
            num_inference_steps=self.settings.num_inference_steps,
            guidance=self.settings.guidance,
            guidance_scale=self.settings.guidance_scale,
            guidance_interval=self.settings.guidance_interval,
        )
        pixels = self.generator.decode(images)
        finite = torch.isfinite(images).flatten(1).all(dim=1).cpu().numpy()
        judgement = judge(pixels, finite, class_index, self.scorer, self.settings.off_class_confidence)
        rows = []
        for position in judgement.accepted[:limit].tolist():
            content = storage.png_bytes(pixels[position])
            file = f"{IMAGES}/{class_folder}/{indices[position]:06d}.png"
            storage.write_bytes(storage.safe_join(folder, file), content)
            rows.append(self._row(file, content, indices[position], judgement, position))
        rejected = Counter(reason for reason in judgement.reasons if reason)
        return {"label": self.label, "rows": rows, "rejected": dict(rejected)}

    def _row(self, file: str, content: bytes, index: int, judgement: Judgement, position: int) -> dict[str, Any]:
        return {
            "file": file,
            "label": self.label,
            "class_index": self.generator.class_index(self.label),
            "origin": ORIGIN_SAMPLED,
            "seed": self.seed,
            "index": index,
            "guidance": self.settings.guidance,
            "guidance_scale": self.settings.guidance_scale,
            "solver": self.settings.solver,
            "num_inference_steps": self.settings.num_inference_steps,
            "generator_sha256": self.generator.weights_sha256,
            "own_class_probability": float(np.float32(judgement.own_class_probability[position])),
            "sha256": storage.sha256_bytes(content),
        }
