"""A made set: brushed surfaces, most of them clean and some with a small mark of one of three kinds, with masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from diffaug.files import storage
from diffaug.runtime.seeding import numpy_generator

CLEAN, PIT, SCRATCH, STAIN = CLASSES = ("clean", "pit", "scratch", "stain")
TRAIN_COUNTS = {CLEAN: 200, PIT: 20, SCRATCH: 20, STAIN: 20}
TEST_COUNT = 300
SIDE = 32  # px
MARGIN = 4  # px, that the center of a mark keeps from the border
VISIBLE = 8.0  # gray levels; a pixel that a mark changes by less is not part of its mask

Plane = NDArray[np.float64]
Draw = Callable[[Plane, Plane, np.random.Generator], Plane]
"""The gray levels that a mark adds, (H, W), given the distances of each pixel from its center, down and across."""


@dataclass(frozen=True)
class Marked:
    """One image uint8 (H, W) and its mask, bool (H, W), which is empty for a clean one."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def marked_surface(label: str, split: str, number: int, *, side: int = SIDE, seed: int = 0) -> Marked:
    """Image `number` of a class and split; it depends on the arguments alone."""
    random = numpy_generator(seed, "marked surface", label, split, number)
    surface = _surface(side, random)
    if label == CLEAN:
        return Marked(_levels(surface), np.zeros((side, side), np.bool_))
    center = random.uniform(MARGIN, side - MARGIN, 2)
    down, across = np.indices((side, side)) - center[:, None, None]
    added = _MARKS[label](down, across, random)
    return Marked(_levels(surface + added), np.abs(added) >= VISIBLE)


def write_marks(
    root: Path,
    counts: Mapping[str, int] | None = None,
    *,
    test_count: int = TEST_COUNT,
    side: int = SIDE,
    seed: int = 0,
    masks: bool = True,
) -> Path:
    """Writes `train/CLASS/N.png`, `test/CLASS/N.png` and, for marks of train, `masks/CLASS/N.png`."""
    counts = TRAIN_COUNTS if counts is None else counts
    for split, label in ((split, label) for split in ("train", "test") for label in counts):
        for number in range(counts[label] if split == "train" else test_count):
            made = marked_surface(label, split, number, side=side, seed=seed)
            name = f"{label}-{split}-{number:04d}.png"
            storage.write_bytes(root / split / label / name, storage.png_bytes(made.pixels[..., None]))
            if masks and split == "train" and label != CLEAN:
                levels = np.where(made.mask, 255, 0).astype(np.uint8)[..., None]
                storage.write_bytes(root / "masks" / label / name, storage.png_bytes(levels))
    return root


def _surface(side: int, random: np.random.Generator) -> Plane:
    """Grain that is brushed across, uneven light, and a brightness of its own."""
    grain = gaussian_filter(random.standard_normal((side, side)), (0.6, 3.0))
    light = gaussian_filter(random.standard_normal((side, side)), side / 4)
    brightness = random.uniform(100, 150)
    return np.asarray(brightness + 10 * grain / grain.std() + 12 * light / light.std())


def _pit(down: Plane, across: Plane, random: np.random.Generator) -> Plane:
    """A dark spot with a bright edge below it."""
    radius = random.uniform(1.4, 2.2)
    spot = np.exp(-0.5 * (down**2 + across**2) / radius**2)
    edge = np.exp(-0.5 * ((down - 1.5 * radius) ** 2 + across**2) / radius**2)
    return np.asarray(random.uniform(48, 72) * (0.7 * edge - spot))


def _scratch(down: Plane, across: Plane, random: np.random.Generator) -> Plane:
    """A thin line in any direction, dark or bright."""
    angle, length = random.uniform(0.5, np.pi - 0.5), random.uniform(4, 7)
    along, beside = (
        down * np.sin(angle) + across * np.cos(angle),
        down * np.cos(angle) - across * np.sin(angle),
    )
    line = np.exp(-0.5 * beside**2 / 0.6**2) / (1 + np.exp(3 * (np.abs(along) - length)))
    return np.asarray(random.choice((-1, 1)) * random.uniform(35, 60) * line)


def _stain(down: Plane, across: Plane, random: np.random.Generator) -> Plane:
    """A soft dark patch that is longer in one direction."""
    angle, long, short = random.uniform(0, np.pi), random.uniform(3, 4.5), random.uniform(1.8, 2.6)
    along = down * np.sin(angle) + across * np.cos(angle)
    beside = down * np.cos(angle) - across * np.sin(angle)
    return np.asarray(-random.uniform(36, 54) * np.exp(-0.5 * ((along / long) ** 2 + (beside / short) ** 2)))


_MARKS: dict[str, Draw] = {PIT: _pit, SCRATCH: _scratch, STAIN: _stain}


def _levels(surface: Plane) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = np.rint(surface.clip(0, 255)).astype(np.uint8)
    return levels
