"""The command line under torchrun, held against one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning.planning import make_plan, set_length
from diffaug.runtime.distributed import ALONE
from diffaug.stages.launch import Training, taking_part

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "diffaug")
ALONE_COMMAND = (sys.executable, "-P", "-m", "diffaug")
SETTINGS = {
    "diffusion.base_channels": 16,
    "diffusion.batch_size": 17,
    "diffusion.dropout": 0,
    "synthesis.num_inference_steps": 2,
    "synthesis.max_synthetic_ratio": 0.5,
    "evaluation.num_seeds": 3,
    "evaluation.max_steps": 4,
}


def arguments(command: str, images: Path, study: Path, *more: str) -> list[str]:
    options = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    return [command, str(images), "--study", str(study), "--no-track", *options, *more]


def finish(program: tuple[str, ...], *rest: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *rest], env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


def weights(study: Path) -> dict[str, np.ndarray]:
    return load_file(study / "generator" / "model.safetensors")


def assert_same_weights(study: Path, other: Path, tolerance: float) -> None:
    first, second = weights(study), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_allclose(tensor, second[name], rtol=0, atol=tolerance, err_msg=name)


def files(study: Path) -> list[str]:
    return sorted(path.relative_to(study).as_posix() for path in study.rglob("*") if path.is_file())


def test_a_training_arrives_at_the_others_as_it_was_sent() -> None:
    pixels = np.zeros((4, 6, 5, 1), dtype=np.uint8)
    images = LabeledImages(pixels, np.array([0, 1, 0, 1]), ("a", "b\udc80"), tuple("abcd"))
    settings = DiffusionSettings(images_seen=16, batch_size=4, base_channels=16, dropout=0.25)
    training = Training(images, set_length(make_plan(images, settings, "cpu"), settings, 4), settings, "cpu", seed=5)

    class Wire:
        def __init__(self) -> None:
            self.arrays = iter([images.pixels, images.labels])

        def share_array(self) -> np.ndarray:
            return next(self.arrays)

    received = Training.receive(Wire(), json.loads(json.dumps(training.to_dict())))  # type: ignore[arg-type]
    assert (received.plan, received.settings, received.device, received.seed) == (training.plan, settings, "cpu", 5)
    assert received.images.classes == images.classes
    assert received.images.pixels is images.pixels
    with taking_part("train", training) as workers:
        assert workers is ALONE


@pytest.mark.slow
def test_two_processes_write_the_study_of_one(tmp_path: Path, images: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert finish(ALONE_COMMAND, *arguments("fit", images, one, "--images", "340")).returncode == 0
    done = finish(TORCHRUN, *arguments("fit", images, two, "--images", "340", "--json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "ok"  # said once
    assert done.stderr.count("generator written") == 1
    assert "2 processes share each batch" in done.stderr
    assert files(one) == files(two)
    assert_same_weights(one, two, tolerance=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "program", "tolerance"),
    # Training amplifies rounding: over these 200 steps one process that cuts its batches in 2 to 4 parts moves weights
    # by up to .017. tests/diffusion/test_distributed.py holds shorter trainings against each other closely.
    [(signal.SIGINT, TORCHRUN, 0.0), (signal.SIGTERM, ALONE_COMMAND, 0.05)],
    ids=["SIGINT, resumed with two", "SIGTERM, resumed with one"],
)
def test_stopped_with_two_processes_and_resumed(tmp_path, images, number, program, tolerance) -> None:
    whole, study = tmp_path / "whole", tmp_path / "stopped"
    assert finish(TORCHRUN, *arguments("fit", images, whole, "--images", "3400")).returncode == 0
    options = arguments("fit", images, study, "--images", "3400")
    process = subprocess.Popen([*TORCHRUN, *options], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    journal, deadline = study / "journal.jsonl", time.monotonic() + 120
    while not journal.is_file() or journal.read_text().count('"metrics"') < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, narration = process.communicate(timeout=60)
    assert process.returncode != 0
    assert narration.count("a checkpoint was saved") == 1
    assert "torchrun --nproc-per-node 2 -m diffaug fit" in narration
    done = finish(program, *options)
    assert done.returncode == 0, done.stderr
    assert "resuming at" in done.stderr
    assert_same_weights(whole, study, tolerance)


@pytest.mark.slow
def test_run_measures_and_trains_together_and_does_the_rest_alone(tmp_path: Path, images: Path) -> None:
    study = tmp_path / "study"
    done = finish(TORCHRUN, *arguments("run", images, study, "--minutes", "0.05"))
    assert done.returncode == 0, done.stderr
    assert "measured here" in done.stderr
    assert (study / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "diffusion.batch_size=1", "--images", "8"), "a batch of 1 images can't be shared by 2 processes"),
        (("--set", "diffusion.no_such=1"), "unknown setting 'diffusion.no_such'"),
    ],
)
def test_a_refusal_is_said_once_and_lets_nobody_wait(tmp_path, images, more: tuple[str, ...], message: str) -> None:
    began = time.monotonic()
    done = finish(TORCHRUN, *arguments("fit", images, tmp_path / "study", *more))
    assert done.returncode != 0
    assert done.stderr.count(message) == 1
    assert time.monotonic() - began < 100
