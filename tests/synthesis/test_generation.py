import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffaug import storage
from diffaug.diffusion.artifact import Generator
from diffaug.diffusion.normalization import Normalization
from diffaug.diffusion.process import Moments
from diffaug.diffusion.unet import NetworkConfig
from diffaug.settings import SynthesisSettings
from diffaug.synthesis.generation import fill_pool, finish_pool
from diffaug.synthesis.pool import MANIFEST_COLUMNS, Pool

SETTINGS = SynthesisSettings(chunk_size=4, num_inference_steps=12)
TARGETS = {"a": 0, "b": 6, "c/d": 3}


class ClassLevelDenoiser(nn.Module):
    """A closed form: the images of class k are Gaussian around the grey level k / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.config = NetworkConfig((5, 6), 1, 3, 1, 8, (1,), 1, 0.0)
        self.anchor = nn.Parameter(torch.zeros(1))
        self.broken_below = -np.inf

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
        mean = (labels.float() - 1)[:, None, None, None]
        gain = (0.01 / (0.01 + sigma**2))[:, None, None, None]
        denoised = mean + gain * (x - mean)
        broken = (x.mean((1, 2, 3)) / sigma < self.broken_below)[:, None, None, None]
        mean = torch.where(broken, torch.full_like(x, float("nan")), denoised)
        return Moments(mean, (gain * sigma[:, None, None, None] ** 2).expand_as(x))


def score(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Sure of the class whose grey level is nearest."""
    level = pixels.reshape(len(pixels), -1).mean(1) / 255 * 2
    return np.eye(3, dtype=np.float32)[np.clip(np.rint(level), 0, 2).astype(int)]


@pytest.fixture
def generator() -> Generator:
    return Generator(ClassLevelDenoiser(), Normalization((0.0,), (0.5,)), tuple(TARGETS), "f" * 64)  # type: ignore[arg-type]


def fill(folder: Path, generator: Generator, **changes: object) -> Iterator[object]:
    arguments = {"targets": TARGETS, "settings": SETTINGS, "seed": 7, **changes}
    yield from fill_pool(folder, generator, score, **arguments)  # type: ignore[arg-type]


def finished(folder: Path, generator: Generator, **changes: object) -> Pool:
    for _ in fill(folder, generator, **changes):
        pass
    targets = changes.get("targets", TARGETS)
    storage.commit_directory(folder, finish_pool(folder, generator, targets))  # type: ignore[arg-type]
    return Pool.open(folder)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_class_gets_what_it_should_and_the_manifest_says_where_from(tmp_path, generator) -> None:
    pool = finished(tmp_path / "pool", generator)
    manifest = pd.read_parquet(pool.root / "manifest.parquet")
    assert list(manifest.columns) == list(MANIFEST_COLUMNS)
    assert manifest["label"].value_counts().to_dict() == {"b": 6, "c/d": 3}
    assert manifest.loc[manifest["label"] == "b", "index"].tolist() == [0, 1, 2, 3, 4, 5]
    assert set(manifest["generator_sha256"]) == {"f" * 64}
    for row in manifest.itertuples():
        assert storage.sha256_file(pool.root / row.file) == row.sha256
        assert row.class_index == pool.class_to_idx[row.label]
    assert {path.suffix for path in (pool.root / "images").rglob("*.*")} == {".png"}
    images = pool.images()
    assert images.pixels.shape == (9, 5, 6, 1)
    assert abs(images.pixels[images.labels == 1].mean() - 127.5) < 12
    assert images.pixels[images.labels == 2].mean() > 230


def test_a_pool_stopped_anywhere_ends_the_same_byte_for_byte(tmp_path, generator, monkeypatch) -> None:
    expected = digests(finished(tmp_path / "whole", generator).root)
    real_write, writes = storage.write_bytes, 0
    for stop_at in range(1, 14):
        folder = tmp_path / f"stopped-{stop_at}"
        writes = 0

        def interrupted(path: Path, content: bytes, stop_at: int = stop_at) -> None:
            nonlocal writes
            writes += 1
            if writes == stop_at:
                raise KeyboardInterrupt
            real_write(path, content)

        monkeypatch.setattr(storage, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finished(folder, generator)
        monkeypatch.setattr(storage, "write_bytes", real_write)
        assert digests(finished(folder, generator).root) == expected


def test_a_resumed_pool_does_not_sample_again(tmp_path, generator, monkeypatch) -> None:
    steps = fill(tmp_path, generator)
    next(steps)
    sampled: list[int] = []
    original = Generator.sample_normalised
    monkeypatch.setattr(
        Generator,
        "sample_normalised",
        lambda self, label, indices, **rest: sampled.append(len(indices)) or original(self, label, indices, **rest),
    )
    records = list(fill(tmp_path, generator))
    assert len(records) == 3
    assert len(sampled) == 2


def test_off_class_and_non_finite_samples_are_rejected_counted_and_replaced(tmp_path, generator) -> None:
    generator.denoiser.broken_below = -0.15
    records = list(fill(tmp_path, generator, targets={"b": 9}))
    generator.denoiser.broken_below = -np.inf
    rejected = sum(record.rejected.get("non-finite", 0) for record in records)
    assert rejected > 0
    assert records[-1].total_accepted == 9

    def disagreeing(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.tile(np.float32([0, 0.01, 0.99]), (len(pixels), 1))

    records = list(fill_pool(tmp_path / "no", generator, disagreeing, targets={"b": 2}, settings=SETTINGS, seed=0))
    assert records[-1].total_accepted == 0
    assert sum(record.rejected["off-class"] for record in records) == 8


def test_attempts_are_bounded_and_the_shortfall_is_in_the_summary(tmp_path, generator) -> None:
    generator.denoiser.broken_below = np.inf
    records = list(fill(tmp_path, generator, targets={"b": 8}))
    assert len(records) == 8 * SETTINGS.max_attempts // SETTINGS.chunk_size
    facts = finish_pool(tmp_path, generator, {"b": 8})
    storage.commit_directory(tmp_path, facts)
    assert len(Pool.open(tmp_path)) == 0
    assert storage.read_json(tmp_path / "summary.json")["b"] == {
        "wanted": 8,
        "accepted": 0,
        "rejected": {"non-finite": 32},
    }
    assert Pool.open(tmp_path).images().pixels.shape == (0, 5, 6, 1)


def test_another_seed_makes_other_images(tmp_path, generator) -> None:
    first = finished(tmp_path / "a", generator)
    second = finished(tmp_path / "b", generator, seed=8)
    assert set(first.manifest["sha256"]).isdisjoint(second.manifest["sha256"])
