import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import diffaug
from diffaug.diffusion.training.monitor import Look, Watch
from diffaug.diffusion.training.training import TrainingState, snapshot
from diffaug.errors import Interrupted
from diffaug.runtime.console import SilentNarrator
from diffaug.similarity.ratios import Share

WATCHED = {
    "diffusion.images_seen": 1280,
    "diffusion.base_channels": 16,
    "diffusion.batch_size": 32,
    "diffusion.copy_check_fraction": 1.0,
    "diffusion.checkpoint_seconds": 1000,
    "synthesis.num_inference_steps": 2,
    "tracking.mlflow": False,
}
POINTS = (8, 24, 40)
LEARNT_BY_HEART = {
    "diffusion.base_channels": 16,
    "diffusion.batch_size": 32,
    "diffusion.dropout": 0,
    "diffusion.label_dropout": 0,
    "diffusion.learning_rate": 0.01,
    "diffusion.copy_check_fraction": 1.0,
}


@pytest.fixture
def folder(tmp_path):
    """Random images of two classes, 50 and 8, of which 40 and 6 are for training."""
    rng = np.random.default_rng(0)
    for name, count in {"many": 50, "few": 8}.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (6, 6), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def warned(monkeypatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(SilentNarrator, "warn", lambda self, text: texts.append(text))
    return texts


@pytest.fixture
def see(monkeypatch):
    """see(first=10): looks find copies from step 10 on, all else about them is real; gives the weights seen."""
    whole = Watch.look
    weights: dict[int, dict[str, torch.Tensor]] = {}

    def change(first: int = 10**9, few: int = 0) -> dict[int, dict[str, torch.Tensor]]:
        def look(self: Watch, denoiser, step: int) -> Look:
            copies = Share(30 if step >= first else 0, 32)
            seen = whole(self, denoiser, step)
            weights.setdefault(step, snapshot(denoiser))
            return dataclasses.replace(seen, copies=copies, by_class=(Share(few, 32), copies))

        monkeypatch.setattr(Watch, "look", look)
        return weights

    return change


def fit(folder, study, **settings):
    return diffaug.DiffusionAugmenter(study=study, settings={**WATCHED, **settings}, verbose=False).fit(folder)


def facts_of(augmenter) -> dict[str, object]:
    return json.loads((augmenter.study.generator / "config.json").read_text())


def metrics_of(augmenter) -> pd.DataFrame:
    events = [json.loads(line)["data"] for line in augmenter.study.journal.read_text().splitlines()]
    rows = [{"step": data["step"], **data["metrics"]} for data in events if "copy_share" in data.get("metrics", {})]
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
    assert metrics["copy_share"].max() == 0
    assert metrics["loss_gap"].notna().all()
    assert metrics.filter(like="loss_gap/sigma").shape[1] == 8
    assert not [text for text in warned if "copying" in text or "copies" in text]


def assert_equal_weights(augmenter, expected: dict[str, torch.Tensor]) -> None:
    weights = augmenter.generator_.denoiser.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in expected.items())


def test_copying_ends_the_training_with_the_weights_from_before(tmp_path, folder, see, warned) -> None:
    seen = see(first=24)
    augmenter = fit(folder, tmp_path / "study")
    assert_equal_weights(augmenter, seen[8])
    assert augmenter.generator_.guide is not None
    facts = facts_of(augmenter)["training"]
    assert facts["images seen"] == 32 * 8
    assert facts["training ended"] == f"when copying set in, found after {32 * 24} images seen"
    assert tuple(metrics_of(augmenter).index) == (32 * 8, 32 * 24)
    [text] = [text for text in warned if "copying has set in" in text]
    assert f"after {32 * 24} images seen, 30 of 32 samples (94%" in text
    assert "diffusion.stop_on_copying=false" in text


def test_the_safe_weights_survive_an_interruption(tmp_path, folder, see, monkeypatch) -> None:
    seen = see(first=40)
    keep = TrainingState.keep_safe

    def keep_and_interrupt(self: TrainingState) -> None:
        keep(self)
        if self.step == 24:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(TrainingState, "keep_safe", keep_and_interrupt)
        fit(folder, tmp_path / "study")
    assert 40 not in seen
    assert_equal_weights(fit(folder, tmp_path / "study"), seen[24])
    assert 40 in seen


def test_copying_at_the_first_look_keeps_the_weights_of_that_look(tmp_path, folder, see, warned) -> None:
    see(first=0)
    augmenter = fit(folder, tmp_path / "study")
    assert facts_of(augmenter)["training"]["images seen"] == metrics_of(augmenter).index[0]
    assert any("no earlier look was free of copies" in text for text in warned)


def test_with_stopping_off_copying_is_only_said_once(tmp_path, folder, see, warned) -> None:
    see(first=0)
    augmenter = fit(folder, tmp_path / "study", **{"diffusion.stop_on_copying": False})
    assert facts_of(augmenter)["training"]["images seen"] == 1280
    assert len([text for text in warned if "the training goes on, as set" in text]) == 1


def test_a_copied_small_class_is_named_and_ends_nothing(tmp_path, folder, see, warned) -> None:
    see(few=20)
    augmenter = fit(folder, tmp_path / "study")
    facts = facts_of(augmenter)["training"]
    assert (facts["images seen"], facts["copied classes"]) == (1280, "few")
    assert any(text.startswith("the generator copies training images of: few;") for text in warned)


def test_a_training_too_short_to_copy_or_not_watched_trains_on_everything(tmp_path, folder, monkeypatch) -> None:
    monkeypatch.delattr(Watch, "look")
    for share in (0.0, 0.02):
        augmenter = fit(folder, tmp_path / str(share), **{"diffusion.copy_check_fraction": share})
        assert facts_of(augmenter)["train_counts"] == {"few": 6, "many": 40}
        assert "copy_share" not in augmenter.study.journal.read_text()


@pytest.mark.slow
def test_images_learnt_by_heart_end_the_training_of_two_processes(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for split, count in {"train": 4, "test": 1}.items():
        for name in "abcd":
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = ((rng.random((6, 6)) < 0.5) * 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{number}.png")
    settings = LEARNT_BY_HEART | {"diffusion.images_seen": 32 * 240}
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "diffaug"]
    command = [*launch, "fit", str(tmp_path / "images"), "--study", str(tmp_path / "study"), "--no-track", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("copying has set in: after") == 1
    facts = json.loads((tmp_path / "study" / "generator" / "config.json").read_text())["training"]
    assert 0 < facts["images seen"] < 32 * 240
    assert facts["training ended"].startswith("when copying set in")
