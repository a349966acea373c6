"""The command line in processes of its own: interrupted, killed, and under torchrun, held against one process."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import eventually

ALONE = (sys.executable, "-P", "-m", "diffaug")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "diffaug")
KILL = signal.SIGKILL
SETTINGS = {
    "advanced.base_channels": 16,
    "diffusion.batch_size": 17,
    "diffusion.dropout": 0,
    "synthesis.num_inference_steps": 2,
    "synthesis.max_synthetic_ratio": 0.5,
    "evaluation.num_seeds": 3,
    "evaluation.max_steps": 4,
}


def arguments(command: str, images: Path, study: Path, *more: str) -> list[str]:
    options = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    return [command, str(images), "--study", str(study), "--no-mlflow", *options, *more]


def finish(program: tuple[str, ...], *rest: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*program, *rest], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode != 0) == fails, done.stderr
    return done


def stop(program: tuple[str, ...], study: Path, number: int, *rest: str) -> tuple[int, str]:
    """Sends a signal to a training that has logged some steps; returns its exit code and stderr."""

    def may_end() -> bool:
        has_checkpoint = any(study.glob("generator/checkpoints/step-*"))
        return journal.is_file() and journal.read_text().count('"metrics"') >= 3 and (number != KILL or has_checkpoint)

    process = subprocess.Popen([*program, *rest], stderr=subprocess.PIPE, text=True)
    journal, deadline = study / "journal.jsonl", time.monotonic() + 120
    while not may_end():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, narration = process.communicate(timeout=60)
    return process.returncode, narration


def weights(study: Path) -> Path:
    return study / "generator" / "model.safetensors"


def assert_same_weights(study: Path, other: Path, tolerance: float) -> None:
    first, second = load_file(weights(study)), load_file(weights(other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_allclose(tensor, second[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_classes: Callable[..., Path]) -> Path:
    return make_classes(tmp_path_factory.mktemp("launch") / "images", {"dark": 20, "middle": 12, "bright": 6})


@pytest.fixture(scope="module")
def uninterrupted(images: Path) -> bytes:
    study = images.parent / "whole"
    finish(ALONE, *arguments("fit", images, study, "--images-seen", "1700"))
    return weights(study).read_bytes()


@pytest.mark.e2e
@pytest.mark.parametrize(("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (KILL, -KILL)])
def test_stopped_and_resumed_training_ends_in_the_same_bytes(tmp_path, images, uninterrupted, number, code) -> None:
    study = tmp_path / "stopped"
    often = ("--set", f"advanced.checkpoint_seconds={0.1 if number == KILL else 60}")
    options = arguments("fit", images, study, "--images-seen", "1700")
    found, narration = stop(ALONE, study, number, *options, *often)
    assert found == code
    assert list((study / "generator" / "checkpoints").glob("step-*"))
    if number == signal.SIGINT:
        assert "a checkpoint was saved" in narration
        assert f"diffaug fit {images} --study {study}" in narration
        assert "Traceback" not in narration
    done = finish(ALONE, *options, "--set", "advanced.checkpoint_seconds=60")
    assert "resuming at" in done.stderr
    assert weights(study).read_bytes() == uninterrupted


@pytest.mark.slow
def test_two_processes_write_the_study_of_one(tmp_path: Path, images: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    finish(ALONE, *arguments("fit", images, one, "--images-seen", "340"))
    done = finish(TORCHRUN, *arguments("fit", images, two, "--images-seen", "340", "--json"))
    assert json.loads(done.stdout)["status"] == "ok"  # reported once
    assert done.stderr.count("generator written") == 1
    assert "2 processes share each batch" in done.stderr
    assert {path.relative_to(one) for path in one.rglob("*")} == {path.relative_to(two) for path in two.rglob("*")}
    assert_same_weights(one, two, tolerance=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "program", "tolerance"),
    # Training amplifies rounding: over these 200 steps one process that cuts its batches in 2 to 4 parts moves weights
    # by up to .017. tests/diffusion/training/test_distributed.py holds shorter trainings against each other closely.
    [(signal.SIGINT, TORCHRUN, 0.0), (signal.SIGTERM, ALONE, 0.05)],
    ids=["SIGINT, resumed with two", "SIGTERM, resumed with one"],
)
def test_stopped_with_two_processes_and_resumed(tmp_path, images, number, program, tolerance) -> None:
    whole, study = tmp_path / "whole", tmp_path / "stopped"
    finish(TORCHRUN, *arguments("fit", images, whole, "--images-seen", "3400"))
    options = arguments("fit", images, study, "--images-seen", "3400")
    code, narration = stop(TORCHRUN, study, number, *options)
    assert code != 0
    assert narration.count("a checkpoint was saved") == 1
    assert "torchrun --nproc-per-node 2 -m diffaug fit" in narration
    done = finish(program, *options)
    assert "resuming at" in done.stderr
    assert_same_weights(whole, study, tolerance)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_processes_end_after_torchrun_was_killed_with_a_checkpoint(tmp_path, images) -> None:
    study = tmp_path / "orphaned"
    options = arguments("fit", images, study, "--images-seen", "34000000", "--set", "advanced.checkpoint_seconds=1")
    process = subprocess.Popen([*TORCHRUN, *options], stderr=subprocess.DEVNULL)
    assert eventually(lambda: any(study.glob("generator/checkpoints/step-*")), seconds=200)
    assert len(working_on(study)) >= 2
    process.kill()
    process.wait()
    assert eventually(lambda: not working_on(study), seconds=100)
    more = ("--finish", "--set", "advanced.checkpoint_seconds=60")
    assert "generator written" in finish(ALONE, *options, *more).stderr


def working_on(study: Path) -> list[str]:
    """The processes whose command names the study."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(study) in (process / "cmdline").read_text():
                found.append(process.name)
    return found


@pytest.mark.slow
def test_two_processes_run_the_whole_job_and_fill_the_pool_of_one(tmp_path: Path, images: Path) -> None:
    study = tmp_path / "two"
    options = arguments("run", images, study, "--minutes", "0.05", "--set", "evaluation.num_generators=2")
    done = finish(TORCHRUN, *options, "--json")
    assert "measured here" in done.stderr
    assert json.loads(done.stdout)["results"]["verdict"]
    assert (study / "report.html").is_file()
    assert (study / "replicates" / "1" / "pool" / "DONE.json").is_file()
    pool = {path.name: path.read_bytes() for path in (study / "pool").rglob("*.png")}
    shutil.rmtree(study / "pool")
    shutil.rmtree(study / "chunks")
    finish(ALONE, "generate", str(study))
    assert pool == {path.name: path.read_bytes() for path in (study / "pool").rglob("*.png")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "diffusion.batch_size=1", "--images-seen", "8"), "batch of 1 images can't be shared by 2 processes"),
        (("--set", "diffusion.no_such=1"), "unknown setting 'diffusion.no_such'"),
        (("--images-seen", "many"), "Invalid value for '--images-seen'"),
    ],
)
def test_a_refusal_is_reported_once_and_ends_all(tmp_path, images, more: tuple[str, ...], message: str) -> None:
    done = finish(TORCHRUN, *arguments("fit", images, tmp_path / "study", *more), fails=True)
    assert done.stderr.count(message) == 1
