import dataclasses
import json
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import diffaug
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.files import read_record
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.process.process import Moments
from diffaug.diffusion.training.batches import Holdout, TrainingData
from diffaug.diffusion.training.monitor import CopyCheck, MemorizationMonitor
from diffaug.diffusion.training.training import TrainingState, snapshot
from diffaug.errors import Interrupted
from diffaug.similarity.intervals import Share
from diffaug.stages.fitting.monitoring import figures_of
from tests.conftest import SMALL

SETTINGS = SMALL | {"diffusion.images_seen": 1280, "diffusion.batch_size": 32, "advanced.checkpoint_seconds": 1000}
POINTS = (8, 24, 40)
pytestmark = pytest.mark.e2e


def write_noise(root, counts: dict[str, int], *, levels: int = 256, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, levels, (6, 6)) * (255 // (levels - 1))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Random images of two classes, 50 and 8, of which 40 and 6 are for training; checks may take all the time."""
    monkeypatch.setattr(defaults, "COPY_CHECK_FRACTION", 1.0)
    write_noise(tmp_path / "images", {"many": 50, "few": 8})
    return tmp_path / "images"


def see(monkeypatch, first: int = 10**9, few: int = 0) -> dict[int, dict[str, torch.Tensor]]:
    """Checks find copies from step `first` on, all else about them is real; gives the weights seen."""
    whole = MemorizationMonitor.check
    weights: dict[int, dict[str, torch.Tensor]] = {}

    def check(self: MemorizationMonitor, denoiser, step: int, *more: int) -> CopyCheck:
        copies = Share(30 if step >= first else 0, 32)
        seen = whole(self, denoiser, step, *more)
        weights.setdefault(step, snapshot(denoiser))
        return dataclasses.replace(seen, copies=copies, by_class=(Share(few, 32), copies))

    monkeypatch.setattr(MemorizationMonitor, "check", check)
    return weights


def fit(folder, study, **settings):
    return diffaug.DiffusionAugmenter(study=study, settings={**SETTINGS, **settings}, verbose=False).fit(folder)


def assert_equal_weights(augmenter, expected: dict[str, torch.Tensor]) -> None:
    weights = augmenter.generator_.denoiser.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in expected.items())


def facts_of(augmenter) -> dict[str, object]:
    return json.loads((augmenter.study.generator / "config.json").read_text())


def metrics_of(augmenter) -> pd.DataFrame:
    events = [json.loads(line)["data"] for line in augmenter.study.journal.read_text().splitlines()]
    rows = [{"step": data["step"], **data["metrics"]} for data in events if "copies" in data.get("metrics", {})]
    return pd.DataFrame(rows).set_index("step")


def test_a_training_without_copying_runs_to_its_end_and_says_what_was_held_out(tmp_path, folder, warned) -> None:
    augmenter = fit(folder, tmp_path / "study")
    facts = facts_of(augmenter)
    assert facts["train_counts"] == {"few": 6, "many": 38}
    assert facts["training"]["images seen"] == 1280
    assert facts["training"]["images held out"] == 2
    assert "training ended" not in facts["training"]
    assert "images held out: 2" in (augmenter.study.generator / "README.md").read_text()
    assert augmenter.class_counts_ == {"few": 6, "many": 40}
    metrics = metrics_of(augmenter)
    assert tuple(metrics.index // 32) == POINTS
    assert metrics["copies"].max() == 0
    assert metrics["loss_gap"].notna().all()
    assert metrics.filter(like="loss_gap/sigma").shape[1] == 8
    assert not [text for text in warned if "copies" in text]


def test_metrics_name_the_noise_levels_that_the_network_was_given() -> None:
    seen = set()

    def denoiser(x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor) -> Moments:
        seen.update(sigma.tolist())
        return Moments(x, torch.zeros_like(x))

    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), np.uint8)
    images = LabeledImages(pixels, np.zeros(30, np.int64), ("a",), tuple(map(str, range(30))))
    trained, held = images.select(np.arange(20)), images.select(np.arange(20, 30))
    holdout = Holdout(trained, held, np.arange(20))
    data = TrainingData.of(trained, "cpu")
    monitor = MemorizationMonitor.of(data, holdout, 8, 0, mirrored=False, noise_scale=2.5)
    figures = figures_of(monitor.check(denoiser, 1), ("a",), 2.5)
    named = [float(name.removeprefix("loss_gap/sigma ")) for name in figures if name.startswith("loss_gap/sigma")]
    assert len(named) == 8
    assert all(any(level == pytest.approx(one, rel=0.005) for one in seen) for level in named)


def test_copying_ends_the_training_with_the_weights_from_before(tmp_path, folder, monkeypatch, warned) -> None:
    seen = see(monkeypatch, first=24)
    augmenter = fit(folder, tmp_path / "study")
    assert_equal_weights(augmenter, seen[8])
    assert augmenter.generator_.guide is not None
    facts = facts_of(augmenter)["training"]
    assert facts["images seen"] == 32 * 8
    assert facts["training ended"] == f"because of copies, found after {32 * 24} images seen"
    assert tuple(metrics_of(augmenter).index) == (32 * 8, 32 * 24)
    [text] = [text for text in warned if "copies training images: after" in text]
    assert f"after {32 * 24} images seen, 30 of 32 samples (94%" in text
    assert "advanced.stop_on_copying=false" in text


def test_the_safe_weights_and_the_checks_survive_an_interruption(tmp_path, folder, monkeypatch) -> None:
    seen = see(monkeypatch, first=40)
    keep = TrainingState.keep_safe

    def keep_and_interrupt(self: TrainingState) -> None:
        keep(self)
        if self.step == 24:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(TrainingState, "keep_safe", keep_and_interrupt)
        fit(folder, tmp_path / "study")
    assert 40 not in seen
    resumed = fit(folder, tmp_path / "study")
    assert_equal_weights(resumed, seen[24])
    whole = fit(folder, tmp_path / "whole")
    checks = [metrics_of(augmenter).drop(columns="check_seconds") for augmenter in (resumed, whole)]
    assert tuple(checks[0].index // 32) == POINTS
    pd.testing.assert_frame_equal(*checks)


@pytest.mark.parametrize(
    ("stops", "seen", "text"),
    [(True, 32 * 8, "no earlier check was free of copies"), (False, 1280, "the training continues, as set")],
)
def test_copies_at_the_first_check_keep_its_weights(tmp_path, folder, monkeypatch, warned, stops, seen, text) -> None:
    see(monkeypatch, first=0)
    augmenter = fit(folder, tmp_path / "study", **{"advanced.stop_on_copying": stops})
    assert facts_of(augmenter)["training"]["images seen"] == seen
    assert len([warning for warning in warned if text in warning]) == 1


def test_a_copied_small_class_is_named_and_ends_nothing(tmp_path, folder, monkeypatch, warned) -> None:
    see(monkeypatch, few=20)
    augmenter = fit(folder, tmp_path / "study")
    facts = facts_of(augmenter)["training"]
    assert (facts["images seen"], facts["copied classes"]) == (1280, "few")
    assert augmenter.generator_.copied_classes == ("few",)
    assert read_record(augmenter.study.generator).copies == {"few": Share(20, 32), "many": Share(0, 32)}
    assert any(text.startswith("the generator copies training images of these classes: few;") for text in warned)


def test_a_training_that_is_not_checked_trains_on_everything(tmp_path, folder, monkeypatch) -> None:
    monkeypatch.setattr(defaults, "COPY_CHECK_FRACTION", 0.02)
    monkeypatch.delattr(MemorizationMonitor, "check")
    augmenter = fit(folder, tmp_path / "study")
    assert facts_of(augmenter)["train_counts"] == {"few": 6, "many": 40}
    assert '"copies"' not in augmenter.study.journal.read_text()


@pytest.mark.slow
def test_copies_end_the_training_of_two_processes(tmp_path) -> None:
    for split, count in {"train": 4, "test": 1}.items():
        write_noise(tmp_path / "images" / split, dict.fromkeys("abcd", count), levels=2, seed=count)
    diffusion = {"batch_size": 32, "dropout": 0, "learning_rate": 0.01, "images_seen": 32 * 1000}
    options = [part for key, value in diffusion.items() for part in ("--set", f"diffusion.{key}={value}")]
    options += ["--set", "advanced.base_channels=16"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "diffaug"]
    command = [*launch, "fit", str(tmp_path / "images"), "--study", str(tmp_path / "study"), "--no-mlflow", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the generator copies training images: after") == 1
    facts = json.loads((tmp_path / "study" / "generator" / "config.json").read_text())["training"]
    assert 0 < facts["images seen"] < 32 * 1000
    assert facts["training ended"].startswith("because of copies")
