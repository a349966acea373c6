"""The demo's images: scikit-learn's bundled digits, made long-tailed."""

from pathlib import Path

import numpy as np

from diffaug.files import storage
from diffaug.runtime import seeding


def write_long_tailed_digits(folder: Path) -> Path:
    """Writes 8 x 8 px digits as `train/<digit>/` and `test/<digit>/` PNG; files that are there already are kept.

    Training images fall geometrically from 100 of digit 0 to 5 of digit 9; all other images are the test set.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for digit in range(10):
        members = seeding.numpy_generator(0, "demo", digit).permutation(np.flatnonzero(digits.target == digit))
        train = round(100 * (5 / 100) ** (digit / 9))
        for position, index in enumerate(members.tolist()):
            split = "train" if position < train else "test"
            file = folder / split / str(digit) / f"{index:04d}.png"
            if not file.is_file():
                storage.write_bytes(file, storage.png_bytes(pixels[index]))
    return folder
