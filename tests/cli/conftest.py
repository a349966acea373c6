from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL = {
    "diffusion.images": 512,
    "diffusion.base_channels": 16,
    "diffusion.batch_size": 16,
    "synthesis.num_inference_steps": 4,
    "synthesis.chunk_size": 8,
    "synthesis.off_class_confidence": 1.0,
    "evaluation.seeds": 3,
    "evaluation.updates": 8,
    "tracking.mlflow": False,
}


def write_classes(root: Path, counts: dict[str, int], size: int = 8) -> Path:
    """Grey images whose brightness tells the class apart."""
    rng = np.random.default_rng(0)
    for position, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 60, (size, size)) + position * 60
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:03d}.png")
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "images", {"dark": 20, "middle": 12, "bright": 6})


@pytest.fixture
def small() -> dict[str, object]:
    return dict(SMALL)


@pytest.fixture
def set_options() -> list[str]:
    return [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture
def make_classes() -> Callable[..., Path]:
    return write_classes
