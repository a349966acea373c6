"""A closed-form generator and a filters without training, so that pools can be checked candidate by candidate."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.process.normalization import Decoded, Normalization
from diffaug.diffusion.process.process import Moments
from diffaug.files import locks, storage
from diffaug.synthesis.filters.calibrated import FilterResult
from diffaug.synthesis.pool.chunks import ChunkStore
from diffaug.synthesis.pool.filling import class_merges, fill_pool
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.merging import write_pool

CLASSES = ("a", "b", "c/d")


class ClassLevelDenoiser(nn.Module):
    """A closed form: the images of class k are Gaussian around the grey level k / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.config = NetworkConfig((5, 6), 1, 3, 1, 8, (1,), 1, 0.0)
        self.anchor = nn.Parameter(torch.zeros(1))
        self.broken_below = -np.inf
        self.offset = 0.0

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
        mean = (labels.float() - 1 + self.offset)[:, None, None, None]
        gain = (0.01 / (0.01 + sigma**2))[:, None, None, None]
        denoised = mean + gain * (x - mean)
        broken = (x.mean((1, 2, 3)) / sigma < self.broken_below)[:, None, None, None]
        mean = torch.where(broken, torch.full_like(x, float("nan")), denoised)
        return Moments(mean, (gain * sigma[:, None, None, None] ** 2).expand_as(x))


class PixelFilters:
    """Rejects by the first pixel, and calls two images duplicates when they are about equally bright."""

    score_names = ("first_pixel",)
    image_ids = ("real/0.png", "real/1.png")
    fingerprint = "pixels"

    device = "cpu"

    def __call__(self, candidates: Decoded, class_index: int, *, painted=None) -> FilterResult:
        flat = candidates.pixels.reshape(len(candidates.pixels), -1)
        first = flat[:, 0].astype(np.float32)
        reasons = np.where(first % 4 == 1, "wrong class", "").astype(object)
        reasons[~candidates.finite] = "non-finite"
        nearest = (first > 128).astype(np.int64) if painted is None else painted.matches.nearest
        descriptors = (flat.sum(axis=1, keepdims=True) // 2).astype(np.float32)
        return FilterResult(tuple(reasons), {"first_pixel": first}, nearest, descriptors)

    def duplicates(self, descriptors: NDArray[np.float32], class_index: int, known: int = 0) -> NDArray[np.bool_]:
        values = descriptors[:, 0].tolist()
        return np.array([value in values[:turn] for turn, value in enumerate(values)], bool)


@pytest.fixture
def generator() -> PixelGenerator:
    return PixelGenerator(
        classes=CLASSES,
        weights_sha256="f" * 64,
        denoiser=ClassLevelDenoiser(),  # type: ignore[arg-type]
        normalization=Normalization((0.0,), (0.5,)),
    )


@pytest.fixture
def sources() -> LabeledImages:
    """Three real images of "a", five of "b" and none of "c/d"."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 5, 6, 1), dtype=np.uint8)
    ids = tuple(f"real/{number}.png" for number in range(8))
    return LabeledImages(pixels, np.array([0] * 3 + [1] * 5), CLASSES, ids)


@pytest.fixture
def settings() -> SynthesisSettings:
    return SynthesisSettings(num_inference_steps=3, variation_fraction=0.25, guidance_scale=(1.0, 2.0), max_attempts=8)


@pytest.fixture
def maker(generator, sources, settings) -> ChunkMaker:
    return ChunkMaker(generator, PixelFilters(), sources, settings, chunk_size=4, seed=7)


def complete(root: Path, maker: ChunkMaker, targets: Mapping[str, int]) -> Path:
    """Fills a pool beside all others that do the same in `root`; whoever is first commits it."""
    store, merges = ChunkStore(root / "chunks"), class_merges(maker, targets)
    for _ in fill_pool(store, maker, merges):
        pass
    pool, facts = root / "pool", {"classes": list(CLASSES), "image_size": [5, 6], "channels": 1, "targets": targets}
    with locks.waiting_lock(root / ".turn.lock"):
        if storage.committed_metadata(pool) != facts:
            with storage.new_directory(pool, facts) as staging:
                write_pool(staging, merges, store, classes=CLASSES, score_names=maker.filters.score_names)
    return pool


@pytest.fixture(name="complete")
def complete_fixture() -> Callable[..., Path]:
    return complete


@pytest.fixture
def digests() -> Callable[[Path], dict[str, str]]:
    """The function that gives sha256 by file."""
    return lambda folder: {
        path.relative_to(folder).as_posix(): storage.sha256_file(path) for path in folder.rglob("*") if path.is_file()
    }
