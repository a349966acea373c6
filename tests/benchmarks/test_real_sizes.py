from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import real_sizes
from numpy.typing import NDArray

from diffaug.configuration.settings import Config
from diffaug.data.images import LabeledImages
from diffaug.diffusion.cascade.generator import CascadeGenerator
from diffaug.stages.fitting.routes.cascade import CascadeRoute

SIDE = 72


def images(per_class: int, seed: int) -> LabeledImages:
    """Stripes of two directions."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(2), per_class)
    waves = np.sin(np.arange(SIDE) / 2)[:, None] * np.ones((SIDE, SIDE))
    pixels = np.stack([128 + 90 * (waves if label else waves.T) for label in labels])[..., None]
    noisy: NDArray[Any] = pixels + rng.normal(0, 8, pixels.shape)
    return LabeledImages(noisy.clip(0, 255).astype(np.uint8), labels, ("a", "b"), tuple(map(str, range(len(labels)))))


@pytest.mark.slow
def test_enlarged_images_are_compared_with_the_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_sizes, "encoder_by_name", lambda name: None)
    train, test = images(6, 0), images(4, 1)
    job: Any = SimpleNamespace(config=Config(advanced={"base_channels": 16}), device="cpu")  # type: ignore[arg-type]
    route = CascadeRoute()
    generator = route.untrained(job, train, route.plan(job, train))
    assert isinstance(generator, CascadeGenerator)
    small = generator.reduction.reduced(test.pixels)
    shown = {
        "real": test.pixels,
        "bicubic": real_sizes.bicubic(generator, small),
        "cascade": real_sizes.enlarged(generator, small, test.labels),
    }
    assert all(pixels.shape == test.pixels.shape and pixels.dtype == np.uint8 for pixels in shown.values())
    assert np.abs(shown["bicubic"].astype(float) - test.pixels).mean() < 20
    rows = list(real_sizes.compared("stripes", shown, train, test, SimpleNamespace(quick=True)))
    assert [row["images"] for row in rows] == ["real", "bicubic", "cascade"]
    assert rows[2]["over_bicubic"] == pytest.approx(rows[2]["kid"] / rows[1]["kid"])
    assert all(0 <= row["balanced_accuracy"] <= 1 for row in rows)


def test_parts_without_their_set_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = real_sizes.parse(["--parts", "quality", "cascade", "gain", "--work", str(tmp_path)])
    assert [real_sizes.PARTS[name](arguments) for name in arguments.parts] == [({}, [])] * 3
