import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diffaug.cli import main


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands without --study write into the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def quick_options(set_options: list[str]) -> list[str]:
    """Settings of a job that ends in seconds: in one process, with a given synthetic fraction."""
    return [*set_options, "--set", "evaluation.workers=1", "--set", "evaluation.synthetic_fraction=0.3"]


@dataclass
class Job:
    """A finished job and what each of its commands printed with --json."""

    images: Path
    study: Path
    answers: dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory, make_classes: Callable[..., Path], quick_options: list[str]) -> Job:
    root = tmp_path_factory.mktemp("job")
    images = make_classes(root / "images", {"dark": 20, "middle": 12, "bright": 6})
    study, answers = str(root / "my study"), {}
    where = ["--study", study, "--quiet"]
    for command in (
        ["inspect", str(images), *where],
        ["plan", str(images), *where, *quick_options],
        ["fit", str(images), *where, *quick_options],
        ["generate", study, "--quiet"],
        ["evaluate", study, "--quiet"],
        ["report", study, "--quiet"],
    ):
        with redirect_stdout(io.StringIO()) as printed:
            main([*command, "--json"])
        answers[command[0]] = json.loads(printed.getvalue())
    return Job(images, root / "my study", answers)


@pytest.fixture
def study(job: Job, tmp_path: Path) -> Path:
    """A copy of the finished study, to be changed."""
    return Path(shutil.copytree(job.study, tmp_path / "copy"))


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs a command with --json; returns what it printed, which may be an error."""

    def run(*arguments: str) -> dict[str, Any]:
        with suppress(SystemExit):
            main([*arguments, "--json"])
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a command that ends with an error; returns its exit code and stderr."""

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return int(stop.value.code or 0), message

    return run
