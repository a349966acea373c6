"""What all tests share: quiet libraries, one thread, and a small pool on disk."""

import io
import json
import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when it is imported; subprocesses inherit it

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from diffaug.data.images import LabeledImages
from diffaug.files import storage
from diffaug.files.records import write_record
from diffaug.synthesis.filters.power import POOL_POWER, UNKNOWN, FilterPower, PoolPower
from diffaug.synthesis.pool.merging import manifest_columns
from diffaug.synthesis.pool.pool import MANIFEST, POWER, Pool

# The default suite draws the same examples each time; `HYPOTHESIS_PROFILE=random pytest -m slow` looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as fast what is neither slow nor trains networks or starts processes."""
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("slow", "e2e")):
            item.add_marker("fast")


def eventually(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Whether the condition holds before that time is over."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def write_pool(
    root: Path, classes: Sequence[str], images: Sequence[tuple[int, NDArray[np.uint8]]], metadata: Any = None, **columns
) -> Pool:
    """Writes a finished pool of (class index, uint8 (H, W, C)) images of one shape, with other columns if given."""
    height, width, channels = images[0][1].shape
    facts = {"classes": list(classes), "image_size": [height, width], "channels": channels, **(metadata or {})}
    folders = storage.safe_names(list(classes))
    rows: list[dict[str, Any]] = []
    with storage.new_directory(root, facts) as staging:
        for number, (class_index, pixels) in enumerate(images):
            content = storage.png_bytes(pixels)
            file = f"{folders[classes[class_index]]}/{number:05d}.png"
            storage.write_bytes(staging / file, content)
            sha256 = storage.sha256_bytes(content)
            origin = ("sampled", "", "", "", 0.0, 0, number)
            how = ("classifier_free", 1.0, "dpm_solver_2m", 12, "0" * 64, "filters")
            values = (file, classes[class_index], class_index, *origin, *how, "real.png", sha256)
            rows.append(dict(zip(manifest_columns(()), values, strict=True)))
        storage.write_parquet(staging / MANIFEST, pd.DataFrame(rows, columns=manifest_columns(())).assign(**columns))
    return Pool.open(root)


def with_blind(pool: Pool, *names: str, unlearned: tuple[str, ...] = ()) -> Pool:
    """The pool, now with a record by which nothing shows that images of these classes belong to them."""
    reasons = {name: ("a reason",) if name in names else () for name in pool.classes}
    known = {name: FilterPower(UNKNOWN, None, UNKNOWN, UNKNOWN, blind=why) for name, why in reasons.items()}
    write_record(pool.root / POWER, POOL_POWER, PoolPower("made", known, unlearned))
    storage.commit_directory(pool.root, storage.recorded_metadata(pool.root))
    return Pool.open(pool.root)


@pytest.fixture(scope="session")
def make_pool() -> Callable[..., Pool]:
    return write_pool


@pytest.fixture(scope="session")
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """scikit-learn's digits: uint8 (1797, 8, 8, 1) and labels int64 (1797,)."""
    data = load_digits()
    return (data.images * 15).astype(np.uint8)[..., None], data.target.astype(np.int64)


@pytest.fixture(scope="session")
def digits_pool(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A pool of 8 px gray digits, class "3" having 3 images and so on; "0" has none."""
    pixels, labels = digits
    chosen = [(k, pixels[i]) for k in range(10) for i in np.flatnonzero(labels == k)[:k]]
    return write_pool(tmp_path_factory.mktemp("digits") / "pool", [str(k) for k in range(10)], chosen)


SMALL = {
    "diffusion.images_seen": 512,
    "advanced.base_channels": 16,
    "diffusion.batch_size": 16,
    "synthesis.num_inference_steps": 4,
    "advanced.chunk_size": 8,
    "synthesis.filters": ["constant"],
    "advanced.filter_max_steps": 3,
    "evaluation.num_seeds": 3,
    "evaluation.max_steps": 8,
    "encoder": "none",
    "tracking.mlflow": False,
}


def write_classes(root: Path, counts: dict[str, int], size: int = 8) -> Path:
    """Gray images whose brightness depends on the class."""
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


@pytest.fixture(scope="session")
def small() -> dict[str, object]:
    """Settings of a job that ends in seconds; not to be changed."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def small_environment() -> dict[str, str]:
    """The same settings as environment variables, in one process."""
    settings = {**SMALL, "evaluation.workers": 1}
    return {f"DIFFAUG_{key.upper().replace('.', '__')}": json.dumps(value) for key, value in settings.items()}


@pytest.fixture(scope="session")
def set_options() -> list[str]:
    return [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="session")
def make_classes() -> Callable[..., Path]:
    return write_classes


@pytest.fixture
def make_images():
    """Noise images whose brightness grows with the class."""

    def make(counts, *, size=8, channels=1, seed=0, prefix="image"):
        random = np.random.default_rng(seed)
        labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
        noise = random.integers(0, 60, (len(labels), size, size, channels))
        pixels = (noise + 60 * labels[:, None, None, None]).astype(np.uint8)
        classes = tuple(f"class {i}" for i in range(len(counts)))
        return LabeledImages(pixels, labels, classes, tuple(f"{prefix} {i}" for i in range(len(labels))))

    return make


@pytest.fixture
def encoded():
    """encode(pixels or Pillow image, format, **options) -> bytes."""

    def encode(image, file_format="PNG", **options) -> bytes:
        buffer = io.BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, file_format, **options)
        return buffer.getvalue()

    return encode
