import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(images: Path, study: Path) -> list[str]:
    options = [
        "--images",
        "4800",
        "--no-track",
        "--set",
        "diffusion.base_channels=16",
        "--set",
        "diffusion.batch_size=16",
    ]
    return [sys.executable, "-P", "-m", "diffaug", "fit", str(images), "--study", str(study), *options]


def weights(study: Path) -> bytes:
    return (study / "generator" / "model.safetensors").read_bytes()


def wait_for_training(process: subprocess.Popen[str], study: Path) -> None:
    journal = study / "journal.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if journal.is_file() and journal.read_text().count('"metrics"') >= 12:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    raise AssertionError("training did not begin")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_classes: Callable[..., Path]) -> Path:
    return make_classes(tmp_path_factory.mktemp("interruption") / "images", {"dark": 20, "middle": 12, "bright": 6})


@pytest.fixture(scope="module")
def uninterrupted(images: Path) -> bytes:
    study = images.parent / "whole"
    subprocess.run(command(images, study), check=True, env=ENVIRONMENT, capture_output=True)
    return weights(study)


def test_interrupted_and_resumed_training_ends_in_the_same_bytes(tmp_path, images, uninterrupted) -> None:
    study = tmp_path / "stopped"
    process = subprocess.Popen(command(images, study), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    wait_for_training(process, study)
    process.send_signal(signal.SIGINT)
    _, narration = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "a checkpoint was saved" in narration
    assert f"diffaug fit {images} --study {study}" in narration
    assert "Traceback" not in narration
    assert list((study / "generator" / "checkpoints").glob("step-*"))
    done = subprocess.run(command(images, study), check=True, env=ENVIRONMENT, capture_output=True, text=True)
    assert "resuming at" in done.stderr
    assert weights(study) == uninterrupted


def test_killed_training_goes_on_from_its_last_checkpoint(tmp_path, images, uninterrupted) -> None:
    study = tmp_path / "killed"
    arguments = [*command(images, study), "--set", "diffusion.checkpoint_seconds=0.05"]
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.DEVNULL, text=True)
    wait_for_training(process, study)
    process.kill()
    process.wait()
    done = subprocess.run(arguments, check=True, env=ENVIRONMENT, capture_output=True, text=True)
    assert "resuming at" in done.stderr
    assert weights(study) == uninterrupted
