"""Chooses how samples of the base are enlarged: such that they look most like real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.encoders.by_name import encoder_by_name, typical_side
from diffaug.classifiers.patch_features import patch_features
from diffaug.configuration.sampling import Sampling
from diffaug.data.images import LabeledImages
from diffaug.diffusion.cascade.files import UpscalerRecord
from diffaug.diffusion.cascade.generator import CascadeGenerator
from diffaug.diffusion.cascade.planning import LEAST_STEPS
from diffaug.diffusion.cascade.upscaler import PLAIN, Level
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.stages.fitting.judged import in_turn_by_class
from diffaug.stages.job import Job
from diffaug.synthesis.audit.quality import kernel_distance

LEVELS: tuple[Level, ...] = (PLAIN, 0.0, 0.02, 0.05, 0.1)
"""What is tried, the simplest first; a normalized image has a deviation of 0.5."""
USUAL_LEVEL: Level = 0.0
"""The level where too few images are held out to choose one. By hand."""
LEAST_IMAGES, MOST_IMAGES, PARTS = 20, 40, 8
PURPOSE = "view level"
AS_PILOT = "as the pilot chose on images that it has not seen"

Features = NDArray[np.floating[Any]]


def trusted_level(pilot: UpscalerRecord | None, steps: int, measure: Callable[[], Level | None]) -> tuple[Level, str]:
    """How images are enlarged after so many steps, and why: with drawn detail only where that was seen to help.

    A level that the pilot chose holds if its upscaler was trained no longer. Else held-out images choose, see
    `choose_view_level`; without any, only an upscaler that was trained for long is trusted.
    """
    if pilot is not None and pilot.level != PLAIN and pilot.steps <= steps:
        return pilot.level, AS_PILOT
    level = measure()
    if level is not None:
        return level, "with which enlarged samples look most like images held out"
    if pilot is not None and pilot.level == PLAIN:
        return PLAIN, AS_PILOT
    if pilot is not None or steps < LEAST_STEPS:
        return PLAIN, "since the upscaler was trained too briefly to be trusted untested"
    return USUAL_LEVEL, "the usual one, since too few images are held out to choose it"


def choose_view_level(job: Job, generator: CascadeGenerator, held: LabeledImages) -> Level | None:
    """The level at which enlarged samples of the base are nearest to images that neither network has seen (KID).

    Of more than 40 images so many count, nearly the same number of each class. As many are drawn of each class. At all
    levels the same small samples get the same noise. None if there are too few images to tell.
    """
    if len(held) < LEAST_IMAGES:
        return None
    seed, config = job.config.seed, job.config.synthesis
    real = held.select(in_turn_by_class(held.labels, seed)[:MOST_IMAGES])
    counts = real.class_counts
    sampling = Sampling(solver=config.solver, num_inference_steps=config.num_inference_steps)
    drawings = [Drawing(index, range(count), sampling, seed) for index, count in enumerate(counts) if count]
    small = [generator.base.draw(drawing).pixels for drawing in drawings]
    tasks = [replace(drawing, purpose=PURPOSE) for drawing in drawings]
    made: dict[Level, Features] = {}
    for level in LEVELS:
        upscaler = replace(generator.upscaler, level=level)
        parts = [upscaler.enlarge(*one).pixels for one in zip(small, tasks, strict=True)]
        made[level] = _features(job, real.pixels, np.concatenate(parts))
    return nearest_level(_features(job, real.pixels, real.pixels), made)


def nearest_level(real: Features, made: Mapping[Level, Features]) -> Level:
    """The first level whose distance exceeds the least one by no more than a standard error.

    Features are float (N, D) and, per level, the simplest first, (M, D). The error is that of the difference, by
    leaving out eighths of both sets (jackknife).
    """
    distances = {level: _distances(real, features) for level, features in made.items()}
    best = min(distances, key=lambda level: float(distances[level][0]))
    for level, own in distances.items():
        whole, *left_out = own - distances[best]
        error = np.sqrt((PARTS - 1) * np.var(left_out))
        if whole <= error:
            return level
    return best


def _distances(real: Features, made: Features) -> NDArray[np.float64]:
    """KID of all images, and without each eighth, (1 + PARTS,)."""
    distances = []
    for part in range(-1, PARTS):
        pair = [one[np.arange(len(one)) % PARTS != part].astype(np.float64) for one in (real, made)]
        distances.append(kernel_distance(*pair))
    return np.array(distances)


def _features(job: Job, real: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> Features:
    encoder = encoder_by_name(job.config.encoder, job.device, image_side=typical_side(real))
    return patch_features(pixels, job.config.seed, real) if encoder is None else encoder.features(pixels)
