"""Contact sheets: many images as one picture."""

import numpy as np
from numpy.typing import NDArray

from diffaug.diffusion.generator.generator import Generator

MIN_TILE = 48
GAP = 2
BACKGROUND = 128
MAX_ROWS = 16


def contact_sheet(pixels: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Lays out uint8 (N, H, W, C) in rows of `columns`; small images are enlarged by a whole factor."""
    count, height, width, channels = pixels.shape
    scale = max(1, -(-MIN_TILE // max(height, width)))
    tiles = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    cell_h, cell_w = height * scale + GAP, width * scale + GAP
    rows = -(-count // columns)
    sheet = np.full((rows * cell_h - GAP, columns * cell_w - GAP, channels), BACKGROUND, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * cell_h, number % columns * cell_w
        sheet[top : top + height * scale, left : left + width * scale] = tile
    return sheet


def sample_sheet(generator: Generator, *, columns: int, seed: int, num_inference_steps: int) -> NDArray[np.uint8]:
    """One row of samples per class, or per class of an even selection, always of the same noise."""
    count = len(generator.classes)
    shown = np.unique(np.linspace(0, count - 1, min(count, MAX_ROWS)).round().astype(int)).tolist()
    rows = [
        generator.sample(generator.classes[index], range(columns), seed=seed, num_inference_steps=num_inference_steps)
        for index in shown
    ]
    return contact_sheet(np.concatenate(rows), columns)
