from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffaug.configuration.settings import DataSettings
from diffaug.data import loading
from diffaug.data.catalog import build_catalog

SETTINGS = DataSettings()
MakeFolder = Callable[..., Path]


def test_damaged_files_do_not_decide_the_size(
    make_folder: MakeFolder, encoded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"cat": 5, "dog": 5}, size=(20, 20))
    large = encoded(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8))
    for number in range(15):
        (root / "cat" / f"cut{number}.png").write_bytes(large[:300])
    calls: list[Path] = []
    real = loading.decode
    monkeypatch.setattr(loading, "decode", lambda path: (calls.append(path), real(path))[1])
    catalog = build_catalog(root, SETTINGS, seed=0)
    assert catalog.image_size == (20, 20)
    assert catalog.pixels.shape == (10, 20, 20, 3)
    assert len(calls) == 50
    calls.clear()
    build_catalog(make_folder({"cat": 5, "dog": 5}, root="sound"), SETTINGS, seed=0)
    assert len(calls) == 10  # each once


def test_progress_counts_every_file(make_folder: MakeFolder) -> None:
    steps: list[tuple[int, int]] = []
    root = make_folder({"cat": 4, "dog": 4})
    build_catalog(root, SETTINGS, seed=0, progress=lambda *step: steps.append(step))
    assert steps == [(done, 8) for done in range(1, 9)]


def test_a_stop_drops_the_files_not_begun(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Path] = []
    real = loading.decode

    def slow(path: Path) -> Any:
        begun.append(path)
        time.sleep(0.002)
        return real(path)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "decode", slow)
    with pytest.raises(KeyboardInterrupt) as caught:  # whose traceback keeps the interrupted frames alive
        build_catalog(make_folder({"cat": 60, "dog": 60}), SETTINGS, seed=0, progress=stop)
    time.sleep(0.4)
    assert len(begun) < 60, caught
